"""Entries that see the weak model's draft and keep it, or ask the strong model: the check, and what it must beat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import handmade_check
import numpy as np
import routing_rivals as rivals
from numpy.typing import NDArray
from routing_data import Array, Kept, Outcomes, Progress, Rows, code_digest
from routing_trials import Entry, fixed

from dynflow.nodes.answer_check import equations, estimator, features, reading

CHECK = "answer_check"
HANDMADE = "hand-made check"
LABELS = 200
GATE = "cascadeflow gate"


def entries(outcomes: Outcomes, kept: Kept, progress: Progress) -> dict[str, Entry]:
    """All of them, by name, for outcomes with drafts."""
    pairs = [list(pair) for pair in zip(outcomes.prompts, outcomes.drafts, strict=True)]
    found: dict[str, Entry] = {
        HANDMADE: _handmade(outcomes),
        **_checks(outcomes, pairs, kept, progress),
    }
    for name, scorer in rivals.answer_scorers().items():
        depends = [name, version("cascadeflow"), code_digest(rivals)]
        doubt, gate = kept.rows(depends, pairs, scorer, progress).T
        found |= {name: fixed(doubt), GATE: fixed(gate)}
    return found


def _handmade(outcomes: Outcomes) -> Entry:
    measured = handmade_check.features(outcomes.prompts, outcomes.drafts)
    gain = outcomes.strong - outcomes.weak
    return lambda train, test, _: handmade_check.ridge(measured[train], gain[train])(measured[test])


def _checks(outcomes: Outcomes, pairs: list[list[str]], kept: Kept, progress: Progress) -> Mapping[str, Entry]:
    code = code_digest(estimator, features, equations, reading)
    found: dict[str, Entry] = {}
    for kind, made in estimator.KINDS.items():

        def measure(chunk: Any, made: Any = made) -> Array:
            prompts, drafts = zip(*chunk, strict=True)
            return made().features(prompts, drafts)

        measured = kept.rows([f"features of {CHECK}, {kind}", code], pairs, measure, progress)
        found[f"{CHECK}, {kind}"] = _check(made, measured, outcomes.quality)
    return found


def _check(made: Any, measured: Array, quality: Array) -> Entry:
    def entry(train: Rows, test: Rows, _: NDArray[Any]) -> Array:
        head = made()
        head.fit_features(measured[train], quality[train])
        predicted = head.predict_features(measured[test])
        return predicted[:, 1] - predicted[:, 0]

    return entry


def usd_of(of_draft: Mapping[str, Entry], names: Iterable[str], usd: Array) -> dict[str, Array]:
    """What a row costs, [n, 2], where the strong model is not asked and where it is, by name."""
    return {name: drafted(usd) if name in of_draft else usd for name in names}


def drafted(usd: Array) -> Array:
    """The same of a cascade, which has paid for the draft in any case."""
    costs: Array = np.column_stack([usd[:, 0], usd.sum(1)])
    return costs
