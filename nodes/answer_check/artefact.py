"""A trained answer check on disk, and what it says of answers.

An artefact is a folder: `head.safetensors` (the numbers), `head.json` (what they are, and their checksum) and
`README.md` (the model card).
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError
from dynflow.learning.heads import TENSORS, HeadType, damaged, outdated, read_tensors, write_head
from dynflow.models.apart import apart
from dynflow.nodes.answer_check.checks import CHECKS
from dynflow.nodes.answer_check.estimator import EVIDENCE, KINDS, Head, SurfaceEstimator
from dynflow.nodes.answer_check.features import NAMES
from dynflow.nodes.answer_check.reading import plain, read
from dynflow.nodes.answer_check.verdict import Case, Verdict, evidence, judge_by, without_estimator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dynflow.nodes.answer_check.estimator import Array

FORMAT = 1
SHIPPED = Path(__file__).parent / "artefacts"
RULES = "rules"
"""The estimator that was never trained: the checks alone."""
HEADS = HeadType("answer_check", SHIPPED, tuple(KINDS), "dynflow train check", {"numbers_only": bool}, (RULES,))


@dataclass(frozen=True)
class Trained:
    """The numbers of an artefact: the fitted `head`; `quantiles` [q] of the promised gain on the reference's answers;
    `calibration` [2, 2], slope and offset of the logistic per route (Platt 1999); `hashes` uint64 of the questions."""

    head: Head
    quantiles: Array
    calibration: Array
    hashes: NDArray[np.uint64]

    def tensors(self) -> dict[str, Any]:
        """All arrays by name."""
        return {**vars(self.head), **{name: value for name, value in vars(self).items() if name != "head"}}


class Rules:
    """Judges by the checks alone: needs no model and no training."""

    digest = "checks: " + ", ".join(CHECKS)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict per answer, in order."""
        return [without_estimator(case) for case in cases]

    def trained_on(self, question: str) -> bool:
        """Nothing was."""
        return False

    def warm_up(self) -> None:
        """Nothing to load."""


class Judge:
    """A trained answer check ready to use. Loads its numbers on first use; safe to share between threads."""

    def __init__(self, folder: Path, kind: str, digest: str, numbers_only: bool) -> None:
        self.folder = folder
        self.kind = kind
        self.digest = digest
        """SHA-256 of its numbers."""
        self.numbers_only = numbers_only
        """Whether it was trained on answers to questions with numbers: others are judged by the checks alone."""
        self._lock = threading.Lock()
        self._loaded: tuple[SurfaceEstimator, Trained] | None = None

    def warm_up(self) -> None:
        """Load all that is needed now. Raises ArtefactError or MissingDependency."""
        apart(lambda: self.judge([Case("What is 1 + 1?", "2", ())]))

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict per answer, in order; each is judged alone. Raises as `warm_up`."""
        within = [not self.numbers_only or read(case.question, case.answer).reckons for case in cases]
        verdicts = iter(self._judge([case for case, known in zip(cases, within, strict=True) if known]))
        return [next(verdicts) if known else without_estimator(case) for case, known in zip(cases, within, strict=True)]

    def _judge(self, cases: Sequence[Case]) -> list[Verdict]:
        if not cases:
            return []
        import numpy as np

        estimator, trained = self._load()
        brought = np.array([evidence(case) for case in cases], dtype=np.float32)
        features = estimator.features([case.question for case in cases], [case.answer for case in cases], brought)
        quality = calibrated(estimator.predict_features(features), trained.calibration)
        if not np.isfinite(quality).all():
            raise ArtefactError(f"{self.folder} predicts no finite numbers: train it again")
        return [
            judge_by(case, float(weak), float(strong), estimator.weighs, lambda gain: score(gain, trained.quantiles))
            for case, (weak, strong) in zip(cases, quality, strict=True)
        ]

    def trained_on(self, question: str) -> bool:
        """Whether an answer to this question was among those that it was trained on."""
        return row_hash(question) in self._hashes

    @functools.cached_property
    def _hashes(self) -> frozenset[int]:
        return frozenset(self._load()[1].hashes.tolist())

    def _load(self) -> tuple[SurfaceEstimator, Trained]:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    trained = _read(self.folder, self.digest)
                    estimator = KINDS[self.kind](trained.head)
                    if trained.head.weights.shape != (estimator.size, 2):
                        raise ArtefactError(f"{self.folder} was made for other features: train it again")
                    self._loaded = estimator, trained
        return self._loaded


def load(name_or_path: str) -> Judge | Rules:
    """A shipped artefact (`embedding`, `surface`), the `rules`, or an artefact's folder. Cheap: reads JSON only.

    Raises ArtefactError for what is neither, or is damaged.
    """
    if name_or_path == RULES:
        return Rules()
    folder, facts = HEADS.find(name_or_path)
    kind = facts["kind"]
    if facts["format"] != FORMAT or kind not in KINDS or facts["features"] != feature_digest():
        raise outdated(folder)
    return Judge(folder, kind, facts["sha256"], facts["numbers_only"])


def save(folder: Path, kind: str, trained: Trained, facts: dict[str, Any], card: str) -> None:
    """Write an artefact; the same content gives the same bytes. `facts` are kept in `head.json`."""
    own = {"node": HEADS.node, "format": FORMAT, "kind": kind, "features": feature_digest()}
    write_head(folder, trained.tensors(), {**own, **facts}, card)


def calibrated(raw: Array, calibration: Array) -> Array:
    """P(good) per route, [n, 2], from raw predicted qualities."""
    import numpy as np

    probability: Array = 1 / (1 + np.exp(-(raw * calibration[:, 0] + calibration[:, 1])))
    return probability


def score(gain: float, quantiles: Array) -> float:
    """Percentile 0…1 of a promised gain, strong less weak, among the reference's quantiles."""
    import numpy as np

    return float(np.interp(gain, quantiles, np.linspace(0, 1, len(quantiles))))


def row_hash(question: str) -> int:
    """64 bits that tell a training question again, whatever its white space or case."""
    words = " ".join(plain(question).casefold().split())
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")


def feature_digest() -> str:
    """Tells whether an artefact was made for the features of this version."""
    return hashlib.sha256("\n".join((*NAMES, *EVIDENCE)).encode()).hexdigest()[:16]


def _read(folder: Path, digest: str) -> Trained:
    tensors = read_tensors(folder, digest)
    try:
        head = Head(**{name: tensors.pop(name) for name in Head.__dataclass_fields__})
        return Trained(head, **tensors)
    except (KeyError, TypeError) as error:
        raise damaged(folder / TENSORS, error) from error
