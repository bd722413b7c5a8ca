"""Members of groups: nodes that a group runs on its own request."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynflow.node import Cancelled, Output
from dynflow.visit import Completed, Visit
from dynflow.walk import State

if TYPE_CHECKING:
    from dynflow.running import Runner


class GroupMember:
    """A member of a group, run on the group's request (`Member`)."""

    def __init__(self, runner: Runner, node_id: str, group: Visit) -> None:
        self.id = node_id
        self._runner = runner
        self._visit = runner.session.visit(node_id, group=group)
        self._lock = threading.Lock()
        self._ended = False
        self._output: Output | None = None

    def run(self) -> Mapping[str, Any] | None:
        """Run it in this thread; its ports, or None where it failed or was called off."""
        return self._take_down(self._runner.run(self._visit))

    async def arun(self) -> Mapping[str, Any] | None:
        """The same, async; cancelling the task calls it off."""
        try:
            return self._take_down(await self._runner.arun(self._visit))
        except asyncio.CancelledError:
            self.call_off()
            raise

    def call_off(self) -> None:
        """It counts as not run, its cost is settled; a thread that still runs it ends at the next chunk."""
        self._visit.call_off()
        session = self._runner.session
        with self._lock:
            if self._ended:  # it ended before anyone looked
                session.uncount(self.id)
                return
            self._ended = True
            session.forget(self._visit)

    @property
    def output(self) -> Output | None:
        """What it gave."""
        return self._output

    @property
    def state(self) -> State | None:
        """How it ended; None until it did."""
        return self._runner.session.walk.states.get(self.id)

    def _take_down(self, done: Completed) -> Mapping[str, Any] | None:
        with self._lock:
            if self._ended:
                return None
            if isinstance(done.error, Cancelled):  # its group was called off
                self._ended = True
                self._runner.session.forget(self._visit)
                return None
            self._ended = True
            self._output = done.output
            self._runner.session.complete(self._visit, done)
            state = self._runner.session.walk.states[self.id]
        return state.ports if state.ok else None
