"""How many steps a prompt needs, predicted from its words.

The idea is Step Saver's (Yu & Barad, arXiv 2408.02054). Ours is a small head over the prompt's MiniLM embedding that
tells quantiles of the steps, so that what is planned suffices for a chosen share of images; `offsets` correct each
quantile by what held-out images needed (conformalised quantile regression, Romano et al., arXiv 1905.03222).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class Contract:
    """A promise: that an image reaches `at_least` this `metric` to the same seed's image of `steps` steps, for this
    `share` of new prompts; and what keeps it, as calibrated: a quantile of the predictor, a threshold of `converge`
    (None: without)."""

    metric: str
    steps: int
    at_least: float
    share: float
    quantile: float
    threshold: float | None = None

    def __str__(self) -> str:
        return f"{self.metric} to {self.steps} steps at least {self.at_least:g} for {self.share:g}"


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

    def contract(self, wanted: Mapping[str, Any]) -> Contract:
        """The contract that the option `quality` asks for. Raises ValueError where it was not calibrated."""
        asked = Contract(wanted["metric"], steps_of(wanted["to"]), wanted["at_least"], wanted["for"], 0.0)
        for each in self.contracts:
            if str(each) == str(asked):
                return each
        others = f": it was for {'; '.join(map(str, self.contracts))}" if self.contracts else ""
        raise ValueError(f"the predictor in {self.folder} was not calibrated for {asked}{others}")

    def place(self, quantile: float) -> int:
        """Where the quantile stands. Raises ValueError where it is none of those that are told."""
        if quantile not in self.quantiles:
            raise ValueError(f"the predictor tells the quantiles {', '.join(map(str, self.quantiles))}, not {quantile}")
        return self.quantiles.index(quantile)


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
    if any(each.quantile not in quantiles for each in contracts):
        raise damaged(folder / DESCRIPTION, "a contract rests on a quantile that is not told")
    return Facts(folder, told["sha256"], told["model"], quantiles, offsets, counts, contracts)


def save(
    folder: Path,
    tensors: Mapping[str, NDArray[np.float32]],
    *,
    model: str,
    quantiles: Sequence[float],
    offsets: Sequence[float],
    counts: Sequence[int],
    card: str,
    training: Mapping[str, Any],
    contracts: Sequence[Contract] = (),
) -> None:
    """Write a predictor. `tensors`: `weight1` [hidden, 384] and `bias1`, `weight2` [quantiles, hidden] and `bias2`."""
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


class Predictor:
    """A trained predictor; cheap to make, loads on first use."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._tensors: dict[str, Any] | None = None

    def warm_up(self) -> None:
        """Load head and encoder. Raises ArtefactError or MissingDependency."""
        self._loaded()
        Encoder.shared().warm_up()

    def _loaded(self) -> dict[str, Any]:
        if self._tensors is None:
            facts = self.facts
            tensors = read_tensors(facts.folder, facts.sha256)
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

    def steps(self, prompt: str, quantile: float) -> int | None:
        """Steps that suffice for this share of images, rounded up to a count that was tried; None: more than any."""
        import numpy as np

        head = self._loaded()
        embedding = Encoder.shared().embed([prompt])[0]
        inner = np.maximum(head["weight1"] @ embedding + head["bias1"], 0.0)
        doublings = np.maximum.accumulate(head["weight2"] @ inner + head["bias2"])  # quantiles do not cross
        place = self.facts.place(quantile)
        needed = 2.0 ** (float(doublings[place]) + self.facts.offsets[place])
        return next((count for count in self.facts.counts if count >= needed - 1e-6), None)


@dataclass(frozen=True, slots=True)
class Predict(Decider):
    """Plan the steps that suffice for a share of images with prompts like this one."""

    predictor: Predictor
    quantile: float

    def decide(self, prompt: str, steps: int) -> Decision:
        needed = self.predictor.steps(prompt, self.quantile)
        return Decision(steps if needed is None else min(steps, needed))
