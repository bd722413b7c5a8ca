"""Runs a graph over a file of rows: side by side, within bounds, and from where an earlier run was stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import UUID, uuid4

from langchain_core.exceptions import ModelAuthenticationError
from langchain_core.runnables import RunnableConfig

from dynflow.answers import plain_answer
from dynflow.batch_file.output import OutputFile
from dynflow.batch_file.report import Report
from dynflow.batch_file.rows import Row, Rows
from dynflow.errors import (
    BatchFileError,
    BudgetExceeded,
    MissingDependency,
    MissingEnvironment,
    MissingModel,
    Overloaded,
    failure_kind,
)
from dynflow.hashes import content_hash
from dynflow.ledger import Ledger
from dynflow.models.failures import CircuitOpen
from dynflow.recording import observers
from dynflow.trace import Trace

if TYPE_CHECKING:
    from dynflow.flow import Flow

CONCURRENCY = 8
"""Rows under way at once, where nobody says otherwise."""
_HOPELESS = (MissingDependency, MissingEnvironment, MissingModel, ModelAuthenticationError)
"""Failures that no row is to blame for, and that every row would have."""
_PASSING = (CircuitOpen, Overloaded)
"""Failures that no row is to blame for, and that pass."""
_PATIENCE = 600.0
"""Seconds that a row waits for them to pass."""
_SHORTEST_WAIT = 0.5
_SYNC_EVERY = 1.0
"""Seconds between the moments at which the disk is asked to keep what was written."""

Changed = Literal["refuse", "keep", "redo"]
"""What becomes of results that were made by another graph, other params, or from other inputs."""


class BatchRun:
    """A batch from file to file, ready to run; the output of an earlier run is taken up where it ends.

    Each row of `source` gets one line in `target`, in the order in which rows finish. Raises `BatchFileError` where a
    file cannot be used. Close it, or use it in a `with`.
    """

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
        self._flow = flow
        self._config: RunnableConfig = {"configurable": dict(params or {})}
        self._concurrency = concurrency
        defaults = {name: body.default for name, body in flow.params.items()}  # a calibration has its part in them
        self._rows = Rows(source, content_hash([flow.graph_hash, defaults, dict(params or {})]))
        try:
            if target.exists() and target.samefile(source):
                raise BatchFileError(f"{target} is the input: give another --output")
            self._output = OutputFile(target)
        except BaseException:
            self._rows.close()
            raise
        self.report = Report(rows=self._rows.count)
        self._waiting: Iterator[Row] = iter(())
        self._refused: list[Row] = []
        """Rows that the day's budget could not take while others held a part of it."""
        self._alone = False
        self._records = _Records()
        self._paid: dict[int, float] = {}
        """USD that rows have cost in tries that came to nothing, by line."""
        self._synced = time.monotonic()
        try:
            self._take_up(retry_failed, changed)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._output.close()
        self._rows.close()

    async def run(self, told: Callable[[Report], None] = lambda report: None) -> Report:
        """Run what is left; `told` hears of each finished row. Cancel it to stop: rows under way leave no trace.

        It stops by itself, with `report.stopped` set, where every further row would fail: the day's budget is spent, a
        key or a package is missing, a model is out of service for long. Raises `OSError` where the output cannot be
        written.
        """
        began = time.perf_counter()
        self._waiting = self._rows.waiting()
        try:
            with _observing(self._records):
                await self._work(self._concurrency, told)
                while self._refused and self.report.stopped is None:
                    await self._work_alone(told)
                    await self._work(self._concurrency, told)
        finally:
            self.report.seconds = time.perf_counter() - began
            self._output.sync()
        return self.report

    def warm_up(self) -> None:
        """Load every node before the first row's time runs; one that cannot load fails at its rows."""
        for name in self._flow.checked.nodes:
            with suppress(Exception):
                self._flow.resources.node(name)

    def _take_up(self, retry_failed: bool, changed: Changed) -> None:
        """Read what earlier runs have finished."""
        for row in self._output.rows():
            if self._rows.mark(row["id"], str(row["key"]), "done" if row["error"] is None else "failed"):
                self.report.add(row)
            elif self._rows.state(row["id"]) is not None:
                raise BatchFileError(f"{self._output.path}: the id {row['id']!r} has two results: remove one")
        self._output.mend()
        redone = self._rows.redo(failed=retry_failed, changed=changed == "redo")
        others, first = self._rows.changed()
        if others and changed == "refuse":
            raise BatchFileError(
                f"{self._output.path} holds results of another graph, of other params or of other inputs ({others:,}; "
                f"the first is that of id {first}): give another --output, or `--changed keep` to leave them as they "
                "are, or `--changed redo` to replace them"
            )
        if redone:
            self._output.remove(lambda row: self._rows.state(row["id"]) == "waiting")
            self.report = Report(rows=self._rows.count)
            for row in self._output.rows():
                if self._rows.state(row["id"]) is not None:
                    self.report.add(row)
        self.report.earlier = self.report.finished

    async def _work(self, workers: int, told: Callable[[Report], None]) -> None:
        """Run waiting rows until there are none, or there is a reason to stop."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker(told))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _work_alone(self, told: Callable[[Report], None]) -> None:
        """Run the rows that were refused one by one: what others had reserved is free again."""
        others, self._waiting, self._refused = self._waiting, iter(self._refused), []
        self._alone = True
        await self._work(1, told)
        self._alone = False
        self._waiting = others

    async def _worker(self, told: Callable[[Report], None]) -> None:
        while self.report.stopped is None and not self._refused:
            row = next(self._waiting, None)
            if row is None:
                return
            finished = await self._finish(row)
            if finished is None:
                continue
            self._output.append(finished)
            self.report.add(finished)
            told(self.report)
            if time.monotonic() - self._synced > _SYNC_EVERY:
                self._synced = time.monotonic()
                await asyncio.to_thread(self._output.sync)

    async def _finish(self, row: Row) -> dict[str, Any] | None:
        """The row's line of the output; None where it should not have one yet."""
        began = time.perf_counter()
        while True:
            try:
                return await self._try(row, began)
            except _PASSING as error:
                if time.perf_counter() - began > _PATIENCE:
                    self._stop(error)
                if self.report.stopped is not None:
                    return None
                await asyncio.sleep(max(getattr(error, "retry_after", 0.0), _SHORTEST_WAIT))
            except BudgetExceeded:
                self._refused.append(row)
                return None
            except _HOPELESS as error:
                self._stop(error)
                return None

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
            if day_spent or isinstance(error, (*_PASSING, *_HOPELESS)):
                self._paid[row.line] = self._paid.get(row.line, 0.0) + (ledger.usd or 0.0)
                raise
            failure = {"kind": failure_kind(error), "message": _told(error)}
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

    def _stop(self, error: Exception) -> None:
        """Take no more rows; the first reason is told."""
        self.report.stopped = self.report.stopped or _told(error)


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


def _told(error: Exception) -> str:
    """What an error says, with its notes: they say in which node it happened."""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{error}{notes}" if str(error) else f"{type(error).__name__}{notes}"
