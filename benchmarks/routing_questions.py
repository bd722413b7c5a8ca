"""Entries that route by the question alone: our estimators, plain baselines and other tools."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import routing_rivals as rivals
from numpy.typing import NDArray
from routing_data import Array, Kept, Outcomes, Progress, Rows, code_digest, folds
from routing_trials import Entries, Entry, fixed

from dynflow.models.encoder import SHA256, Encoder
from dynflow.nodes.difficulty_classifier import estimators, features
from dynflow.nodes.difficulty_classifier.estimators import KINDS

INNER = 4


def entries(outcomes: Outcomes, kinds: Sequence[str], kept: Kept, progress: Progress) -> dict[str, Entry]:
    """All of them, by name; what does not depend on labels is computed here, or found in `kept`."""
    return {
        rivals.RANDOM: fixed(np.zeros(len(outcomes))),
        rivals.LENGTH: fixed(np.array([len(prompt) for prompt in outcomes.prompts], dtype=np.float64)),
        **_plain(outcomes, kept, progress),
        **{kind: _estimator(kind, outcomes, kept, progress) for kind in kinds},
        **_others(outcomes, kept, progress),
        rivals.ORACLE: fixed(outcomes.strong - outcomes.weak),
    }


def _plain(outcomes: Outcomes, kept: Kept, progress: Progress) -> Entries:
    gain, prompts = outcomes.strong - outcomes.weak, np.array(outcomes.prompts, dtype=object)
    depends = ["embeddings", SHA256["model.onnx"]]
    vectors = kept.rows(depends, outcomes.prompts, Encoder.shared().embed, progress).astype(np.float64)
    return {
        rivals.TFIDF: lambda train, test, _: rivals.tfidf_ridge(prompts[train], gain[train], prompts[test]),
        rivals.PLAIN: lambda train, test, _: rivals.plain_ridge(vectors[train], gain[train], vectors[test]),
    }


def _others(outcomes: Outcomes, kept: Kept, progress: Progress) -> Entries:
    own = code_digest(rivals)
    return {
        name: fixed(kept.rows([name, version(name.split()[0]), own], outcomes.prompts, scorer, progress))
        for name, scorer in rivals.prompt_scorers().items()
    }


def _estimator(kind: str, outcomes: Outcomes, kept: Kept, progress: Progress) -> Entry:
    depends = [f"features of {kind}", code_digest(estimators, features), SHA256["model.onnx"]]
    found = kept.rows(depends, outcomes.prompts, KINDS[kind]().features, progress)
    quality = outcomes.quality

    def entry(train: Rows, test: Rows, groups: NDArray[Any]) -> Array:
        estimator = KINDS[kind](_penalties(kind, found[train], quality[train], groups))
        estimator.fit_features(found[train], quality[train])
        return _gain(estimator.predict_features(found[test]))

    return entry


def _penalties(kind: str, measured: Array, quality: Array, groups: NDArray[Any]) -> Any:
    """Those with the least error of the gain, cross-validated on the training rows alone."""
    grid = KINDS[kind].grid
    losses = np.zeros(len(grid))
    for train, test in folds(groups, INNER, 0):
        for place, penalties in enumerate(grid):
            estimator = KINDS[kind](penalties)
            estimator.fit_features(measured[train], quality[train])
            missed = _gain(estimator.predict_features(measured[test])) - _gain(quality[test])
            losses[place] += np.square(missed).sum()
    return grid[int(np.argmin(losses))]


def _gain(quality: Array) -> Array:
    return quality[:, 1] - quality[:, 0]
