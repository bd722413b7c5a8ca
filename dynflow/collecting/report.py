"""How far a collection of outcomes is, and what each node was worth so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override

from dynflow.batch_file.report import RowsReport


@dataclass
class NodeFigures:
    """One node's outcomes so far."""

    rows: int = 0
    graded: int = 0
    """Rows with a quality, failures among them: theirs is 0."""
    failed: int = 0
    ungraded: int = 0
    quality: float = 0.0
    """Sum over graded rows."""
    usd: float = 0.0
    unpriced: int = 0
    """Rows that did cost what nobody knows."""
    seconds: float = 0.0

    @property
    def mean_quality(self) -> float | None:
        """None where no row is graded: it is a signal, say."""
        return self.quality / self.graded if self.graded else None

    @property
    def mean_usd(self) -> float | None:
        """USD per row whose cost is known."""
        priced = self.rows - self.unpriced
        return self.usd / priced if priced else None

    def add(self, outcome: Mapping[str, Any]) -> None:
        """Count one row's outcome."""
        self.rows += 1
        self.failed += "error" in outcome
        self.ungraded += "ungraded" in outcome
        if "quality" in outcome:
            self.graded += 1
            self.quality += outcome["quality"]
        if outcome.get("usd") is None:
            self.unpriced += 1
        else:
            self.usd += outcome["usd"]
        self.seconds += outcome.get("seconds", 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "rows": self.rows,
            "quality": self.mean_quality,
            "usd": self.mean_usd,
            "seconds": self.seconds / self.rows if self.rows else None,
            "failed": self.failed,
            "ungraded": self.ungraded,
        }


@dataclass
class CollectionReport(RowsReport):
    """The figures of a collection.

    `errors` counts rows in which a node failed, by the kind of its failure, or (`ungraded`) got no grade.
    """

    nodes: dict[str, NodeFigures] = field(default_factory=dict)
    """By node, or model, as the file names it."""
    unfinished_usd: float = 0.0
    """USD that rows have cost which this run began and did not finish: they are not in the file, nor in `usd`."""
    ungraded: list[str] = field(default_factory=list)
    """Answers that got no grade, in words; the first few."""

    @override
    def add(self, row: Mapping[str, Any]) -> None:
        self._count(trouble(row), row["usd"])
        for name, outcome in row["outcomes"].items():
            self.nodes.setdefault(name, NodeFigures()).add(outcome)
            if "ungraded" in outcome and len(self.ungraded) < _MOST_TOLD:
                self.ungraded.append(f"id {row['id']!r}, {name}: {outcome['ungraded']}")

    @override
    def as_dict(self) -> dict[str, Any]:
        return {
            **super().as_dict(),
            "unfinished_usd": self.unfinished_usd,
            "nodes": {name: figures.as_dict() for name, figures in self.nodes.items()},
        }


_MOST_TOLD = 10


def trouble(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a row's outcomes: the kind of a node's failure, or `ungraded`; None where nothing is."""
    for outcome in row["outcomes"].values():
        if "ungraded" in outcome:
            return "ungraded"
        if "error" in outcome:
            return str(outcome["error"])
    return None
