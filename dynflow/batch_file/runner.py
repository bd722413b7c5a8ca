"""Runs a graph over a file of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from dynflow.answers import plain_answer
from dynflow.batch_file.file_run import CONCURRENCY, HOPELESS, PASSING, Changed, FileRun, told
from dynflow.batch_file.output import is_result
from dynflow.batch_file.report import Report
from dynflow.batch_file.rows import Row, Rows
from dynflow.errors import BudgetExceeded, failure_kind
from dynflow.hashes import content_hash
from dynflow.ledger import Ledger
from dynflow.recording import observers
from dynflow.trace import Trace

if TYPE_CHECKING:
    from dynflow.flow import Flow


class BatchRun(FileRun[Report]):
    """A batch from file to file: each row walks the graph."""

    def __init__(
        self,
        flow: Flow,
        source: Path,
        target: Path,
        *,
        params: Mapping[str, Any] | None = None,
        concurrency: int = CONCURRENCY,
        retry_failed: bool = False,
        changed: Changed = "refuse",
    ) -> None:
        self._records = _Records()
        self._paid: dict[int, float] = {}
        """USD that rows have cost in tries that came to nothing, by line."""
        super().__init__(
            flow,
            Rows(source, work_hash(flow, params)),
            target,
            Report,
            is_result,
            params=params,
            concurrency=concurrency,
            retry_failed=retry_failed,
            changed=changed,
        )

    async def run(self, told: Callable[[Report], None] = lambda report: None) -> Report:
        with _observing(self._records):
            return await super().run(told)

    async def _try(self, row: Row, began: float) -> dict[str, Any]:
        """The row's line of the output. Raises what the row is not to blame for."""
        run = uuid4()
        answer, failure = None, None
        self._records.of[run] = Trace(self._flow.get_name()), Ledger()
        try:
            result = await self._flow.arun(row.input, {**self._config, "run_id": run})
            trace, ledger, answer = result.trace, result.ledger, plain_answer(result.value)
        except Exception as error:
            trace, ledger = self._records.of[run]
            day_spent = isinstance(error, BudgetExceeded) and error.limit == "usd_per_day"
            if day_spent and self._alone:
                self._stop(error)
            if day_spent or isinstance(error, (*PASSING, *HOPELESS)):
                self._paid[row.line] = self._paid.get(row.line, 0.0) + (ledger.usd or 0.0)
                raise
            failure = {"kind": failure_kind(error), "message": told(error)}
        finally:
            del self._records.of[run]
        paid = self._paid.pop(row.line, 0.0)
        return {
            "id": row.id,
            "key": row.key,
            "output": answer,
            "answer": trace.answer,
            "path": trace.path,
            "degraded": trace.degraded,
            "usd": None if ledger.usd is None else ledger.usd + paid,
            "saved_usd": None if ledger.saved_usd is None else ledger.saved_usd - paid,
            "seconds": round(time.perf_counter() - began, 6),
            "error": failure,
        }


def work_hash(flow: Flow, params: Mapping[str, Any] | None, *more: Any) -> str:
    """What is done to each row: by which graph, with which params; a calibration has its part in their defaults."""
    defaults = {name: body.default for name, body in flow.params.items()}
    return content_hash([flow.graph_hash, defaults, dict(params or {}), *more])


class _Records:
    """The records of requests that have ended, those that failed too."""

    def __init__(self) -> None:
        self.of: dict[UUID, tuple[Trace, Ledger]] = {}
        """By run."""

    def visit_begun(self, *_: object) -> None:
        """Only whole requests matter here."""

    def visit_ended(self, *_: object) -> None:
        """Only whole requests matter here."""

    def request_ended(self, flow: UUID, trace: Trace, ledger: Ledger) -> None:
        """Keep it where somebody will take it away: of no sub-graph, of no other flow."""
        if flow in self.of:
            self.of[flow] = trace, ledger


@contextmanager
def _observing(records: _Records) -> Iterator[None]:
    """Let it hear of requests while the `with` lasts."""
    observers.append(records)
    try:
        yield
    finally:
        observers.remove(records)
