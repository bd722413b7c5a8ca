"""Recipe: how a model is trained. Everything that decides what comes out, besides data and encoder."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynflow.errors import InputError

Method = Literal["joint", "two-stage", "alternating"]
METHODS: tuple[str, ...] = get_args(Method)
Weighting = Literal["equal", "early", "late"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


@dataclass(frozen=True)
class Recipe:
    """How to train.

    `method`: `joint` trains all exits and the encoder together; `two-stage` the encoder with its last exit, then the
    other exits alone (DeeBERT, arXiv 2004.12993); `alternating` takes turns, one step for the last exit and one for all
    (BERxiT, EACL 2021). `alone_epochs` come first, for encoder and last exit alone, whose logits are then what the
    exits imitate; without them, they imitate the last exit as it is at that step. `epochs` are of the method itself.
    `distil` 0…1: the share of that in the loss, the labels' being the rest, at `temperature`. `weighting`: how exits
    count against each other: `early` and `late` fall and rise with depth. `exits`: after which layers, None for all, 0
    being the embeddings. `balanced`: classes count alike, however many rows they have.

    `rank` is that of the changes to the encoder's weights as they are kept, 0 for whole ones. `held_out`: rows to judge
    by, None for a tenth. Rates are the optimiser's (AdamW) at their highest: a twentieth of the steps rises to it, and
    the rest falls to nothing.
    """

    method: Method = "joint"
    alone_epochs: int = 1
    epochs: int = 2
    distil: float = 0.5
    temperature: float = 2.0
    weighting: Weighting = "equal"
    exits: tuple[int, ...] | None = None
    pooling: Literal["mean", "first"] = "mean"
    inner: int = 0
    shared: bool = False
    balanced: bool = False
    batch_rows: int = 64
    rate: float = 1e-4
    heads_rate: float = 1e-3
    decay: float = 0.01
    max_tokens: int = 128
    rank: int = 64
    held_out: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for what makes no sense."""
        endless = [name for name, value in vars(self).items() if isinstance(value, float) and not math.isfinite(value)]
        faults = [
            (bool(endless), f"{' and '.join(endless)} must be finite"),
            (self.method not in METHODS, f"method is one of {', '.join(METHODS)}"),
            (self.weighting not in WEIGHTINGS, f"weighting is one of {', '.join(WEIGHTINGS)}"),
            (self.epochs < 1 or self.alone_epochs < 0, "there is at least one epoch"),
            (self.method == "two-stage" and not self.alone_epochs, "two-stage needs an epoch for the encoder alone"),
            (not 0 <= self.distil <= 1, "distil is from 0 to 1"),
            (self.temperature <= 0 or self.rate <= 0 or self.heads_rate <= 0, "temperature and rates are above 0"),
            (self.batch_rows < 1 or self.max_tokens < 3, "a batch has at least one row, of at least 3 tokens"),
            (self.rank < 0 or self.decay < 0, "rank and decay are 0 or more"),
        ]
        if wrong := [said for fails, said in faults if fails]:
            raise InputError(f"this recipe cannot be trained by: {'; '.join(wrong)}")

    def weights(self, exits: int) -> list[float]:
        """How much each of so many exits counts; 1 on average."""
        places = {
            "equal": [1.0] * exits,
            "early": [float(exits - place) for place in range(exits)],
            "late": [float(place + 1) for place in range(exits)],
        }[self.weighting]
        return [place * exits / sum(places) for place in places]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)
