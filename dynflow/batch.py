"""Batches: many requests walk together, and those that stand at the same node go to that node's own batch."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from heapq import heappop, heappush
from itertools import count
from typing import Any

from langchain_core.runnables import RunnableConfig

from dynflow.errors import InputError, NodeFailed, StreamInterrupted
from dynflow.graph import CheckedGraph
from dynflow.language.spec import START
from dynflow.node import Call, Cancelled, Output
from dynflow.running import Runner
from dynflow.timing import each_in_time, each_within
from dynflow.trace import FlowResult
from dynflow.visit import Completed, Visit

Result = FlowResult[Any] | Exception
Ended = Completed | StreamInterrupted
"""How a visit of a batch ended: an answer that broke off while an observer passed it on ends its request."""
_THREADS = 16
"""Requests that run side by side where the caller sets no `max_concurrency`."""


class Schedule:
    """Which visits may start. Pure: it neither runs nor waits.

    A node that batches waits until no other request can still arrive at it; every other node may start at once.
    Requests under way go before those that have yet to begin: their deadlines run.
    """

    def __init__(self, graph: CheckedGraph) -> None:
        self._graph = graph
        self._gathering: dict[str, list[tuple[int, Visit]]] = defaultdict(list)
        self._ready: list[tuple[bool, int, list[tuple[int, Visit]]]] = []
        self._order = count()
        self._at: dict[int, str] = {}

    def arrive(self, job: int, visit: Visit | None) -> None:
        """A request stands at its next node, or (None) is done."""
        if visit is None:
            self._at.pop(job, None)
            return
        self._at[job] = visit.node_id
        if visit.plan.cls.batches:
            self._gathering[visit.node_id].append((job, visit))
        else:
            self._put([(job, visit)])

    def take(self, free: int) -> Iterator[list[tuple[int, Visit]]]:
        """Up to `free` groups of visits that start now."""
        for node_id in list(self._gathering):
            if self._graph.ancestors[node_id].isdisjoint(self._at.values()):
                self._put(self._gathering.pop(node_id))
        for _ in range(min(free, len(self._ready))):
            yield heappop(self._ready)[2]

    def _put(self, group: list[tuple[int, Visit]]) -> None:
        fresh = all(visit.decision is not None and visit.decision.source == START for _, visit in group)
        heappush(self._ready, (fresh, next(self._order), group))


class _Jobs:
    """The requests of a batch: moves each on, keeps its outcome."""

    def __init__(self, graph: CheckedGraph, runners: Sequence[Runner | Exception]) -> None:
        self.runners = runners
        self.schedule = Schedule(graph)
        self.results: list[Result] = [error if isinstance(error, Exception) else _UNFINISHED for error in runners]
        for job, runner in enumerate(runners):
            if isinstance(runner, Runner):
                self._move(job, runner)

    def runner(self, job: int) -> Runner:
        runner = self.runners[job]
        assert isinstance(runner, Runner)
        return runner

    def completed(self, group: Sequence[tuple[int, Visit]], done: Sequence[Ended]) -> None:
        for (job, visit), each in zip(group, done, strict=True):
            runner = self.runner(job)
            if isinstance(each, StreamInterrupted):
                self.results[job] = each
                runner.end(each)
                self.schedule.arrive(job, None)
                continue
            runner.session.complete(visit, each)
            self._move(job, runner)

    def _move(self, job: int, runner: Runner) -> None:
        visit = None
        try:
            visit = runner.session.next()
            if visit is None:
                self.results[job] = runner.session.result()
                runner.end()
        except Exception as error:
            self.results[job] = error
            runner.end(error)
        self.schedule.arrive(job, visit)

    def close(self) -> None:
        """Nobody waits any more for requests that are still under way."""
        for runner in self.runners:
            if isinstance(runner, Runner):
                runner.end(Cancelled())


_UNFINISHED = RuntimeError("the request was not finished")


def _slots(max_concurrency: int | None, default: int) -> int:
    if max_concurrency is not None and max_concurrency < 1:
        raise InputError(f"max_concurrency is at least 1, not {max_concurrency}")
    return max_concurrency or default


def batch_sessions(
    graph: CheckedGraph, runners: Sequence[Runner | Exception], max_concurrency: int | None
) -> list[Result]:
    """Walk all requests; results in their order, an exception where one failed."""
    jobs = _Jobs(graph, runners)
    running: dict[Future[Sequence[Ended]], list[tuple[int, Visit]]] = {}
    slots = _slots(max_concurrency, _THREADS)
    pool = ThreadPoolExecutor(slots)
    try:
        while True:
            for group in jobs.schedule.take(slots - len(running)):
                pairs = [(jobs.runner(job), visit) for job, visit in group]
                running[pool.submit(contextvars.copy_context().run, run_together, pairs)] = group
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                jobs.completed(running.pop(future), future.result())
    finally:
        for group in running.values():
            for _, visit in group:
                visit.call_off()
        pool.shutdown(wait=False, cancel_futures=True)
        jobs.close()
    for job, runner in enumerate(runners):
        if isinstance(runner, Runner) and isinstance(jobs.results[job], FlowResult):
            runner.decided()
    return jobs.results


async def abatch_sessions(
    graph: CheckedGraph, runners: Sequence[Runner | Exception], max_concurrency: int | None
) -> list[Result]:
    """The same, async."""
    jobs = _Jobs(graph, runners)
    running: dict[asyncio.Task[Sequence[Ended]], list[tuple[int, Visit]]] = {}
    slots = _slots(max_concurrency, max(1, len(runners)))
    try:
        while True:
            for group in jobs.schedule.take(slots - len(running)):
                pairs = [(jobs.runner(job), visit) for job, visit in group]
                running[asyncio.create_task(arun_together(pairs))] = group
            if not running:
                break
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                jobs.completed(running.pop(task), task.result())
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        jobs.close()
    for job, runner in enumerate(runners):
        if isinstance(runner, Runner) and isinstance(jobs.results[job], FlowResult):
            await runner.adecided()
    return jobs.results


def run_together(pairs: Sequence[tuple[Runner, Visit]]) -> Sequence[Ended]:
    """Run the visits of one node: as its batch where there are several, else alone."""
    if len(pairs) == 1:
        try:
            return [runner.run(visit) for runner, visit in pairs]
        except StreamInterrupted as error:
            return [error]
    group = _Group(pairs)
    outcomes: Sequence[Output | BaseException] = ()
    try:
        group.open([runner.open(visit) for runner, visit in pairs])
        if group.calls:
            outcomes = each_within(group.run, group.visits)
    except Exception as error:
        outcomes = [error] * len(group.calls)
    except BaseException as error:
        outcomes = [error] * len(group.calls)
        raise
    finally:
        done = [
            item.runner.close(item.visit, item.visit.run, item.outcome, seconds)
            for item, seconds in group.take(outcomes)
        ]
    return done


async def arun_together(pairs: Sequence[tuple[Runner, Visit]]) -> Sequence[Ended]:
    """The same, async."""
    if len(pairs) == 1:
        try:
            return [await runner.arun(visit) for runner, visit in pairs]
        except StreamInterrupted as error:
            return [error]
    group = _Group(pairs)
    outcomes: Sequence[Output | BaseException] = ()
    try:
        group.open([await runner.aopen(visit) for runner, visit in pairs])
        if group.calls:
            outcomes = await each_in_time(group.arun(), group.visits)
    except Exception as error:
        outcomes = [error] * len(group.calls)
    except BaseException as error:
        outcomes = [error] * len(group.calls)
        raise
    finally:
        done = [
            await item.runner.aclose(item.visit, item.visit.run, item.outcome, seconds)
            for item, seconds in group.take(outcomes)
        ]
    return done


class _Item:
    """One visit of a group, from its child run's start to its end."""

    def __init__(self, runner: Runner, visit: Visit) -> None:
        self.runner = runner
        self.visit = visit
        self.call: Call | None = None
        self.outcome: Output | BaseException = _UNFINISHED


class _Group:
    """Visits of one node that run as its batch."""

    def __init__(self, pairs: Sequence[tuple[Runner, Visit]]) -> None:
        self.items = [_Item(runner, visit) for runner, visit in pairs]
        self.first = pairs[0][0]
        self._began = time.perf_counter()

    @property
    def calls(self) -> list[Call]:
        return [item.call for item in self.items if item.call is not None]

    @property
    def visits(self) -> list[Visit]:
        return [item.visit for item in self.items if item.call is not None]

    def open(self, opened: Sequence[tuple[Any, RunnableConfig]]) -> None:
        """Make each visit's call; one whose options do not resolve fails by itself."""
        for item, (_, config) in zip(self.items, opened, strict=True):
            try:
                item.call = item.runner.call(item.visit, config)
            except Exception as error:
                item.outcome = error

    def run(self) -> Sequence[Output | Exception]:
        """Run the batch; a node that is still to be warmed up takes of its visits' time."""
        return self.first.node(self.items[0].visit).run_batch(self.calls)

    async def arun(self) -> Sequence[Output | Exception]:
        """The same, async."""
        return await (await self.first.anode(self.items[0].visit)).arun_batch(self.calls)

    def take(self, outcomes: Sequence[Output | BaseException]) -> list[tuple[_Item, float]]:
        """Hand each call its outcome; all items, to be closed, each with its seconds: the time is shared out evenly."""
        called = [item for item in self.items if item.call is not None]
        if len(outcomes) != len(called):
            outcomes = [miscounted(len(outcomes), len(called))] * len(called)
        for item, outcome in zip(called, outcomes, strict=True):
            item.outcome = outcome
        seconds = (time.perf_counter() - self._began) / len(self.items)
        return [(item, seconds) for item in self.items]


def miscounted(given: int, asked: int) -> NodeFailed:
    """The failure of each request of a batch that gave too few results, or too many."""
    return NodeFailed(f"its batch gave {given} results for {asked} requests")
