"""`race`: several answers start, the first acceptable one wins, the others are called off."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar

from pydantic import Field

from dynflow.errors import NodeFailed
from dynflow.language.evaluate import UNKNOWN, compile_expression
from dynflow.language.expression import ExpressionError, parse_expression
from dynflow.language.options import Duration
from dynflow.language.spec import Role
from dynflow.language.typecheck import check_condition
from dynflow.language.types import COMMON_PORTS, PortType, enum
from dynflow.node import AnswerType, BuildScope, Call, Cancelled, Finding, Member, NamesNodes, Node, NodeOptions, Output

_MEMBER = "member"
Accept = Callable[[Member], bool]


class Race(Node):
    """Take the first acceptable answer."""

    type = "race"
    role: ClassVar[Role] = "answer"
    summary = "starts answers one after the other and takes the first acceptable; the others are called off"
    group: ClassVar[bool] = True

    class Options(NodeOptions):
        """Its members, what is acceptable, and the head start of each."""

        static: ClassVar[frozenset[str]] = frozenset({"accept", "stagger"})

        of: Annotated[list[str], NamesNodes(role="answer")] = Field(min_length=2, description="ids of answer nodes")
        accept: str | None = Field(default=None, description="a condition over the finishing member's ports")
        stagger: Duration | None = Field(default=None, description="delay before the next starts, such as 300ms")

    ports: ClassVar[Mapping[str, PortType]] = {"winner": enum((), "the member whose answer was taken")}

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        return {"winner": enum(options.of, "the member whose answer was taken"), **_common_ports(options.of, scope)}

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        if options.accept is None:
            return
        ports = {**_common_ports(options.of, scope), **COMMON_PORTS}
        try:
            term = parse_expression(options.accept, bare=_MEMBER)
            check_condition(term, {_MEMBER: ports})
        except ExpressionError as error:
            text = str(error).replace(f"port of {_MEMBER!r}", "port that all members have")
            if error.code == "unknown_name":
                text = (
                    "`accept` reads the finishing member's ports alone: use their bare names, such as confidence > 0.5"
                )
            yield Finding(error.code, text, ("accept",))

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        return object

    def run(self, call: Call) -> Output:
        members = [call.members[name] for name in self.options.of]
        accept = _acceptance(self.options.accept)
        finished: queue.SimpleQueue[Member] = queue.SimpleQueue()
        waiting = list(members)
        lost = dict.fromkeys(members)  # who was not looked at by the end
        running = 0
        try:
            while waiting or running:
                if waiting:
                    _start(waiting.pop(0), finished)
                    running += 1
                # The next member starts after the stagger, or at once when one has ended in vain.
                delay = (call.options.stagger or 0.0) if waiting else None
                member = _next_finished(finished, delay, call)
                if member is not None:
                    running -= 1
                    del lost[member]
                    if accept(member):
                        return _won(member)
        finally:
            for member in lost:
                member.call_off()
        raise _nobody_won(members)

    async def arun(self, call: Call) -> Output:
        members = [call.members[name] for name in self.options.of]
        accept = _acceptance(self.options.accept)
        waiting = list(members)
        lost = dict.fromkeys(members)
        running: dict[asyncio.Task[Any], Member] = {}
        try:
            while waiting or running:
                if waiting:
                    member = waiting.pop(0)
                    running[asyncio.create_task(member.arun())] = member
                delay = (call.options.stagger or 0.0) if waiting else None
                done, _ = await asyncio.wait(running, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: members.index(running[task])):
                    member = running.pop(task)
                    del lost[member]
                    task.result()  # a member's failure is on record; anything else is a fault of ours
                    if accept(member):
                        return _won(member)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            for member in lost:
                member.call_off()
        raise _nobody_won(members)


def _common_ports(of: Sequence[str], scope: BuildScope) -> dict[str, PortType]:
    """Ports that all members have, with the same type."""
    all_ports = [scope.ports_of(name) for name in of]
    if not all_ports:
        return {}
    return {
        name: port
        for name, port in all_ports[0].items()
        if all(name in ports and ports[name] == port for ports in all_ports[1:])
    }


def _acceptance(accept: str | None) -> Accept:
    if accept is None:
        return lambda member: member.state is not None and member.state.ok
    evaluate = compile_expression(parse_expression(accept, bare=_MEMBER))

    def accepted(member: Member) -> bool:
        state = member.state
        if state is None or not state.ok:
            return False
        common = {"ok": True, "failed": False, "error": None, "seconds": state.seconds, "usd": state.usd}
        ports = {**state.ports, **common}
        return evaluate(lambda owner, port: ports.get(port, UNKNOWN)) is True

    return accepted


def _start(member: Member, finished: queue.SimpleQueue[Member]) -> None:
    def work() -> None:
        try:
            with suppress(Cancelled):  # the whole request ended meanwhile
                member.run()
        finally:
            finished.put(member)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()


def _next_finished(finished: queue.SimpleQueue[Member], delay: float | None, call: Call) -> Member | None:
    """The next member that ends; None when the delay is over. Looks up now and then whether the race is called off."""
    ends = None if delay is None else time.perf_counter() + delay
    while True:
        call.check()
        left = 0.05 if ends is None else min(0.05, ends - time.perf_counter())
        try:
            return finished.get(timeout=max(0.0, left))
        except queue.Empty:
            if ends is not None and time.perf_counter() >= ends:
                return None


def _won(member: Member) -> Output:
    output, state = member.output, member.state
    assert output is not None
    assert state is not None
    return Output({**state.ports, "winner": member.id}, output.value, degraded=state.rescued)


def _nobody_won(members: Sequence[Member]) -> NodeFailed:
    ends = ", ".join(
        f"{member.id} ({member.state.error or 'not acceptable'})" for member in members if member.state is not None
    )
    return NodeFailed(f"no member's answer was acceptable: {ends}")
