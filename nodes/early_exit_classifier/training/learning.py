"""Teaching criteria: those that learn, on whole runs of a trained model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynflow.errors import InputError
from dynflow.nodes.early_exit_classifier.criteria import (
    CRITERIA,
    Learnt,
    LearntCriterion,
    Lesson,
    Recording,
    kind_of,
)

if TYPE_CHECKING:
    from dynflow.learning.kept import Progress
    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel

LEARNING = tuple(name for name, kind in CRITERIA.items() if issubclass(kind, LearntCriterion))
"""Names of dynflow's own criteria that learn."""
_MOST_ROWS = 20_000
"""Of those trained on: more tell little more."""
_AT_ONCE = 256


def kinds_of(names: Sequence[str]) -> list[type[LearntCriterion]]:
    """The criteria of these names. Raises InputError for one that is unknown, or does not learn."""
    found = []
    for name in names:
        try:
            kind = kind_of(name)
        except ValueError as error:
            raise InputError(str(error)) from error
        if not issubclass(kind, LearntCriterion):
            raise InputError(f"{name} learns nothing: it needs no teaching; {' and '.join(LEARNING)} do")
        found.append(kind)
    return found


def learn(
    kinds: Sequence[type[LearntCriterion]],
    model: EarlyExitModel,
    trained: tuple[Sequence[str], Sequence[int]],
    fresh: tuple[Sequence[str], Sequence[int]],
    seed: int,
    progress: Progress,
) -> dict[str, Learnt]:
    """What each criterion makes of texts and the places of their labels: those that the model was trained on, and fresh
    ones. Raises InputError for a model without exits."""
    if len(model.layers) < 2:
        raise InputError("there is no exit but the last: no criterion has anything to decide")
    texts, truth = trained
    drawn = sorted(random.Random(seed).sample(range(len(texts)), min(_MOST_ROWS, len(texts))))
    few = [texts[row] for row in drawn], [truth[row] for row in drawn]
    lesson = Lesson(model.layers, _recording(model, *few, progress), _recording(model, *fresh, progress), seed)
    found = {}
    for place, kind in enumerate(kinds):
        progress(place, len(kinds), "criteria")
        found[kind.name] = kind.learn(lesson)
    progress(len(kinds), len(kinds), "criteria")
    return found


def _recording(model: EarlyExitModel, texts: Sequence[str], truth: Sequence[int], progress: Progress) -> Recording:
    states, logits = [], []
    for at in range(0, len(texts), _AT_ONCE):
        progress(at, len(texts), "recording")
        each = model.states(texts[at : at + _AT_ONCE])
        states.append(each[0])
        logits.append(each[1])
    progress(len(texts), len(texts), "recording")
    return Recording(np.concatenate(states), np.concatenate(logits), np.asarray(truth, dtype=np.intp))
