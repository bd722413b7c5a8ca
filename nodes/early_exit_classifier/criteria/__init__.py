"""Criteria: when a row is sure enough to leave. One file each, one interface, no arrays.

Another package's criterion is found by the entry-point group `dynflow.exit_criteria`, under its name there.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from numbers import Real
from typing import Any

from dynflow.language.source import did_you_mean
from dynflow.nodes.early_exit_classifier.criteria.confidence import Confidence
from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion
from dynflow.nodes.early_exit_classifier.criteria.entropy import Entropy
from dynflow.nodes.early_exit_classifier.criteria.learnt import Learnt, LearntCriterion, Lesson, Recording
from dynflow.nodes.early_exit_classifier.criteria.margin import Margin
from dynflow.nodes.early_exit_classifier.criteria.past_future import PastFuture
from dynflow.nodes.early_exit_classifier.criteria.patience import Patience
from dynflow.nodes.early_exit_classifier.criteria.patience_and_confidence import PatienceAndConfidence
from dynflow.nodes.early_exit_classifier.criteria.scheduled import Scheduled
from dynflow.nodes.early_exit_classifier.criteria.static import Static
from dynflow.nodes.early_exit_classifier.criteria.voting import Voting

__all__ = [
    "CRITERIA",
    "ENTRY_POINT_GROUP",
    "Confidence",
    "Criterion",
    "Entropy",
    "Learnt",
    "LearntCriterion",
    "Lesson",
    "Margin",
    "PastFuture",
    "Patience",
    "PatienceAndConfidence",
    "Recording",
    "Scheduled",
    "Static",
    "Voting",
    "criterion_of",
    "kind_of",
]

ENTRY_POINT_GROUP = "dynflow.exit_criteria"

CRITERIA: dict[str, type[Criterion]] = {
    kind.name: kind
    for kind in (Entropy, Confidence, Margin, Patience, PatienceAndConfidence, Voting, PastFuture, Scheduled, Static)
}


def criterion_of(given: Mapping[str, Any], learnt: Mapping[str, Mapping[str, Any]] | None = None) -> Criterion:
    """The criterion that `{criterion: …, threshold: …}` and its settings describe. Raises ValueError in words.

    Settings stand beside these two or, those of other packages, under `settings`. `learnt` are the facts that the
    model has for criteria which learn, by name.
    """
    name = given.get("criterion")
    if not isinstance(name, str):
        raise ValueError(f"`criterion` is one of {', '.join(CRITERIA)}, not {name!r}")
    kind = kind_of(name)
    if given.get("threshold") is None:
        raise ValueError(f"{name} needs a `threshold`: {kind.summary}")
    settings = {key: value for key, value in given.items() if key not in ("criterion", "threshold", "settings")}
    settings |= given.get("settings") or {}
    if surplus := settings.keys() - set(kind.settings):
        near = did_you_mean(min(surplus), kind.settings)
        raise ValueError(f"{name} takes no {', '.join(map(repr, sorted(surplus)))}{near}")
    if isinstance(given["threshold"], bool) or not isinstance(given["threshold"], Real):
        raise ValueError(f"a threshold is a number, not {given['threshold']!r}")
    if issubclass(kind, LearntCriterion):
        if name not in (learnt or {}):
            raise ValueError(f"the model has not learnt {name}: teach it by `dynflow train exit-criteria`")
        settings["facts"] = (learnt or {})[name]
    try:
        return kind(float(given["threshold"]), **settings)
    except (KeyError, TypeError) as error:  # of facts, or of another package's settings
        raise ValueError(f"{name} cannot be made of {given}: {error!r}") from error


def kind_of(name: str) -> type[Criterion]:
    """The criterion of this name, dynflow's or another package's. Raises ValueError in words."""
    kind = CRITERIA.get(name) or _plugged_in(name)
    if kind is None:
        raise ValueError(f"there is no criterion {name!r}{did_you_mean(name, CRITERIA)}")
    return kind


def _plugged_in(name: str) -> type[Criterion] | None:
    """Another package's criterion of this name. Raises ValueError where it is none."""
    found = entry_points(group=ENTRY_POINT_GROUP, name=name)
    for point in found:
        kind = point.load()
        if not (isinstance(kind, type) and issubclass(kind, Criterion)):
            raise ValueError(f"the entry point {name!r} of {ENTRY_POINT_GROUP} is no Criterion")
        CRITERIA[name] = kind
        return kind
    return None
