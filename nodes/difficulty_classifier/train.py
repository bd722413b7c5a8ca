"""Train a difficulty classifier from outcome files: what `dynflow train difficulty` does."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.errors import InputError
from dynflow.learning.crossfitting import cross_fit, folds_of, near_duplicates
from dynflow.learning.kept import code_digest, kept_rows
from dynflow.nodes.difficulty_classifier import artefact, features, measures
from dynflow.nodes.difficulty_classifier.card import render_card
from dynflow.nodes.difficulty_classifier.estimators import KINDS, STRONG, WEAK, Estimator
from dynflow.nodes.difficulty_classifier.over_encoder import OverEncoder, over

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dynflow.learning.kept import Progress
    from dynflow.nodes.difficulty_classifier.card import Figures
    from dynflow.nodes.difficulty_classifier.measures import Array

    Folds = NDArray[np.int64]

FEWEST_ROWS = 100
QUANTILES = 1001
_FIFTHS = 5


@dataclass(frozen=True)
class Row:
    """One request of an outcome file, with the quality 0…1 that each route reached."""

    id: str
    text: str
    quality: tuple[float, ...]
    """In the order of the routes: weak, strong, and those between."""

    @property
    def weak(self) -> float:
        return self.quality[WEAK]

    @property
    def strong(self) -> float:
        return self.quality[STRONG]

    @property
    def source(self) -> str:
        """The first part of the id, such as `mmlu`."""
        return self.id.split("/")[0]

    @property
    def topic(self) -> str:
        """The first two parts of the id, such as `mmlu/anatomy`."""
        return "/".join(self.id.split("/")[:2])


@dataclass(frozen=True)
class Report:
    """What a training made: `figures` are cross-validated, by name of the rows that they were taken on."""

    out: Path
    kind: str
    rows: int
    settings: tuple[float, ...]
    figures: Figures


def train(
    outcome_files: Sequence[Path],
    kind: str,
    out: Path,
    *,
    weak: str = "weak",
    strong: str = "strong",
    between: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    conversation: bool = False,
    both_forms: bool = False,
    encoder: str | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Learn from outcome files how much `strong` adds to `weak`, and write an artefact into the folder `out`.

    `kind` is one of `KINDS`. The quality of the routes `between` is learnt too. Topics in `leave_out`, the first two
    parts of an id, are not learnt from. Of messages the last user turn is read, or all with `conversation`. With
    `both_forms` each row is learnt from with and without its lettered choices, and the score's reference is the rows
    without, as chats would ask them. `encoder` names an early-exit model, `embedded/<name>` or its folder, for the kind
    `encoder` to read with that model's encoder as it is. The same input gives the same bytes. A run that was killed
    goes on from the features it had computed. Raises InputError, with the numbers of all bad lines, and writes nothing
    then.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind of estimator {kind!r}: use {' or '.join(KINDS)}")
    if encoder is not None and kind != OverEncoder.kind:
        raise InputError(
            f"an encoder is given, and the kind {kind!r} reads with its own: use the kind {OverEncoder.kind!r}"
        )
    estimator = KINDS[kind] if encoder is None else over(encoder)
    routes = (weak, strong, *between)
    if len(set(routes)) < len(routes):
        raise InputError(f"a route is named twice in {', '.join(routes)}")
    given = [row for path in outcome_files for row in read_rows(path, *routes, conversation=conversation)]
    if absent := set(leave_out) - {row.topic for row in given}:
        raise InputError(f"no row has the topic {', '.join(sorted(absent))}, which is to be left out")
    rows = [row for row in given if row.topic not in leave_out]
    if len(rows) < FEWEST_ROWS:
        raise InputError(f"{len(rows)} rows are too few to learn from: give at least {FEWEST_ROWS}")
    texts = [row.text for row in rows]
    quality = np.array([row.quality for row in rows])
    if (quality[:, STRONG] == quality[:, WEAK]).all():
        raise InputError(f"{weak!r} and {strong!r} are equally good on every row: there is nothing to learn")

    forms = [texts, [features.reading(text) for text in texts]] if both_forms else [texts]
    measured = _features(estimator(), [text for form in forms for text in form], out / ".features", progress)
    learnt = np.tile(quality, (len(forms), 1))
    folds = folds_of(near_duplicates([features.reading(text) for text in texts]), measures.FOLDS)
    settings = _chosen(estimator, measured, learnt, np.tile(folds, len(forms)), progress)

    make = functools.partial(estimator, settings)
    predicted = cross_fit(make, measured, learnt, np.tile(folds, len(forms)))
    by_form = np.split(predicted, len(forms))
    held_out = by_form[0]
    figures = _figures(rows, held_out, quality, folds)
    if both_forms:
        plain = _figures(rows, by_form[-1], quality, folds)
        figures |= {f"{name}, without choices": figure for name, figure in plain.items()}
    topics = [row.topic for row in rows]
    if len(set(topics)) >= measures.FOLDS:
        apart = folds_of(topics, measures.FOLDS)
        unseen = cross_fit(make, measured, learnt, np.tile(apart, len(forms)))[: len(rows)]
        figures |= {
            f"{name}, topics never trained on": figure
            for name, figure in _figures(rows, unseen, quality, apart).items()
        }

    final = make()
    final.fit_features(measured, learnt)
    gain = by_form[-1][:, STRONG] - by_form[-1][:, WEAK]
    head = artefact.Head(
        final.tensors,
        quantiles=np.quantile(gain, np.linspace(0, 1, QUANTILES)).astype(np.float32),
        calibration=_calibration(predicted, learnt).astype(np.float32),
        hashes=np.array(sorted({artefact.row_hash(text) for text in texts}), dtype=np.uint64),
    )
    facts = {"rows": len(rows), "left_out": list(leave_out), "both_forms": both_forms, "figures": figures}
    card = render_card(
        final,
        rows,
        routes,
        files={path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in outcome_files},
        left_out={topic: sum(row.topic == topic for row in given) for topic in leave_out},
        figures=figures,
        both_forms=both_forms,
        reliability=_reliability(_cross_calibrated(held_out, quality, folds), quality),
    )
    artefact.save(out, final, routes, head, facts, card)
    shutil.rmtree(out / ".features", ignore_errors=True)
    return Report(out, kind, len(rows), settings, figures)


def read_rows(path: Path, *routes: str, conversation: bool = False) -> list[Row]:
    """The rows of an outcome file. Raises InputError that lists every bad line with its fault."""
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    lines = text.split("\n") if text else []  # splitlines() would cut at U+2028, which JSON may hold
    rows, faults = [], []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_row(json.loads(line), routes, conversation))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fault = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            if isinstance(error, RecursionError):
                fault = "is nested too deeply"
            faults.append(f"  line {number}: {fault}")
    if faults:
        shown = faults[:20] + ([f"  … and {len(faults) - 20} more"] if len(faults) > 20 else [])
        raise InputError("\n".join([f"{path}: {len(faults)} of {len(lines)} lines are no outcomes:", *shown]))
    return rows


def _row(record: Any, routes: Sequence[str], conversation: bool) -> Row:
    if not isinstance(record, dict):
        raise ValueError("is not a JSON object")
    text = record["prompt"] if "prompt" in record else _said(record["messages"], conversation)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("has no text in `prompt` or `messages`")
    values = []
    for route in routes:
        value = record["outcomes"][route]["quality"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"`outcomes.{route}.quality` is {value!r}, not a number from 0 to 1")
        values.append(float(value))
    return Row(str(record["id"]), text, tuple(values))


def _said(messages: Any, conversation: bool) -> Any:
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise ValueError("`messages` is not a list of objects")
    if conversation:
        return features.conversation([str(turn.get("content") or "") for turn in messages])
    return next((turn.get("content") for turn in reversed(messages) if turn.get("role") in ("user", "human")), None)


def _features(estimator: Estimator, texts: list[str], cache: Path, progress: Progress) -> Array:
    """Features of all texts; those that an earlier run has computed are found again in `cache`."""
    depends = [estimator.kind, code_digest(features), estimator.features_of()]
    return kept_rows(texts, estimator.features, cache, depends, progress, "features")


def _chosen(
    kind: type[Estimator], measured: Array, quality: Array, folds: Folds, progress: Progress
) -> tuple[float, ...]:
    """The settings with the least cross-validated error of the gain; where there is one choice it is not tried."""
    if len(kind.grid) == 1:
        return kind.grid[0]
    trials = []
    for done, settings in enumerate(kind.grid):
        progress(done, len(kind.grid), "cross-validation")
        predicted = cross_fit(functools.partial(kind, settings), measured, quality, folds)
        trials.append((_gain_error(predicted, quality), settings))
    progress(len(kind.grid), len(kind.grid), "cross-validation")
    return min(trials)[1]


def _calibration(raw: Array, quality: Array) -> Array:
    return np.stack([measures.fit_calibration(*columns) for columns in zip(raw.T, quality.T, strict=True)])


def _cross_calibrated(raw: Array, quality: Array, folds: Folds) -> Array:
    """P(good), [n, k], each row's from a calibration that did not see its fold."""
    good = np.zeros(quality.shape)
    for fold in np.unique(folds):
        test = folds == fold
        good[test] = artefact.calibrated(raw[test], _calibration(raw[~test], quality[~test]))
    return good


def _reliability(good: Array, quality: Array) -> list[list[tuple[float, float]]]:
    """Per fifth of the rows, from low to high predictions: mean P(good) and mean quality, of each route."""
    fifths = []
    for part in range(_FIFTHS):
        rows = [np.array_split(np.argsort(column, kind="stable"), _FIFTHS)[part] for column in good.T]
        fifths.append([(float(good[of, k].mean()), float(quality[of, k].mean())) for k, of in enumerate(rows)])
    return fifths


def _gain_error(predicted: Array, quality: Array) -> float:
    difference = predicted - quality
    return float(np.square(difference[:, STRONG] - difference[:, WEAK]).mean())


def _figures(rows: list[Row], predicted: Array, quality: Array, folds: Folds) -> Figures:
    """The measures on all rows and on each source; None where there is nothing to measure."""
    sources = np.array([row.source for row in rows])
    length = np.array([len(features.reading(row.text)) for row in rows])
    gain = predicted[:, STRONG] - predicted[:, WEAK]
    gained = quality[:, STRONG] - quality[:, WEAK]
    good = _cross_calibrated(predicted, quality, folds)
    names = sorted(set(sources.tolist()))
    kept = {"all": np.ones(len(rows), dtype=bool), **({name: sources == name for name in names} if names[1:] else {})}
    return {
        name: {
            "rows": int(rows_of.sum()),
            "apgr": _rounded(measures.average_gap_recovered(gain[rows_of], *quality[rows_of][:, :2].T)),
            "apgr_length": _rounded(measures.average_gap_recovered(length[rows_of], *quality[rows_of][:, :2].T)),
            "auc": _rounded(measures.area_under_curve(gain[rows_of], gained[rows_of] > 0)),
            "spearman": _rounded(measures.rank_correlation(gain[rows_of], gained[rows_of])),
            "brier_weak": round(float(np.square(good - quality)[rows_of, WEAK].mean()), 4),
            "brier_strong": round(float(np.square(good - quality)[rows_of, STRONG].mean()), 4),
            "base_weak": round(float(quality[rows_of, WEAK].var()), 4),
            "base_strong": round(float(quality[rows_of, STRONG].var()), 4),
        }
        for name, rows_of in kept.items()
    }


def _rounded(figure: float) -> float | None:
    return round(figure, 4) if math.isfinite(figure) else None
