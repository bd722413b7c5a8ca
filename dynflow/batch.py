"""Batches: many requests walk together, and those that stand at the same node go to that node's own batch."""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from langchain_core.runnables import RunnableConfig

from dynflow.graph import CheckedGraph
from dynflow.node import Call, Output
from dynflow.running import Runner, within
from dynflow.session import Completed, Visit
from dynflow.trace import FlowResult

Result = FlowResult[Any] | Exception
_THREADS = 16
"""Requests that run side by side where the caller sets no `max_concurrency`."""


class Schedule:
    """Which visits may start. Pure: it neither runs nor waits.

    A node that batches waits until no other request can still arrive at it; every other node starts at once.
    """

    def __init__(self, graph: CheckedGraph) -> None:
        self._graph = graph
        self._waiting: dict[str, list[tuple[int, Visit]]] = defaultdict(list)
        self._at: dict[int, str] = {}

    def arrive(self, job: int, visit: Visit | None) -> None:
        """A request stands at its next node, or (None) is done."""
        if visit is None:
            self._at.pop(job, None)
            return
        self._at[job] = visit.node_id
        self._waiting[visit.node_id].append((job, visit))

    def take(self) -> list[list[tuple[int, Visit]]]:
        """The groups of visits that may start now; each is started once."""
        groups: list[list[tuple[int, Visit]]] = []
        for node_id in list(self._waiting):
            waiting = self._waiting[node_id]
            if not self._graph.nodes[node_id].cls.batches:
                groups += [[item] for item in waiting]
            elif any(place in self._graph.ancestors[node_id] for place in self._at.values()):
                continue
            else:
                groups.append(waiting)
            del self._waiting[node_id]
        return groups


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

    def completed(self, group: Sequence[tuple[int, Visit]], done: Sequence[Completed]) -> None:
        for (job, visit), completed in zip(group, done, strict=True):
            runner = self.runner(job)
            runner.session.complete(visit, completed)
            self._move(job, runner)

    def _move(self, job: int, runner: Runner) -> None:
        visit = None
        try:
            visit = runner.session.next()
            if visit is None:
                self.results[job] = runner.session.result()
        except Exception as error:
            self.results[job] = error
        self.schedule.arrive(job, visit)


_UNFINISHED = RuntimeError("the request was not finished")


def batch_sessions(
    graph: CheckedGraph, runners: Sequence[Runner | Exception], max_concurrency: int | None
) -> list[Result]:
    """Walk all requests; results in their order, an exception where one failed."""
    jobs = _Jobs(graph, runners)
    running: dict[Future[list[Completed]], list[tuple[int, Visit]]] = {}
    with ThreadPoolExecutor(max_concurrency or _THREADS) as pool:
        try:
            while True:
                for group in jobs.schedule.take():
                    pairs = [(jobs.runner(job), visit) for job, visit in group]
                    context = contextvars.copy_context()
                    running[pool.submit(context.run, run_together, pairs)] = group
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    jobs.completed(running.pop(future), future.result())
        except BaseException:
            for future in running:
                future.cancel()
            for group in running.values():
                for _, visit in group:
                    visit.call_off()
            raise
    for job, runner in enumerate(runners):
        if isinstance(runner, Runner) and isinstance(jobs.results[job], FlowResult):
            runner.decided()
    return jobs.results


async def abatch_sessions(
    graph: CheckedGraph, runners: Sequence[Runner | Exception], max_concurrency: int | None
) -> list[Result]:
    """The same, async."""
    jobs = _Jobs(graph, runners)
    slots = asyncio.Semaphore(max_concurrency or max(1, len(runners)))
    running: dict[asyncio.Task[list[Completed]], list[tuple[int, Visit]]] = {}

    async def work(group: list[tuple[int, Visit]]) -> list[Completed]:
        async with slots:
            return await arun_together([(jobs.runner(job), visit) for job, visit in group])

    try:
        while True:
            for group in jobs.schedule.take():
                running[asyncio.create_task(work(group))] = group
            if not running:
                break
            finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in finished:
                jobs.completed(running.pop(task), task.result())
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    for job, runner in enumerate(runners):
        if isinstance(runner, Runner) and isinstance(jobs.results[job], FlowResult):
            await runner.adecided()
    return jobs.results


def run_together(pairs: Sequence[tuple[Runner, Visit]]) -> list[Completed]:
    """Run the visits of one node: as its batch where there are several, else alone."""
    if len(pairs) == 1:
        return [runner.run(visit) for runner, visit in pairs]
    group = _Group(pairs)
    for item in group.items:
        item.open(item.runner.open(item.visit))
    try:
        outcomes = within(lambda: group.node.run_batch(group.calls), group.visits) if group.calls else []
    except Exception as error:
        outcomes = [error] * len(group.calls)
    except BaseException as error:
        for item in group.items:
            item.runner.close(item.run, error)
        raise
    for item in group.take(outcomes):
        item.runner.close(item.run, item.outcome)
    return group.completed()


async def arun_together(pairs: Sequence[tuple[Runner, Visit]]) -> list[Completed]:
    """The same, async."""
    if len(pairs) == 1:
        return [await runner.arun(visit) for runner, visit in pairs]
    group = _Group(pairs)
    for item in group.items:
        item.open(await item.runner.aopen(item.visit))
    left = min((visit.seconds_left for visit in group.visits), default=math.inf)
    try:
        async with asyncio.timeout(None if left == math.inf else left):
            outcomes = await group.node.arun_batch(group.calls) if group.calls else []
    except TimeoutError:
        outcomes = [visit.expired() for visit in group.visits]
    except Exception as error:
        outcomes = [error] * len(group.calls)
    except BaseException as error:
        for item in group.items:
            await item.runner.aclose(item.run, error)
        raise
    for item in group.take(outcomes):
        await item.runner.aclose(item.run, item.outcome)
    return group.completed()


class _Item:
    """One visit of a group, from its child run's start to its end."""

    def __init__(self, runner: Runner, visit: Visit) -> None:
        self.runner = runner
        self.visit = visit
        self.run: Any = None
        self.call: Call | None = None
        self.outcome: Output | Exception = _UNFINISHED

    def open(self, opened: tuple[Any, RunnableConfig]) -> None:
        self.run, config = opened
        try:
            self.call = self.runner.call(self.visit, config)
        except Exception as error:
            self.outcome = error


class _Group:
    """Visits of one node that run as its batch."""

    def __init__(self, pairs: Sequence[tuple[Runner, Visit]]) -> None:
        self.items = [_Item(runner, visit) for runner, visit in pairs]
        self.node = pairs[0][0].node(pairs[0][1])
        self._began = time.perf_counter()

    @property
    def calls(self) -> list[Call]:
        return [item.call for item in self.items if item.call is not None]

    @property
    def visits(self) -> list[Visit]:
        return [item.visit for item in self.items if item.call is not None]

    def take(self, outcomes: Sequence[Output | Exception]) -> list[_Item]:
        """Hand each call its outcome; all items, to be closed."""
        for item, outcome in zip([item for item in self.items if item.call is not None], outcomes, strict=True):
            item.outcome = outcome
        return self.items

    def completed(self) -> list[Completed]:
        """The outcomes; the time is shared out evenly."""
        seconds = (time.perf_counter() - self._began) / len(self.items)
        return [
            Completed(seconds, None, item.outcome)
            if isinstance(item.outcome, Exception)
            else Completed(seconds, item.outcome)
            for item in self.items
        ]
