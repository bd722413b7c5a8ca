"""Gathering: requests that are run side by side, each by itself, share the batches of nodes that have one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from dynflow.batch import Ended, arun_together
from dynflow.errors import StreamInterrupted
from dynflow.running import Runner
from dynflow.visit import Completed, Visit


class Gathering:
    """Whoever comes to a node while its batch is under way is in its next one; nobody waits for others to come.

    Requests that share one are called off together: that of any ends a batch under way.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, str], list[tuple[Runner, Visit, asyncio.Future[Ended]]]] = {}
        self._running: dict[tuple[int, str], asyncio.Task[None]] = {}
        """By the flow's identity and the node."""

    async def arun(self, runner: Runner, visit: Visit) -> Completed:
        """Run a visit; as `Runner.arun`, raises `StreamInterrupted` where content had gone out."""
        key = id(runner.flow), visit.node_id
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((runner, visit, ended))
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._work(key))
        task = self._running[key]
        try:
            done = await ended
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        if isinstance(done, StreamInterrupted):
            raise done
        return done

    async def _work(self, key: tuple[int, str]) -> None:
        """Run batches until nobody waits."""
        group: list[tuple[Runner, Visit, asyncio.Future[Ended]]] = []
        try:
            await asyncio.sleep(0)  # those that begin at the same moment come together
            while group := self._waiting.pop(key, []):
                ends = await arun_together([(runner, visit) for runner, visit, _ in group])
                for (*_, ended), end in zip(group, ends, strict=True):
                    ended.set_result(end)
        except Exception as error:  # of an observer's; a node's is an end
            for *_, ended in group:
                ended.set_exception(error)
        finally:
            del self._running[key]
            for *_, ended in (*group, *self._waiting.pop(key, [])):
                ended.cancel()  # which does nothing to one that is done


_present: ContextVar[Gathering | None] = ContextVar("gathering", default=None)


@asynccontextmanager
async def gathered() -> AsyncIterator[None]:
    """Requests that run while the `with` lasts, in tasks that begin in it, are gathered."""
    token = _present.set(Gathering())
    try:
        yield
    finally:
        _present.reset(token)


async def arun_gathered(runner: Runner, visit: Visit) -> Completed:
    """Run a visit: with others where it may be gathered, else by itself. A part of another visit is never gathered."""
    gathering = _present.get()
    if gathering is None or not visit.plan.cls.batches or visit.around is not None:
        return await runner.arun(visit)
    return await gathering.arun(runner, visit)
