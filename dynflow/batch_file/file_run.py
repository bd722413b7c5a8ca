"""From a file of rows to a file of results: side by side, within bounds, and from where an earlier run was stopped."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

from langchain_core.exceptions import ModelAuthenticationError
from langchain_core.runnables import RunnableConfig

from dynflow.batch_file.output import OutputFile
from dynflow.batch_file.report import RowsReport
from dynflow.batch_file.rows import Row, Rows
from dynflow.errors import (
    BatchFileError,
    BudgetExceeded,
    MissingDependency,
    MissingEnvironment,
    MissingModel,
    Overloaded,
)
from dynflow.gathering import gathered
from dynflow.models.failures import CircuitOpen, QuotaExhausted

if TYPE_CHECKING:
    from dynflow.flow import Flow

CONCURRENCY = 8
"""Rows under way at once, where nobody says otherwise."""
HOPELESS = (MissingDependency, MissingEnvironment, MissingModel, ModelAuthenticationError, QuotaExhausted)
"""Failures that no row is to blame for, and that every row would have."""
PASSING = (CircuitOpen, Overloaded)
"""Failures that no row is to blame for, and that pass."""
_PATIENCE = 600.0
"""Seconds that a row waits for them to pass."""
_SHORTEST_WAIT = 0.5
_SYNC_EVERY = 1.0
"""Seconds between the moments at which the disk is asked to keep what was written."""

Changed = Literal["refuse", "keep", "redo"]
"""What becomes of results that were made by another graph, other params, or from other inputs."""
R = TypeVar("R", bound=RowsReport)


class FileRun(ABC, Generic[R]):
    """Work of a flow on each row of a file, ready to run; the output of an earlier run is taken up where it ends.

    Each row gets one line in the output, in the order in which rows finish. Raises `BatchFileError` where a file
    cannot be used. Close it, or use it in a `with`. `rows` is closed with it, also where it cannot begin.
    """

    def __init__(
        self,
        flow: Flow,
        rows: Rows,
        target: Path,
        report: Callable[[int], R],
        is_row: Callable[[Mapping[str, Any]], bool],
        *,
        params: Mapping[str, Any] | None,
        concurrency: int,
        retry_failed: bool,
        changed: Changed,
    ) -> None:
        """`report` makes one for so many rows; `is_row` tells rows of the output from what is none."""
        self._flow = flow
        self._config: RunnableConfig = {"configurable": dict(params or {})}
        self._rows = rows
        self._concurrency = concurrency
        self._new_report = report
        try:
            if target.exists() and target.samefile(rows.path):
                raise BatchFileError(f"{target} is the input: give another --output")
            self._output = OutputFile(target, is_row)
        except BaseException:
            self._rows.close()
            raise
        self.report = report(self._rows.count)
        self._waiting: Iterator[Row] = iter(())
        self._refused: list[Row] = []
        """Rows that a budget of all could not take while others held a part of it."""
        self._alone = False
        """Whether a row has all that is left to itself."""
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

    async def run(self, told: Callable[[R], None] = lambda report: None) -> R:
        """Run what is left; `told` hears of each finished row. Cancel it to stop: rows under way leave no trace.

        It stops by itself, with `report.stopped` set, where every further row would fail: the day's budget is spent, a
        key or a package is missing, a model is out of service for long. Raises `OSError` where the output cannot be
        written.
        """
        began = time.perf_counter()
        self._waiting = self._rows.waiting()
        try:
            await self._work(self._concurrency, told)
            while self._refused and self.report.stopped is None:
                await self._work_alone(told)
                await self._work(self._concurrency, told)
        finally:
            self.report.seconds = time.perf_counter() - began
            self._output.sync()
        return self.report

    def warm_up(self) -> None:
        """Load what rows need before the first one's time runs; a node that cannot load fails at its rows."""
        for name in self._nodes():
            with suppress(Exception):
                self._flow.resources.node(name)

    def _nodes(self) -> Iterable[str]:
        """The nodes that rows may come to."""
        return self._flow.checked.nodes

    @abstractmethod
    async def _try(self, row: Row, began: float) -> dict[str, Any]:
        """The row's line of the output; it began then, by `time.perf_counter`.

        Raises what the row is not to blame for: `HOPELESS`, `PASSING`, and `BudgetExceeded` of a budget of all rows.
        """

    def _has_failed(self, row: Mapping[str, Any]) -> bool:
        """Whether a line of the output is one that `retry_failed` has done again."""
        return row["error"] is not None

    def _take_up(self, retry_failed: bool, changed: Changed) -> None:
        """Read what earlier runs have finished."""
        for row in self._output.rows():
            if self._rows.mark(row["id"], str(row["key"]), "failed" if self._has_failed(row) else "done"):
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
            self.report = self._new_report(self._rows.count)
            for row in self._output.rows():
                if self._rows.state(row["id"]) is not None:
                    self.report.add(row)
        self.report.earlier = self.report.finished

    async def _work(self, workers: int, told: Callable[[R], None]) -> None:
        """Run waiting rows until there are none, or there is a reason to stop."""
        try:
            async with gathered(), asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker(told))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _work_alone(self, told: Callable[[R], None]) -> None:
        """Run the rows that were refused one by one: what others had reserved is free again."""
        others, self._waiting, self._refused = self._waiting, iter(self._refused), []
        self._alone = True
        await self._work(1, told)
        self._alone = False
        self._waiting = others

    async def _worker(self, told: Callable[[R], None]) -> None:
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
            except PASSING as error:
                if time.perf_counter() - began > _PATIENCE:
                    self._stop(error)
                if self.report.stopped is not None:
                    return None
                await asyncio.sleep(max(getattr(error, "retry_after", 0.0), _SHORTEST_WAIT))
            except BudgetExceeded:
                self._refused.append(row)
                return None
            except HOPELESS as error:
                self._stop(error)
                return None

    def _stop(self, error: Exception) -> None:
        """Take no more rows; the first reason is told."""
        self.report.stopped = self.report.stopped or told(error)


def told(error: Exception) -> str:
    """What an error says, with its notes: they say in which node it happened."""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"{error}{notes}" if str(error) else f"{type(error).__name__}{notes}"
