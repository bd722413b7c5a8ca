"""Train an answer check from outcome files: what `dynflow train check` does."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration.curves import MEASURES, score_measures
from dynflow.calibration.measurements import Predicted
from dynflow.calibration.outcomes import Fault, Row, outcome_error, read_outcomes
from dynflow.calibration.reliability import reliability
from dynflow.errors import InputError
from dynflow.learning.crossfitting import cross_fit, fit_logistic, folds_of, near_duplicates
from dynflow.learning.kept import code_digest, kept_rows
from dynflow.nodes.answer_check import artefact, equations, features, reading, sources
from dynflow.nodes.answer_check.card import Figures, render_card
from dynflow.nodes.answer_check.estimator import KINDS, STRONG, WEAK, SurfaceEstimator
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.learning.crossfitting import Array
    from dynflow.learning.kept import Progress

FEWEST_ROWS = 100
FOLDS = 10
QUANTILES = 1001
_NUMBERS_FROM = 0.9  # from this share of answers about numbers on, the head is for such answers only
_PORTS = ("confidence", "agreement", "judge")  # where outcomes of the weak route hold the evidence


@dataclass(frozen=True)
class Graded:
    """One answer of the weak route, and how good it and the strong route's were, 0…1."""

    id: str
    question: str
    answer: str
    evidence: tuple[float, ...]
    weak: float
    strong: float

    @property
    def source(self) -> str:
        """The first part of the id, such as `gsm8k`."""
        return self.id.split("/")[0]


@dataclass(frozen=True)
class Report:
    """What a training made: `figures` are cross-fitted, by name of the rows that they were taken on."""

    out: Path
    kind: str
    rows: int
    figures: Figures


def train(
    outcome_files: Sequence[Path],
    kind: str,
    out: Path,
    *,
    weak: str = "weak",
    strong: str = "strong",
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Learn from outcome files which answers of `weak` are good, and where `strong` adds to them; write it into `out`.

    `kind` is `embedding` or `surface`. The same input gives the same bytes. A run that was killed goes on from the
    features it had computed. Raises OutcomeError, with the numbers of all bad lines, or InputError; nothing is written
    then.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of estimator {kind!r}: use {' or '.join(KINDS)}")
    rows = [row for path in outcome_files for row in graded_rows(path, weak, strong)]
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"{len(rows)} rows are too few to learn from: give at least {FEWEST_ROWS}")
    quality = np.array([[row.weak, row.strong] for row in rows])
    if len(np.unique(quality[:, WEAK])) < 2:
        raise InputError(f"the answers of {weak!r} are all equally good: there is nothing to learn")

    make = KINDS[kind]
    measured = _features(make(), rows, out / ".features", progress)
    folds = folds_of(near_duplicates([row.question for row in rows]), FOLDS)
    progress(0, 2, "cross-fitting")
    held_out = cross_fit(make, measured, quality, folds)
    progress(1, 2, "cross-fitting")
    calibration = np.array([fit_logistic(held_out[:, route], quality[:, route]) for route in (WEAK, STRONG)])
    good = artefact.calibrated(held_out, calibration)
    estimator = make()
    estimator.fit_features(measured, quality)
    progress(2, 2, "cross-fitting")
    if estimator.head is None:
        raise AssertionError("fitting leaves a head")
    gain = good[:, STRONG] - good[:, WEAK]
    trained = artefact.Trained(
        head=estimator.head,
        quantiles=np.quantile(gain, np.linspace(0, 1, QUANTILES)).astype(np.float32),
        calibration=calibration.astype(np.float32),
        hashes=np.array(sorted({artefact.row_hash(row.question) for row in rows}), dtype=np.uint64),
    )
    figures = _figures(rows, good, quality)
    reckoning = float(np.mean([reading.read(row.question, row.answer).reckons for row in rows]))
    facts: dict[str, Any] = {"numbers_only": reckoning >= _NUMBERS_FROM, "rows": len(rows), "figures": figures}
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in outcome_files}
    card = render_card(kind, rows, digests, facts["numbers_only"], figures)
    artefact.save(out, kind, trained, facts, card)
    shutil.rmtree(out / ".features")
    return Report(out, kind, len(rows), figures)


def graded_rows(path: Path, weak: str, strong: str) -> list[Graded]:
    """The rows of an outcome file that can be learnt from. Raises OutcomeError that names every other line.

    The weak route needs its `response`; `confidence`, `agreement` and `judge` are read from its `ports`, where given.
    """
    file = read_outcomes(path)
    found, faults = [], []
    for row in file.rows:
        wrong = _lacks(row, weak, strong)
        if wrong:
            faults.append(Fault(row.line, wrong))
            continue
        answer, other = row.outcomes[weak], row.outcomes[strong]
        known = tuple(_evidence(answer.ports.get(port)) for port in _PORTS)
        question = Request(_asked(row)).text
        found.append(
            Graded(row.id, question, answer.response or "", known, answer.quality or 0.0, other.quality or 0.0)
        )
    if faults:
        raise outcome_error(path, faults)
    return found


def _lacks(row: Row, weak: str, strong: str) -> str | None:
    for name in (weak, strong):
        if name not in row.outcomes:
            return f"has no outcome of {name!r}: there are {', '.join(map(repr, row.outcomes))}"
        if row.outcomes[name].quality is None:
            return f"the outcome of {name!r} has no quality: give a number from 0 to 1"
    if row.outcomes[weak].response is None and row.outcomes[weak].error is None:
        return f"the outcome of {weak!r} has no `response`, which is what the check learns to judge"
    try:
        Request(_asked(row))
    except InputError as error:
        return str(error)
    return None


def _asked(row: Row) -> Any:
    """The text or messages of a row, without further request keys."""
    if isinstance(row.input, dict):
        return row.input.get("input", row.input.get("messages", ""))
    return row.input


def _evidence(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _features(estimator: SurfaceEstimator, rows: list[Graded], cache: Path, progress: Progress) -> Array:
    """Features of all answers; those that an earlier run has computed are found again in `cache`."""
    from dynflow.models.encoder import SHA256

    def measure(part: Sequence[tuple[str, str, tuple[float, ...]]]) -> Array:
        questions, answers, evidence = zip(*part, strict=True)
        return estimator.features(questions, answers, np.array(evidence))

    code = code_digest(equations, features, reading, sources)
    depends = [estimator.kind, artefact.feature_digest(), code, *SHA256.values()]
    given = [(row.question, row.answer, row.evidence) for row in rows]
    return kept_rows(given, measure, cache, depends, progress, "features")


def _figures(rows: list[Graded], good: Array, quality: Array) -> Figures:
    """The measures on all rows and on each source; None where there is nothing to measure."""
    sources_of = np.array([row.source for row in rows])
    names = sorted(set(sources_of.tolist()))
    kept = {
        "all": np.ones(len(rows), dtype=bool),
        **({name: sources_of == name for name in names} if names[1:] else {}),
    }
    figures: Figures = {}
    for name, mine in kept.items():
        p, q = good[mine], quality[mine]
        known = reliability(Predicted("confidence", name, p[:, WEAK], q[:, WEAK]))
        by_gain = dict(zip(MEASURES, score_measures(p[:, STRONG] - p[:, WEAK], *q.T), strict=True))
        figures[name] = {
            "rows": int(mine.sum()),
            **{measure: _rounded(float(by_gain[measure])) for measure in ("apgr", "cpt50", "cpt80")},
            "brier": round(known.brier, 4),
            "brier_of_mean": round(float(q[:, WEAK].var()), 4),
            "calibration_error": round(known.error, 4),
        }
    return figures


def _rounded(figure: float) -> float | None:
    return round(figure, 4) if math.isfinite(figure) else None
