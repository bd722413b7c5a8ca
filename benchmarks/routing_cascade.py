"""Entries that see the weak model's draft and keep it, or ask the strong model: the check, and what it must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import handmade_check
import numpy as np
import routing_rivals as rivals
from numpy.typing import NDArray
from routing_data import Array, Kept, Outcomes, Progress, Rows
from routing_trials import Entry, fixed

from dynflow.learning.crossfitting import cross_fit, fit_logistic, folds_of
from dynflow.learning.kept import code_digest
from dynflow.models.encoder import SHA256
from dynflow.nodes.answer_check import artefact, equations, features, reading, sources
from dynflow.nodes.answer_check.checks import CHECKS
from dynflow.nodes.answer_check.estimator import KINDS
from dynflow.nodes.answer_check.train import FOLDS
from dynflow.nodes.answer_check.verdict import Case, judge_by, without_estimator

CHECK = "answer_check"
RULES = f"{CHECK}, by rule, untrained"
HANDMADE = "hand-made check"
GATE = "cascadeflow gate"
LABELS = 200


def entries(outcomes: Outcomes, kept: Kept, progress: Progress) -> dict[str, Entry]:
    """All of them, by name, for outcomes with drafts."""
    found: dict[str, Entry] = {HANDMADE: _handmade(outcomes)}
    found[RULES] = fixed(np.array([without_estimator(case).score for case in _cases(outcomes)]))
    found |= {f"{CHECK}, {kind}": check(kind, outcomes, kept, progress) for kind in KINDS}
    for name, scorer in rivals.answer_scorers().items():
        depends = [name, version("cascadeflow"), code_digest(rivals)]
        doubt, gate = kept.rows(name, depends, _pairs(outcomes), scorer, progress).T
        found |= {name: fixed(doubt), GATE: fixed(gate)}
    return found


def check(kind: str, outcomes: Outcomes, kept: Kept, progress: Progress) -> Entry:
    """Our check as `dynflow train check` makes it of the training rows and the node then uses it: its doubt of a draft.

    The probabilities of a good answer are calibrated on cross-fitted predictions of the training rows.
    """
    made, quality, cases = KINDS[kind], outcomes.quality, _cases(outcomes)
    code = code_digest(features, equations, reading, sources)
    depends = [f"features of {CHECK}, {kind}", artefact.feature_digest(), code, *SHA256.values()]

    def measure(chunk: Any) -> Array:
        prompts, drafts = zip(*chunk, strict=True)
        return made().features(prompts, drafts)

    measured = kept.rows(depends[0], depends, _pairs(outcomes), measure, progress)

    def entry(train: Rows, test: Rows, groups: NDArray[Any]) -> Array:
        held_out = cross_fit(made, measured[train], quality[train], folds_of(groups, FOLDS))
        calibration = np.array([fit_logistic(held_out[:, route], quality[train, route]) for route in (0, 1)])
        estimator = made()
        estimator.fit_features(measured[train], quality[train])
        good = artefact.calibrated(estimator.predict_features(measured[test]), calibration)
        return np.array(
            [_doubt(cases[row], *each, estimator.weighs) for row, each in zip(test, good.tolist(), strict=True)]
        )

    return entry


def _doubt(case: Case, weak: float, strong: float, weighs: Any) -> float:
    if not reading.read(case.question, case.answer).reckons:
        return without_estimator(case).score
    return judge_by(case, weak, strong, weighs, lambda gain: gain).score


def _cases(outcomes: Outcomes) -> list[Case]:
    return [Case(prompt, draft, tuple(CHECKS)) for prompt, draft in _pairs(outcomes)]


def _pairs(outcomes: Outcomes) -> list[tuple[str, str]]:
    return list(zip(outcomes.prompts, outcomes.drafts, strict=True))


def _handmade(outcomes: Outcomes) -> Entry:
    measured = handmade_check.features(outcomes.prompts, outcomes.drafts)
    return lambda train, test, _: handmade_check.ridge(measured[train], 1 - outcomes.weak[train])(measured[test])


def usd_of(of_draft: Mapping[str, Entry], names: Iterable[str], usd: Array) -> dict[str, Array]:
    """What a row costs, [n, 2], where the strong model is not asked and where it is, by name."""
    return {name: drafted(usd) if name in of_draft else usd for name in names}


def drafted(usd: Array) -> Array:
    """The same of a cascade, which has paid for the draft in any case."""
    costs: Array = np.column_stack([usd[:, 0], usd.sum(1)])
    return costs
