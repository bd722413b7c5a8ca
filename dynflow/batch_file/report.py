"""How far a file of rows is: rows, failures and cost; of a batch also its saving and the paths that were taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from typing_extensions import override


@dataclass
class RowsReport(ABC):
    """The figures of work on each row of a file; those of earlier runs on the same output count too."""

    rows: int
    """Rows of the input."""
    earlier: int = 0
    """Rows that were finished by earlier runs."""
    finished: int = 0
    """Rows with a result: an answer or an error."""
    errors: Counter[str] = field(default_factory=Counter)
    """Failed rows by the kind of failure."""
    usd: float = 0.0
    unpriced: int = 0
    """Rows that did cost what nobody knows."""
    seconds: float = 0.0
    """Wall-clock time of this run."""
    stopped: str | None = None
    """Why it stopped before the last row."""

    @property
    def failed(self) -> int:
        """Rows that failed."""
        return self.errors.total()

    @property
    def left(self) -> int:
        """Rows without a result."""
        return self.rows - self.finished

    @abstractmethod
    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of the output."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "rows": self.rows,
            "finished": self.finished,
            "earlier": self.earlier,
            "failed": self.failed,
            "left": self.left,
            "errors": dict(self.errors.most_common()),
            "usd": self.usd,
            "unpriced": self.unpriced,
            "seconds": round(self.seconds, 3),
            "stopped": self.stopped,
        }

    def _count(self, failure: str | None, usd: float | None) -> None:
        """Count a row by how it failed, if it did, and what it cost, where that is known."""
        self.finished += 1
        if failure is not None:
            self.errors[failure] += 1
        if usd is None:
            self.unpriced += 1
        else:
            self.usd += usd


@dataclass
class Report(RowsReport):
    """The figures of a batch."""

    degraded: int = 0
    saved_usd: float = 0.0
    compared_usd: float = 0.0
    """Cost of the rows that could be compared with the baseline."""
    compared: int = 0
    paths: Counter[tuple[str, ...]] = field(default_factory=Counter)

    @property
    def saved_share(self) -> float | None:
        """The part of the baseline's cost that was saved; None where nothing can be compared."""
        baseline = self.saved_usd + self.compared_usd
        return self.saved_usd / baseline if baseline > 0 else None

    @override
    def add(self, row: Mapping[str, Any]) -> None:
        self._count(None if row["error"] is None else row["error"]["kind"], row["usd"])
        self.degraded += bool(row["degraded"])
        if row["path"] is not None:
            self.paths[tuple(row["path"])] += 1
        if row["usd"] is not None and row["saved_usd"] is not None:
            self.compared += 1
            self.compared_usd += row["usd"]
            self.saved_usd += row["saved_usd"]

    @override
    def as_dict(self) -> dict[str, Any]:
        return {
            **super().as_dict(),
            "degraded": self.degraded,
            "saved_usd": self.saved_usd if self.compared else None,
            "paths": [
                {"path": list(path), "rows": rows, "share": rows / self.finished}
                for path, rows in self.paths.most_common()
            ],
        }
