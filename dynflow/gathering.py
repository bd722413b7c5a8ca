"""Gathering: requests that are run side by side, each by itself, share the batches of nodes that have one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from dynflow.batch import Ended, arun_together
from dynflow.errors import StreamInterrupted
from dynflow.running import Runner
from dynflow.visit import Completed, Visit


@dataclass(eq=False)
class _Guest:
    """A request at a node, and its end."""

    runner: Runner
    visit: Visit
    ended: asyncio.Future[Ended] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(eq=False)
class _Table:
    """A node: the requests of the batch under way, and those that will be its next one."""

    task: asyncio.Task[None]
    seated: list[_Guest] = field(default_factory=list)
    waiting: list[_Guest] = field(default_factory=list)


class Gathering:
    """Whoever comes to a node while its batch is under way is in its next one; nobody waits for others to come.

    A request that is cancelled leaves the others their batch; one that nobody is left of is called off.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[int, str], _Table] = {}
        """By the flow's identity and the node."""
        self._context = contextvars.copy_context()
        """What batches run in: not the context of whoever came first."""

    async def arun(self, runner: Runner, visit: Visit) -> Completed:
        """Run a visit; as `Runner.arun`, raises `StreamInterrupted` where content had gone out."""
        key = id(runner.flow), visit.node_id
        if key not in self._tables:
            self._tables[key] = _Table(asyncio.create_task(self._work(key), context=self._context.copy()))
        guest = _Guest(runner, visit)
        self._tables[key].waiting.append(guest)
        try:
            done = await guest.ended
        except asyncio.CancelledError:
            visit.call_off()
            await self._leave(guest, self._tables.get(key))
            raise
        if isinstance(done, StreamInterrupted):
            raise done
        return done

    async def _leave(self, guest: _Guest, table: _Table | None) -> None:
        if table is None:
            return
        if guest in table.waiting:
            table.waiting.remove(guest)
        elif guest in table.seated and all(each.ended.done() for each in table.seated):
            table.task.cancel()
            await asyncio.wait([table.task])

    async def _work(self, key: tuple[int, str]) -> None:
        """Run batches until nobody waits."""
        table = self._tables[key]
        try:
            await asyncio.sleep(0)  # those that begin at the same moment come together
            while table.waiting:
                table.seated, table.waiting = table.waiting, []
                ends = await arun_together([(guest.runner, guest.visit) for guest in table.seated])
                for guest, end in zip(table.seated, ends, strict=True):
                    if not guest.ended.done():
                        guest.ended.set_result(end)
        except Exception as error:  # an observer's; a node's is an end
            for guest in table.seated:
                if not guest.ended.done():
                    guest.ended.set_exception(error)
        finally:
            for guest in table.seated:
                guest.ended.cancel()  # where the task was; it does nothing to one that is done
            del self._tables[key]
            if table.waiting:  # whom a failure or a cancellation of others must not touch
                following = _Table(asyncio.create_task(self._work(key), context=self._context.copy()))
                following.waiting = table.waiting
                self._tables[key] = following


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
    """Run a visit: with others where it may be gathered, else by itself. A part of another visit is never gathered, nor
    is what a node runs of its own: flows on another event loop, say."""
    gathering = _present.get()
    if gathering is None:
        return await runner.arun(visit)
    token = _present.set(None)
    try:
        if visit.plan.cls.batches and visit.around is None:
            return await gathering.arun(runner, visit)
        return await runner.arun(visit)
    finally:
        _present.reset(token)
