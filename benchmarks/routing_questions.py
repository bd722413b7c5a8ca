"""Entries that route by the question alone: our estimators, plain baselines and other tools."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import routing_rivals as rivals
from numpy.typing import NDArray
from routing_data import Array, Kept, Outcomes, Progress, Rows, folds
from routing_trials import Entries, Entry, fixed

from dynflow.learning.kept import code_digest
from dynflow.models.encoder import SHA256, Encoder
from dynflow.nodes.difficulty_classifier import features
from dynflow.nodes.difficulty_classifier.estimators import KINDS

INNER = 4


LEARNT_IN_MINUTES = ("encoder", "causal_lm")
SLOW = ("matrix_factorization", *LEARNT_IN_MINUTES, rivals.TFIDF)
"""Left out where a hundred heads are trained."""


def entries(
    outcomes: Outcomes, kept: Kept, progress: Progress, *, tuned: bool = True, slow: bool = False
) -> dict[str, Entry]:
    """All of them, by name; what does not depend on labels is computed here, or found in `kept`.

    `tuned`: estimators choose their settings on the training rows; else they have their defaults. `slow`: with those
    that take minutes.
    """
    kinds = [kind for kind in KINDS if slow or kind not in LEARNT_IN_MINUTES]
    return {
        rivals.RANDOM: fixed(np.zeros(len(outcomes))),
        rivals.LENGTH: fixed(np.array([len(prompt) for prompt in outcomes.prompts], dtype=np.float64)),
        **_plain(outcomes, kept, progress),
        **{kind: _estimator(kind, outcomes, kept, progress, tuned) for kind in kinds},
        **_others(outcomes, kept, progress),
        rivals.ORACLE: fixed(outcomes.strong - outcomes.weak),
    }


def _plain(outcomes: Outcomes, kept: Kept, progress: Progress) -> Entries:
    gain, prompts = outcomes.strong - outcomes.weak, np.array(outcomes.prompts, dtype=object)
    depends = ["embeddings", *SHA256.values()]
    vectors = kept.rows("embeddings", depends, outcomes.prompts, Encoder.shared().embed, progress).astype(np.float64)
    return {
        rivals.TFIDF: lambda train, test, _: rivals.tfidf_ridge(prompts[train], gain[train], prompts[test]),
        rivals.PLAIN: lambda train, test, _: rivals.plain_ridge(vectors[train], gain[train], vectors[test]),
    }


def _others(outcomes: Outcomes, kept: Kept, progress: Progress) -> Entries:
    own = code_digest(rivals)
    return {
        name: fixed(kept.rows(name, [name, version(name.split()[0]), own], outcomes.prompts, scorer, progress))
        for name, scorer in rivals.prompt_scorers().items()
    }


def _estimator(kind: str, outcomes: Outcomes, kept: Kept, progress: Progress, tuned: bool) -> Entry:
    made, quality = KINDS[kind], outcomes.quality
    found = measured(kind, outcomes, kept, progress)

    def entry(train: Rows, test: Rows, groups: NDArray[Any]) -> Array:
        estimator = made(_settings(kind, found[train], quality[train], groups) if tuned else ())
        estimator.fit_features(found[train], quality[train])
        return _gain(estimator.predict_features(found[test]))

    return entry


def measured(kind: str, outcomes: Outcomes, kept: Kept, progress: Progress) -> Array:
    """The features of all prompts that an estimator learns from."""
    made = KINDS[kind]
    depends = ["features", made.features_of(), code_digest(features)]  # which some kinds share
    return kept.rows(f"features of {kind}", depends, outcomes.prompts, made().features, progress)


def _settings(kind: str, measured: Array, quality: Array, groups: NDArray[Any]) -> tuple[float, ...]:
    """Those with the least error of the gain, cross-validated on the training rows alone."""
    grid = KINDS[kind].grid
    if len(grid) == 1:
        return grid[0]
    losses = np.zeros(len(grid))
    for train, test in folds(groups, INNER, 0):
        for place, settings in enumerate(grid):
            estimator = KINDS[kind](settings)
            estimator.fit_features(measured[train], quality[train])
            missed = _gain(estimator.predict_features(measured[test])) - _gain(quality[test])
            losses[place] += np.square(missed).sum()
    return grid[int(np.argmin(losses))]


def _gain(quality: Array) -> Array:
    return quality[:, 1] - quality[:, 0]
