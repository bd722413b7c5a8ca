"""How many steps a prompt needs, predicted from its words.

The idea is Step Saver's (Yu & Barad, arXiv 2408.02054). Ours is a small head over the prompt's MiniLM embedding that
tells quantiles of the steps, so that what is planned suffices for a chosen share of images; `offsets` correct each
quantile by what held-out images needed (conformalised quantile regression, Romano et al., arXiv 1905.03222).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError
from dynflow.learning.heads import DESCRIPTION, HeadType, damaged, outdated, read_tensors, write_head
from dynflow.models.encoder import DIMENSIONS, Encoder
from dynflow.nodes.adaptive_diffusion.deciders import Decider, Decision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
KIND = "steps"
FEATURES = "minilm"
HEADS = HeadType(
    node="adaptive_diffusion",
    shipped=Path(__file__).parent / "artefacts",
    names=(),
    command="dynflow train steps",
    told={"model": str, "quantiles": list, "offsets": list, "counts": list},
)
WHOLE = 1.0
"""The quantile that no count suffices for: all steps are planned."""
HASHES = "hashes"


@dataclass(frozen=True, slots=True)
class Contract:
    """A promise: that an image reaches `at_least` this `metric` to the same seed's image of `steps` steps, for this
    `share` of new prompts; and what keeps it, as calibrated: a quantile of the predictor, a threshold of `converge`
    (None: without), the longer steps that what it stops is finished in (0: in none)."""

    metric: str
    steps: int
    at_least: float
    share: float
    quantile: float
    threshold: float | None = None
    finish: int = 0
    rests_on: Mapping[str, Any] = field(default_factory=dict)
    """What was calibrated on: `n` prompts, `confidence`, `bound`, `steps` in the mean, `made`."""

    def __str__(self) -> str:
        finished = f", finished in {self.finish} steps" if self.finish else ""
        return f"{self.metric} to {self.steps} steps at least {self.at_least:g} for {self.share:g}{finished}"


@dataclass(frozen=True)
class Facts:
    """What `head.json` says of a predictor: for which model, the quantiles that it tells (0…1, rising) with their
    offsets (in doublings of steps), and the step counts that it was trained on (rising)."""

    folder: Path
    sha256: str
    model: str
    quantiles: tuple[float, ...]
    offsets: tuple[float, ...]
    counts: tuple[int, ...]
    contracts: tuple[Contract, ...] = ()
    """Promises that it was calibrated for."""
    model_sha256: str | None = None
    """Of the model that it was trained for, as recordings have it; None: unknown."""

    def contract(self, wanted: Mapping[str, Any], finish: int) -> Contract:
        """The contract that the option `quality` asks for, where `converge` finishes in so many steps.

        Raises ValueError where it was not calibrated.
        """
        asked = asked_for(wanted, finish)
        for each in self.contracts:
            if str(each) == str(asked):
                return each
        others = f": it was for {'; '.join(map(str, self.contracts))}" if self.contracts else ""
        raise ValueError(f"the predictor in {self.folder} was not calibrated for {asked}{others}")

    def place(self, quantile: float | None) -> int:
        """Where the quantile stands. Raises ValueError where it is none of those that are told, or not given."""
        told = ", ".join(map(str, self.quantiles))
        if quantile is None:
            raise ValueError(f"`predict` needs a `quantile`, one of {told}; only a calibrated `quality` sets it itself")
        if quantile not in self.quantiles:
            raise ValueError(f"the predictor tells the quantiles {told}, not {quantile}")
        return self.quantiles.index(quantile)


def asked_for(quality: Mapping[str, Any], finish: int) -> Contract:
    """What the option `quality` promises, with nothing yet that keeps it. Raises ValueError for what nothing can."""
    from dynflow.nodes.adaptive_diffusion.recordings import METRICS

    if quality["at_least"] > (most := METRICS[quality["metric"]]):
        raise ValueError(f"no image has {quality['metric']} ≥ {quality['at_least']:g}: {most:g} is that of equal ones")
    told = (quality["metric"], steps_of(quality["to"]), quality["at_least"], quality["for"])
    return Contract(*told, quantile=WHOLE, finish=finish)


def steps_of(text: str) -> int:
    """The number in "50 steps". Raises ValueError for another text."""
    number, _, unit = text.partition(" ")
    if unit != "steps" or not number.isdigit() or int(number) < 1:
        raise ValueError(f"{text!r} is no number of steps: write `50 steps`")
    return int(number)


def describe(name_or_path: str) -> Facts:
    """A predictor's facts; cheap. Raises ArtefactError where there is none, or it is damaged."""
    folder, told = HEADS.find(name_or_path)
    if (told["format"], told["kind"], told["features"]) != (FORMAT, KIND, FEATURES):
        raise outdated(folder)
    try:
        quantiles, offsets = tuple(map(float, told["quantiles"])), tuple(map(float, told["offsets"]))
        counts = tuple(map(int, told["counts"]))
        contracts = tuple(Contract(**each) for each in told.get("contracts", ()))
    except (TypeError, ValueError) as error:
        raise damaged(folder / DESCRIPTION, error) from error
    rising = quantiles == tuple(sorted(set(quantiles))) and counts == tuple(sorted(set(counts)))
    if not rising or not quantiles or not counts or len(offsets) != len(quantiles) or counts[0] < 1:
        raise damaged(folder / DESCRIPTION, "quantiles, offsets and counts do not fit")
    if any(each.quantile not in (*quantiles, WHOLE) for each in contracts):
        raise damaged(folder / DESCRIPTION, "a contract rests on a quantile that is not told")
    digest = told.get("training", {}).get("sha256")
    return Facts(folder, told["sha256"], told["model"], quantiles, offsets, counts, contracts, digest)


def save(
    folder: Path,
    tensors: Mapping[str, NDArray[Any]],
    *,
    model: str,
    quantiles: Sequence[float],
    offsets: Sequence[float],
    counts: Sequence[int],
    card: str,
    training: Mapping[str, Any],
    contracts: Sequence[Contract] = (),
) -> None:
    """Write a predictor. `tensors`: `weight1` [hidden, 384] and `bias1`, `weight2` [quantiles, hidden] and `bias2`;
    where it was trained on prompts, also their `hashes` (`prompt_hash`), uint64."""
    facts = {
        "format": FORMAT,
        "kind": KIND,
        "features": FEATURES,
        "node": HEADS.node,
        "model": model,
        "quantiles": list(quantiles),
        "offsets": list(offsets),
        "counts": list(counts),
        "contracts": [asdict(each) for each in contracts],
        "training": dict(training),
    }
    write_head(folder, tensors, facts, card)


def add_contract(facts: Facts, contract: Contract) -> None:
    """Keep a promise that was calibrated with the predictor, in the place of one of the same words."""
    path = facts.folder / DESCRIPTION
    told = json.loads(path.read_text(encoding="utf-8"))
    others = [each for each in facts.contracts if str(each) != str(contract)]
    told["contracts"] = [asdict(each) for each in (*others, contract)]
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def prompt_hash(prompt: str) -> int:
    """64 bits that tell a prompt again, whatever its white space and case, and a caption of shapes in any wording."""
    from dynflow.nodes.adaptive_diffusion.shapes.captions import OutsideWorld, parse

    words = " ".join(prompt.casefold().split())
    with suppress(OutsideWorld):
        words = parse(words).text()
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")


class Predictor:
    """A trained predictor; cheap to make, loads on first use."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._tensors: dict[str, Any] | None = None
        self._known: Sequence[int] = ()

    def warm_up(self) -> None:
        """Load head and encoder. Raises ArtefactError or MissingDependency."""
        self._loaded()
        Encoder.shared().warm_up()

    def _loaded(self) -> dict[str, Any]:
        if self._tensors is None:
            facts = self.facts
            tensors = read_tensors(facts.folder, facts.sha256)
            self._known = tensors.pop(HASHES, ())
            hidden = tensors["weight1"].shape[0] if "weight1" in tensors else 0
            wanted = {
                "weight1": (hidden, DIMENSIONS),
                "bias1": (hidden,),
                "weight2": (len(facts.quantiles), hidden),
                "bias2": (len(facts.quantiles),),
            }
            if {name: each.shape for name, each in tensors.items()} != wanted:
                raise ArtefactError(f"{facts.folder} does not fit its {DESCRIPTION}: restore it, or train again")
            self._tensors = tensors
        return self._tensors

    def counts(self, prompts: Sequence[str], quantiles: Sequence[float]) -> list[list[int | None]]:
        """For each quantile and prompt the steps that suffice for this share of its images, rounded up to a count that
        was tried; None: more than any. Raises ValueError for a quantile that is not told."""
        known = self.facts.counts
        if set(quantiles) == {WHOLE}:
            return [[None] * len(prompts) for _ in quantiles]
        doublings = corrected(forward(self._loaded(), Encoder.shared().embed(prompts)), self.facts.offsets)

        def rounded_up(quantile: float) -> list[int | None]:
            if quantile == WHOLE:
                return [None] * len(prompts)
            needed = 2.0 ** doublings[:, self.facts.place(quantile)]
            return [next((count for count in known if count >= each - 1e-6), None) for each in needed]

        return [rounded_up(quantile) for quantile in quantiles]

    def steps(self, prompt: str, quantile: float) -> int | None:
        """`counts` of one quantile and prompt."""
        return self.counts([prompt], [quantile])[0][0]

    def trained_on(self, prompt: str) -> bool:
        """Whether the prompt is among those that it learnt from, or that its offsets rest on."""
        return prompt_hash(prompt) in self._hashes

    @cached_property
    def _hashes(self) -> frozenset[int]:
        self._loaded()
        return frozenset(map(int, self._known))


def forward(head: Mapping[str, Any], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The head on embeddings [n, 384]: [n, quantiles], which do not cross."""
    import numpy as np

    inner = np.maximum(embeddings @ head["weight1"].T + head["bias1"], 0.0)
    return np.asarray(np.maximum.accumulate(inner @ head["weight2"].T + head["bias2"], axis=1))


def corrected(told: NDArray[np.float32], offsets: Sequence[float]) -> NDArray[np.float64]:
    """Quantiles [n, quantiles] with their offsets. Where these would let two cross, the lower one's is taken for both:
    what is planned for more images never falls, and covers no fewer."""
    import numpy as np

    return np.asarray(np.maximum.accumulate(told.astype(float) + np.asarray(offsets), axis=1))


@dataclass(frozen=True, slots=True)
class Predict(Decider):
    """Plan the steps that suffice for a share of images with prompts like this one."""

    predictor: Predictor
    quantile: float

    def decide(self, prompt: str, steps: int) -> Decision:
        needed = self.predictor.steps(prompt, self.quantile)
        return Decision(steps if needed is None else min(steps, needed))
