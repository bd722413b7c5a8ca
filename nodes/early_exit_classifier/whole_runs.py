"""Whole runs of an early-exit model: what every threshold would make of a text, from one pass over all its layers."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.trajectories import Runs
from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, History
from dynflow.nodes.early_exit_classifier.criteria.recorded import answers_by_exit, scores
from dynflow.nodes.early_exit_classifier.criteria.static import Static

if TYPE_CHECKING:
    from dynflow.calibration.signals import Progress
    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel

_AT_ONCE = 256
_TIMED = 300
"""Texts that are timed, at most, so many times each."""
_ROUNDS = 3
Array = NDArray[np.float64]


def runs_of(model: EarlyExitModel, criterion: Criterion, texts: Sequence[str], progress: Progress, timed: bool) -> Runs:
    """What each text would leave each exit with. Costs are layers; `timed`: milliseconds of a text on its own, by
    its tokens, as they are measured here and now. Raises InputError for a text that cannot be read.
    """
    logits = _logits(model, criterion, texts, progress)
    depths = np.asarray(model.layers, dtype=np.float64)
    layers = np.broadcast_to(depths, logits.shape[:2])
    labels = np.array(model.labels, dtype=object)
    cost, cap = _milliseconds(model, criterion, texts, progress) if timed else (layers, float(depths[-1]))
    answers, confidence = answers_by_exit(criterion, logits, model.layers)
    return Runs(
        cost,
        scores(criterion, logits, model.layers),
        labels[answers],
        labels[logits[:, -1].argmax(-1)],
        {"confidence": confidence, "layer": layers},
        cap,
    )


def _logits(
    model: EarlyExitModel, criterion: Criterion, texts: Sequence[str], progress: Progress
) -> NDArray[np.float32]:
    found = []
    for at in range(0, len(texts), _AT_ONCE):
        progress(at, len(texts), "whole runs")
        found.append(model.trajectories(texts[at : at + _AT_ONCE], criterion=criterion.name))
    progress(len(texts), len(texts), "whole runs")
    return np.concatenate(found)


def _milliseconds(
    model: EarlyExitModel, criterion: Criterion, texts: Sequence[str], progress: Progress
) -> tuple[Array, float]:
    """Milliseconds [rows, exits] until each exit has decided, and those of the longest text that is read.

    Some texts are timed, layer by layer, and a straight line through their tokens tells those of all.
    """
    drawn = random.Random(0).sample(range(len(texts)), min(_TIMED, len(texts)))
    taken = np.zeros((_ROUNDS, len(drawn), len(model.layers)))
    model.warm_up()
    for turn in range(_ROUNDS):
        for place, row in enumerate(drawn):
            progress(turn * len(drawn) + place, _ROUNDS * len(drawn), "timed runs")
            taken[turn, place] = _timed(model, criterion, texts[row])
    progress(_ROUNDS * len(drawn), _ROUNDS * len(drawn), "timed runs")
    tokens = np.array([len(model.reader.read(text)) for text in texts], dtype=np.float64)
    most = float(max(model.reader.max_tokens, tokens.max()))
    told = lines(tokens[drawn], np.median(taken, 0), np.append(tokens, most))
    return told[:-1], float(told[-1, -1])


def lines(tokens: Array, taken: Array, asked: Array) -> Array:
    """By straight lines through times [rows, exits] of texts with `tokens` [rows]: those with `asked` [m], [m, exits].

    No line falls: where the best one would, the best level one is the mean.
    """
    middle, mean = tokens.mean(), taken.mean(0)
    spread = ((tokens - middle) ** 2).sum()
    slope = np.zeros(len(mean)) if spread == 0 else np.maximum((tokens - middle) @ (taken - mean) / spread, 0.0)
    return np.maximum.accumulate(np.maximum(mean + (asked[:, None] - middle) * slope, 0.0), axis=1)


def _timed(model: EarlyExitModel, criterion: Criterion, text: str) -> list[float]:
    """Milliseconds from the text to the decision of each exit."""
    if isinstance(criterion, Static):  # of all heads it runs one, which the threshold says
        return [_elapsed(model, Static(layer), text) for layer in model.layers]
    stamps: list[float] = []
    began = time.perf_counter()
    tokens = model.reader.read(text)
    model.classify_tokens([tokens], _staying(criterion), check=lambda: stamps.append(time.perf_counter()))
    stamps.append(time.perf_counter())  # one before each layer, and one after the last
    return [1000 * (stamps[layer] - began) for layer in model.layers]


def _elapsed(model: EarlyExitModel, criterion: Criterion, text: str) -> float:
    """Milliseconds of a run that may leave."""
    began = time.perf_counter()
    model.classify_tokens([model.reader.read(text)], criterion)
    return 1000 * (time.perf_counter() - began)


def _staying(criterion: Criterion) -> Criterion:
    """The same one: it decides, but nobody leaves."""

    def leaves(history: History, layer: int) -> bool:
        criterion.leaves(history, layer)
        return False

    staying = copy(criterion)
    vars(staying)["leaves"] = leaves
    return staying
