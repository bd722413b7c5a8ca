"""A trained difficulty classifier on disk, and what it says of a text.

An artefact is a folder: `head.safetensors` (the numbers), `head.json` (what they are, and their checksum) and
`README.md` (the model card).
"""

from __future__ import annotations

import functools
import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError
from dynflow.learning.heads import TENSORS, HeadType, damaged, outdated, read_tensors, write_head
from dynflow.models.apart import apart
from dynflow.nodes.difficulty_classifier.estimators import KINDS, SHIPPED, STRONG, WEAK, Estimator
from dynflow.nodes.difficulty_classifier.features import normalise
from dynflow.nodes.difficulty_classifier.over_encoder import over, seen_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dynflow.nodes.difficulty_classifier.estimator import Array, Tensors

FORMAT = 2
FOLDER = Path(__file__).parent / "artefacts"
HEADS = HeadType(
    "difficulty_classifier", FOLDER, SHIPPED, "dynflow train difficulty", {"settings": list, "routes": list}
)
HARD_FROM = 0.5
_FITTED = "estimator."


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one text.

    `score` 0…1: the share of the reference traffic whose predicted gain is lower, so that a threshold reads as the
    expected cheap share; `label`: `hard` from 0.5; `quality`: P(good answer) by route; `confidence` 0…1: how far the
    score is from the divide, 0 on it.
    """

    score: float
    label: str
    quality: dict[str, float]
    confidence: float


@dataclass(frozen=True)
class Head:
    """The numbers of an artefact.

    `fitted` is what the estimator has learnt; `quantiles` [q] of the predicted gain on the reference traffic;
    `calibration` [k, 2, c] per route: raw predictions, and the P(good) that each stands for; `hashes` uint64 [rows] of
    the training texts.
    """

    fitted: Tensors
    quantiles: Array
    calibration: Array
    hashes: NDArray[np.uint64]

    def tensors(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if name != "fitted"}
        return own | {f"{_FITTED}{name}": value for name, value in self.fitted.items()}


@dataclass(frozen=True)
class Described:
    """What `head.json` says of an artefact: `routes` are the names of a quality's columns, `digest` is the SHA-256 of
    its numbers."""

    kind: type[Estimator]
    settings: tuple[float, ...]
    routes: tuple[str, ...]
    digest: str


class Predictor:
    """A difficulty classifier ready to use. Loads its numbers on first use; safe to share between threads."""

    def __init__(self, folder: Path, described: Described) -> None:
        self.folder = folder
        self.kind = described.kind
        self.routes = described.routes
        self.digest = described.digest
        """SHA-256 of its numbers."""
        self._settings = described.settings
        self._lock = threading.Lock()
        self._loaded: tuple[Estimator, Head] | None = None

    def warm_up(self) -> None:
        """Load all that is needed now. Raises ArtefactError or MissingDependency."""
        apart(lambda: self.predict(["warm up"]))

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """One prediction per text, in order; each text is judged alone. Raises as `warm_up`."""
        estimator, head = self._load()
        if not texts:
            return []
        import numpy as np

        try:
            raw = estimator.predict(texts)
            scores = score(raw, head.quantiles)
            quality = calibrated(raw, head.calibration)
        except (KeyError, ValueError, IndexError) as error:
            raise ArtefactError(f"{self.folder} does not fit its kind ({error!r}): train it again") from error
        if not (np.isfinite(scores).all() and np.isfinite(quality).all()):
            raise ArtefactError(f"{self.folder} predicts no finite numbers: train it again")
        return [
            Prediction(
                score=float(value),
                label="hard" if value >= HARD_FROM else "easy",
                quality=dict(zip(self.routes, map(float, good), strict=True)),
                confidence=abs(2 * float(value) - 1),
            )
            for value, good in zip(scores, quality, strict=True)
        ]

    def trained_on(self, text: str) -> bool:
        """Whether this text was among those that it was trained on."""
        return row_hash(text) in self._hashes

    def training_hashes(self) -> frozenset[int]:
        """`row_hash` of every text that it was trained on."""
        return self._hashes

    @functools.cached_property
    def _hashes(self) -> frozenset[int]:
        return frozenset(self._load()[1].hashes.tolist())

    def _load(self) -> tuple[Estimator, Head]:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    head = _read_head(self.folder, self.digest)
                    self._loaded = self.kind(self._settings, head.fitted), head
        return self._loaded


def load(name_or_path: str) -> Predictor:
    """The predictor of a shipped artefact (`embedding`, `surface`) or of an artefact's folder. Cheap: reads JSON only.

    Raises ArtefactError for what is neither, or is damaged.
    """
    folder, facts = HEADS.find(name_or_path)
    kind, settings, routes = _kind(folder, facts), tuple(facts["settings"]), tuple(facts["routes"])
    if facts["format"] != FORMAT or kind is None or len(routes) < 2:
        raise outdated(folder)
    if facts["features"] != feature_digest(kind):
        if kind.encoder is None:
            raise outdated(folder)
        raise ArtefactError(
            f"{folder} was trained over another encoder than that of {kind.encoder} is now: restore that, or train "
            "again"
        )
    return Predictor(folder, Described(kind, settings, routes, facts["sha256"]))


def _kind(folder: Path, facts: dict[str, Any]) -> type[Estimator] | None:
    """The kind of an artefact; None where this version has none such."""
    encoder = facts.get("encoder")
    if not isinstance(encoder, str):
        return KINDS.get(facts["kind"])
    try:
        return over(encoder, folder)
    except ArtefactError as error:
        raise ArtefactError(f"{folder} reads with the encoder of an early-exit model: {error}") from error


def save(
    folder: Path, estimator: Estimator, routes: Sequence[str], head: Head, facts: dict[str, Any], card: str
) -> None:
    """Write an artefact; the same content gives the same bytes. `facts` are kept in `head.json`."""
    own = {
        "node": HEADS.node,
        "format": FORMAT,
        "kind": estimator.kind,
        "features": feature_digest(type(estimator)),
        "settings": estimator.settings,
        "routes": list(routes),
        **({"encoder": seen_from(folder, estimator.encoder)} if estimator.encoder is not None else {}),
    }
    write_head(folder, head.tensors(), {**own, **facts}, card)


def score(raw: Array, quantiles: Array) -> Array:
    """Percentile 0…1 of the predicted gain, strong less weak, among the reference's quantiles."""
    import numpy as np

    return np.interp(raw[:, STRONG] - raw[:, WEAK], quantiles, np.linspace(0, 1, len(quantiles)))


def calibrated(raw: Array, calibration: Array) -> Array:
    """P(good) per route, [n, k], from raw predicted qualities."""
    import numpy as np

    columns = [np.interp(column, *knots) for column, knots in zip(raw.T, calibration, strict=True)]
    return np.stack(columns, axis=1)


def row_hash(text: str) -> int:
    """64 bits that tell a training text again, whatever its padding, white space or case."""
    return int.from_bytes(hashlib.sha256(normalise(text).casefold().encode()).digest()[:8], "big")


def feature_digest(kind: type[Estimator]) -> str:
    """Tells whether an artefact was made for the features of this version."""
    return hashlib.sha256(kind.features_of().encode()).hexdigest()[:16]


def _read_head(folder: Path, digest: str) -> Head:
    tensors = read_tensors(folder, digest)
    try:
        fitted = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_FITTED)}
        return Head({name.removeprefix(_FITTED): value for name, value in fitted.items()}, **tensors)
    except TypeError as error:
        raise damaged(folder / TENSORS, error) from error
