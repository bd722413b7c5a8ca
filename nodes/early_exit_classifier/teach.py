"""Teach a trained early-exit classifier criteria that learn: what `dynflow train exit-criteria` does."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from dynflow.errors import InputError
from dynflow.learning.containment import split_by_containment
from dynflow.learning.kept import Progress
from dynflow.learning.labelled import Columns
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.artefact import Described, row_hash
from dynflow.nodes.early_exit_classifier.criteria import Learnt, criterion_of
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.train import Data, read_data
from dynflow.nodes.early_exit_classifier.training.card import told_threshold
from dynflow.nodes.early_exit_classifier.training.figures import KEPT, Point, curve, recorded
from dynflow.nodes.early_exit_classifier.training.learning import LEARNING, kinds_of, learn
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

FRESH = 8
"""One in so many of the rows held out goes to the criteria; the others judge them."""
FEWEST_HELD_OUT = 80
_HEADING = "\n## Criteria that were taught\n"
_SECTION = """
By `dynflow train exit-criteria`, with encoder and exits as they are: on the training rows, and on {fresh:,} of those
held out, which count as training rows since. On the other {judged:,} rows held out, none of which contains one of
these, the whole model's accuracy is {whole:.4f}; the table tells savings as the one above does, at shares of
{full:.4f}.

| criterion | {columns} |
|---|{rules}
{rows}
"""


@dataclass(frozen=True)
class Report:
    """What was taught: `rows` held out that criteria learnt from, `figures` on those left, bytes of the artefact."""

    out: Path
    rows: int
    figures: Mapping[str, Mapping[str, float | None]]
    size: int


@dataclass(frozen=True)
class Parted:
    """Indices of the rows that were held out: `fresh` for criteria to learn from, `judged` for nothing to."""

    fresh: list[int]
    judged: list[int]


def teach(
    place: Path,
    sources: Sequence[str | Path],
    *,
    criteria: Sequence[str] = LEARNING,
    columns: Columns | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Teach the artefact in the folder `place` these criteria, on the data that it was trained on; others it keeps.

    The files of encoder and exits stay as they are. Raises InputError for other data, or criteria that do not learn,
    and ArtefactError for what is no artefact.
    """
    kinds = kinds_of(criteria)
    described = artefact.describe(str(place))
    model = artefact.read(described)
    data = data_of(described, sources, columns)
    if (count := len(data.split.held_out)) < FEWEST_HELD_OUT:
        raise InputError(
            f"{place} was trained with {count} rows held out, too few to teach criteria by: train it with "
            f"--held-out {FEWEST_HELD_OUT} or more; thousands are good"
        )
    rows = parted(data, described)
    trained = data.texts(data.split.train), data.classes(data.split.train)
    fresh = data.texts(rows.fresh), data.classes(rows.fresh)
    learnt = learn(kinds, model, trained, fresh, _recipe(described).seed, progress)
    learnt = {**artefact.learnt_criteria(described), **learnt}
    artefact.teach(model, learnt)
    judged = _judged(model, data, rows.judged, progress)
    return _write(described, learnt, fresh[0], judged)


def data_of(described: Described, sources: Sequence[str | Path], columns: Columns | None = None) -> Data:
    """The data that an artefact was trained on, parted as then. Raises InputError where it is other data."""
    data = read_data(sources, _recipe(described), columns)
    hashes = artefact.training_hashes(described)
    known = sum(row_hash(text) in hashes for text in data.texts(data.split.train))
    if len(data.labels) != len(described.facts.labels) or known < len(data.split.train):
        raise InputError(
            f"{', '.join(map(str, sources))}: not the data that {described.folder} was trained on: {known:,} of "
            f"{len(data.split.train):,} rows are known to it; give the same files, in the same order"
        )
    classes = described.facts.training.get("classes")  # as the data had them then, before they were named
    if classes is not None and list(data.labels) != classes:
        raise InputError(
            f"{', '.join(map(str, sources))}: its labels are {', '.join(data.labels)}, and those that "
            f"{described.folder} was trained on were {', '.join(classes)}: give the same files"
        )
    return data


def parted(data: Data, described: Described) -> Parted:
    """The rows held out, a share of them for criteria; a row and every row that contains it stay together."""
    held_out = data.split.held_out
    split = split_by_containment(data.texts(held_out), max(1, len(held_out) // FRESH), _recipe(described).seed)
    return Parted([held_out[place] for place in split.held_out], [held_out[place] for place in split.train])


def unseen(data: Data, described: Described) -> list[int]:
    """Indices of the rows held out that nothing in the artefact has learnt from."""
    return parted(data, described).judged if described.facts.criteria else data.split.held_out


def _recipe(described: Described) -> Recipe:
    told = described.facts.training.get("recipe", {})
    return Recipe(**{name: told[name] for name in ("held_out", "seed") if name in told})


@dataclass(frozen=True)
class _Judged:
    rows: int
    whole: float
    """Accuracy of all layers."""
    curves: Mapping[str, list[Point]]


def _judged(model: EarlyExitModel, data: Data, rows: Sequence[int], progress: Progress) -> _Judged:
    """The curve of each criterion that was taught."""
    texts, truth = data.texts(rows), np.asarray(data.classes(rows))
    exits = recorded(model, texts, progress)
    curves = {}
    for name in model.learnt:
        criterion = criterion_of({"criterion": name, "threshold": 0.0}, model.learnt)
        logits = recorded(model, texts, progress, criterion=name) if name in model.readouts else exits
        curves[name] = curve(criterion, logits, truth, model.layers)
    return _Judged(len(rows), float((exits[:, -1].argmax(-1) == truth).mean()), curves)


def _write(described: Described, learnt: Mapping[str, Learnt], fresh: Sequence[str], judged: _Judged) -> Report:
    place, facts = described.folder, described.facts
    tensors = {f"{name}.{key}": value for name, each in learnt.items() for key, value in each.tensors.items()}
    hashes = torch.tensor(sorted({row_hash(text) for text in fresh}), dtype=torch.uint64)
    content = save({**tensors, artefact.HASHES: hashes})
    full = max(judged.whole, float(facts.training.get("alone") or 0.0))
    points = {name: _points(points, full) for name, points in judged.curves.items()}
    figures: dict[str, dict[str, Any]] = {
        f"{name}, mean layers": {
            f"at {100 * kept:g} %": None if point is None else round(point.layers, 3) for kept, point in each.items()
        }
        for name, each in points.items()
    }
    digest = hashlib.sha256(content).hexdigest()
    file = artefact.CRITERIA.replace("*", f"-{digest[:12]}")
    others = {name: told for name, told in facts.sha256.items() if name != facts.criteria_file}
    taught = {"rows": {"fresh": len(fresh), "judged": judged.rows}, "accuracy": round(judged.whole, 4)} | figures
    changed = dataclasses.replace(
        facts,
        criteria={name: dict(each.facts) for name, each in learnt.items()},
        sha256={**others, file: digest},
        training={**facts.training, "criteria": taught},
    )
    section = _SECTION.format(
        fresh=len(fresh),
        judged=judged.rows,
        whole=judged.whole,
        full=full,
        columns=" | ".join(f"{100 * kept:g} %" for kept in KEPT),
        rules="---|" * len(KEPT),
        rows="\n".join(
            f"| {name} | {' | '.join(_told(name, point, facts.depth) for point in each.values())} |"
            for name, each in points.items()
        ),
    )
    card = place / "README.md"
    told = card.read_text(encoding="utf-8").partition(_HEADING)[0] if card.is_file() else ""
    texts = {artefact.DESCRIPTION: changed.text(), card.name: told + _HEADING + section}
    files = {file: content, **{name: text.encode() for name, text in texts.items()}}
    for name, data in files.items():  # whenever it ends, the description names files that are there and whole
        unfinished = place / f"{name}.{os.getpid()}"
        unfinished.write_bytes(data)
        os.replace(unfinished, place / name)
    for each in place.glob(artefact.CRITERIA):
        if each.name != file:
            each.unlink()
    size = sum(file.stat().st_size for file in place.iterdir() if file.is_file())
    return Report(place, len(fresh), figures, size)


def _points(points: Sequence[Point], full: float) -> dict[float, Point | None]:
    """The point of fewest layers that keeps each share of the full accuracy."""
    return {
        kept: min(
            (point for point in points if point.accuracy >= kept * full), key=lambda point: point.layers, default=None
        )
        for kept in KEPT
    }


def _told(name: str, point: Point | None, depth: int) -> str:
    if point is None:
        return "none"
    saving = f"{depth / point.layers:.2f} times" if point.layers else "no layer"
    return f"{saving} (threshold {told_threshold(name, point.threshold)})"
