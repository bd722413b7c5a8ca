"""Criteria: when a row is sure enough to leave. One file each, one interface, no arrays."""

from __future__ import annotations

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion
from dynflow.nodes.early_exit_classifier.criteria.entropy import Entropy
from dynflow.nodes.early_exit_classifier.criteria.patience import Patience
from dynflow.nodes.early_exit_classifier.criteria.static import Static

CRITERIA: dict[str, type[Criterion]] = {kind.name: kind for kind in (Entropy, Patience, Static)}
