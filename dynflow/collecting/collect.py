"""Runs every answer node of a graph on each row of a file, grades what it says, and writes the outcome file."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dynflow.answers import text_of
from dynflow.batch_file.file_run import CONCURRENCY, HOPELESS, PASSING, Changed, FileRun
from dynflow.batch_file.rows import Row, Rows
from dynflow.batch_file.runner import work_hash
from dynflow.budgets import Budget, TotalAllowance
from dynflow.calibration.outcomes import conversation_fault
from dynflow.collecting.bounded import check_bounded
from dynflow.collecting.needed import needed, references
from dynflow.collecting.outcome import input_keys, outcome_of
from dynflow.collecting.report import CollectionReport, trouble
from dynflow.errors import BudgetExceeded, InputError, failure_kind
from dynflow.grading.grader import Answered, Grader
from dynflow.grading.own import GradeFunction, Own
from dynflow.language.spec import Limits
from dynflow.money import precise_dollars
from dynflow.request import Request
from dynflow.walk import State

if TYPE_CHECKING:
    from dynflow.flow import Flow

_ROW_KEYS = frozenset({"id", "key", "outcomes", "usd"})
_ALSO = ("conversation", "reference")
"""Keys of a row, beside those of any batch, that its outcomes depend on, and that stand beside them."""
_OF_ALL = frozenset({"total", "usd_per_day"})
"""Budgets that a row shares with others."""


def collect_outcomes(
    flow: Flow,
    source: str | Path,
    target: str | Path,
    *,
    grade: Grader | GradeFunction,
    sample: int | None = None,
    seed: int = 0,
    usd: float | None = None,
    told: Callable[[CollectionReport], None] = lambda report: None,
    **options: Any,
) -> CollectionReport:
    """Collect the outcomes of a file's rows, `{"id", "input", "reference"}`, until all have one or the budget is spent.

    `grade` is a grader, or a function of an `Answered` that gives 0…1 or whether it is right, and may be async.
    `sample` rows are drawn by `seed`, those of a `conversation` together; `usd` is what all of it may cost, the grader
    and earlier runs included; `told` hears of each finished row. The same call goes on where the last was stopped;
    further options are those of `Collection`. Raises `BatchFileError`, `GradingError`, and what the function raises.
    """
    with Collection(
        flow, Path(source), Path(target), grade=grade, sample=sample, seed=seed, usd=usd, **options
    ) as collection:
        return asyncio.run(collection.run(told))


@dataclass
class _Row:
    """What is done of one row."""

    states: Mapping[str, State] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)
    failed: bool = False
    usd: float | None = 0.0
    grading_usd: float | None = 0.0
    ungraded: dict[str, str] = field(default_factory=dict)
    """Answers that are still to be graded, by node."""


class Collection(FileRun[CollectionReport]):
    """A collection of outcomes, ready to run: as `BatchRun`, but each row is given to every answer node."""

    def __init__(
        self,
        flow: Flow,
        source: Path,
        target: Path,
        *,
        grade: Grader | GradeFunction,
        sample: int | None = None,
        seed: int = 0,
        usd: float | None = None,
        params: Mapping[str, Any] | None = None,
        concurrency: int = CONCURRENCY,
        retry_failed: bool = False,
        changed: Changed = "refuse",
    ) -> None:
        self._grader = grade if isinstance(grade, Grader) else Own(grade)
        self._needed = needed(flow)
        self._begun: dict[int, _Row] = {}
        """Rows under way, by line: one that waits for a model or a budget goes on where it was."""
        if usd is not None:
            check_bounded(flow)
            if self._grader.flow is not None:
                check_bounded(self._grader.flow)
        work = work_hash(flow, params, self._grader.identity())
        rows = Rows(source, work, also=_ALSO, together="conversation", check=lambda row: self._fault_of(row, flow))
        rows.draw(sample, seed)
        super().__init__(
            flow,
            rows,
            target,
            CollectionReport,
            lambda row: row.keys() >= _ROW_KEYS and isinstance(row["outcomes"], dict),
            params=params,
            concurrency=concurrency,
            retry_failed=retry_failed,
            changed=changed,
        )
        self._usd = usd
        self._budget: Budget | None = None
        if usd is not None:
            spent = math.fsum(row["usd"] or 0.0 for row in self._output.rows())  # those out of the sample too
            self._budget = Budget(Limits(), TotalAllowance(max(0.0, usd - spent)))

    @override
    async def run(self, told: Callable[[CollectionReport], None] = lambda report: None) -> CollectionReport:
        try:
            return await super().run(told)
        finally:
            begun = (cost for row in self._begun.values() for cost in (row.usd, row.grading_usd))
            self.report.unfinished_usd = math.fsum(cost for cost in begun if cost is not None)

    @override
    def _nodes(self) -> Iterable[str]:
        return self._needed.order

    @override
    def _has_failed(self, row: Mapping[str, Any]) -> bool:
        return trouble(row) is not None

    def _fault_of(self, row: Row, flow: Flow) -> str | None:
        """What is wrong with a row of the input, in words."""
        try:
            Request(row.input, declared=flow.checked.spec.inputs)
        except InputError as error:
            return str(error)
        if (fault := conversation_fault(row.more.get("conversation"))) is not None:
            return fault
        return self._grader.fault(row.more)

    @override
    async def _try(self, row: Row, began: float) -> dict[str, Any]:
        done = self._begun.setdefault(row.line, _Row())
        try:
            for name in self._needed.order:
                if name in done.ran or (name in self._needed.fallbacks and not done.failed):
                    continue
                await self._run_node(name, row, done)
            for name, text in list(done.ungraded.items()):
                await self._grade(name, text, row, done)
        except BudgetExceeded as error:
            if self._alone:
                self._stop(self._spent(error))
            raise
        del self._begun[row.line]
        cost = None if None in (done.usd, done.grading_usd) else (done.usd or 0.0) + (done.grading_usd or 0.0)
        return {
            "id": row.id,
            "key": row.key,
            **input_keys(row.input),
            **row.more,
            **({} if row.more.get("conversation") is None else {"turn": row.line}),  # rows finish in another order
            "outcomes": done.outcomes,
            "grading_usd": done.grading_usd,
            "usd": cost,
            "seconds": round(time.perf_counter() - began, 6),
        }

    async def _run_node(self, name: str, row: Row, done: _Row) -> None:
        """Run one node and take down its outcome. Raises what the row is not to blame for."""
        graph = self._flow.checked
        cause = next((done.states[owner].error for owner in self._lacking(name, done)), None)
        if cause is not None:  # what it reads has failed: in no walk would a request come here
            self._not_run(name, done, cause)
            return
        try:
            result = await self._flow.arun_node(name, row.input, self._config, states=done.states, budget=self._budget)
        except InputError as refused:  # longer than limits.max_input_tokens, say
            self._not_run(name, done, failure_kind(refused), message=str(refused))
            return
        error = result.error
        done.usd = _sum(done.usd, result.ledger.usd)
        if isinstance(error, (*HOPELESS, *PASSING)) or (isinstance(error, BudgetExceeded) and error.limit in _OF_ALL):
            raise error
        done.ran.add(name)
        done.states = result.states
        done.failed |= not result.states[name].ok
        for each in (name, *graph.nodes[name].members):
            if each in self._needed.recorded and each in result.states:
                done.outcomes[each] = outcome_of(self._flow, each, result)
        if graph.nodes[name].role == "answer" and result.output is not None:
            text = text_of(result.output.value)
            done.outcomes[name]["response"] = text
            done.ungraded[name] = text

    def _not_run(self, name: str, done: _Row, error: str, **more: str) -> None:
        """Take down a node that cannot run, and whatever it holds, as failed."""
        done.ran.add(name)
        done.failed = True
        for each in (name, *self._flow.checked.nodes[name].members):
            done.states = {**done.states, each: State(False, error=error)}
            if each in self._needed.recorded:
                done.outcomes[each] = {"quality": 0.0, "error": error, **more}

    def _lacking(self, name: str, done: _Row) -> Iterator[str]:
        """Nodes that have failed, and that a node cannot do without."""
        graph = self._flow.checked
        plan = graph.nodes[name]
        for each in (plan, *(graph.nodes[member] for member in plan.members)):
            for reference in references(each).values():
                read = [owner for owner, _ in reference.targets if owner in done.states]
                if read and not any(done.states[owner].ok for owner in read):
                    yield read[-1]

    async def _grade(self, name: str, text: str, row: Row, done: _Row) -> None:
        question = Request(row.input, declared=self._flow.checked.spec.inputs).text
        answered = Answered(text, question, row.more.get("reference"), name, row.input)
        grade = await self._grader.grade(answered, self._budget)
        done.grading_usd = _sum(done.grading_usd, grade.usd)
        if grade.failure is not None:
            raise grade.failure
        del done.ungraded[name]
        if grade.quality is None:
            done.outcomes[name]["ungraded"] = grade.why
        else:
            done.outcomes[name] = {"quality": grade.quality, **done.outcomes[name]}

    def _spent(self, error: BudgetExceeded) -> Exception:
        """Why no further row can be paid."""
        if error.limit != "total" or self._usd is None:
            return error
        return BudgetExceeded(f"the budget of {precise_dollars(self._usd)} does not afford another row: {error}")


def _sum(total: float | None, usd: float | None) -> float | None:
    """What two things cost together; None where a price is unknown."""
    return None if total is None or usd is None else math.fsum((total, usd))
