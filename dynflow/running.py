"""Runs one visit: as a child run with its callbacks, within its time, sync, async or streamed."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    BaseCallbackManager,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import patch_config, run_in_executor
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from dynflow.chunks import add_up, has_content
from dynflow.closing import aclosing, closing
from dynflow.errors import NodeFailed, StreamInterrupted
from dynflow.member import GroupMember
from dynflow.node import Call, Node, Output
from dynflow.open_runs import OpenRuns, end_open_runs
from dynflow.recording import Recording, observers
from dynflow.session import FlowParts, Session
from dynflow.timing import heard, in_time, pumped, within
from dynflow.trace import DECISION_EVENT, HELD_TAG, HIDDEN_TAG, NODE_TAG, decision_as_dict
from dynflow.visit import Completed, Visit


class Runner:
    """Runs the visits of one session under one LangChain run."""

    def __init__(
        self,
        flow: FlowParts,
        session: Session,
        config: RunnableConfig,
        manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
        recording: Recording | None = None,
    ) -> None:
        self.flow = flow
        self.session = session
        self._recording = recording
        self.manager = manager
        self.observed = bool(manager.inheritable_handlers)
        self.watched = any(isinstance(handler, _StreamingCallbackHandler) for handler in manager.inheritable_handlers)
        self.config = config
        # Without handlers nobody can see child runs: node code still gets the caller's tags and metadata.
        self._plain: RunnableConfig = {
            key: value for key, value in config.items() if key not in ("callbacks", "run_id", "run_name")
        }  # type: ignore[assignment]

    # Whole visits

    def run(self, visit: Visit) -> Completed:
        """Run it to its end; failures come back as `Completed`, cancellation goes through.

        An observer (LangGraph, say) may pass a live answer's tokens on as they come: what has gone out binds here
        too, so such a visit runs as a stream. Raises `StreamInterrupted` where content had gone out.
        """
        if self.watched and visit.live:
            return list(self.stream(visit))[-1]  # type: ignore[no-any-return]
        run, config = self.open(visit)
        began = time.perf_counter()
        outcome: Output | BaseException | None = None
        try:
            call = self.call(visit, config)
            if visit.time_limit == math.inf:
                with heard(visit) if visit.interruptible else nullcontext():
                    outcome = self.node(visit).run(call)
            else:
                outcome = within(lambda: self.node(visit).run(call), visit)
        except BaseException as error:
            outcome = error
            if not isinstance(error, Exception):
                raise
        finally:
            done = self.close(visit, run, outcome, time.perf_counter() - began)
        return done

    async def arun(self, visit: Visit) -> Completed:
        """The same, async."""
        if self.watched and visit.live:
            async with aclosing(self.astream(visit)) as items:
                return [item async for item in items][-1]  # type: ignore[no-any-return]
        run, config = await self.aopen(visit)
        began = time.perf_counter()
        outcome: Output | BaseException | None = None
        try:
            call = self.call(visit, config)
            outcome = await in_time(self._arun(visit, call), visit, visit.time_limit)
        except BaseException as error:
            outcome = error
            if not isinstance(error, Exception):
                raise
        finally:
            visit.call_off()  # a worker thread that still runs for us may stop
            done = await self.aclose(visit, run, outcome, time.perf_counter() - began)
        return done

    async def _arun(self, visit: Visit, call: Call) -> Output:
        return await (await self.anode(visit)).arun(call)

    # Streamed visits

    def stream(self, visit: Visit) -> Iterator[Any]:
        """Chunks as they come, then the `Completed`. Raises `StreamInterrupted` where content had gone out."""
        run, config = self.open(visit)
        began = time.perf_counter()
        emitted = _Emitted()
        outcome: Output | BaseException | None = None
        try:
            call = self.call(visit, config)
            if visit.time_limit < math.inf:
                items = pumped(lambda: self.node(visit).stream(call), visit, began + visit.time_limit)
            else:
                items = self.node(visit).stream(call)
            with closing(items):
                for item in items:
                    if isinstance(item, Output):
                        outcome = item
                    else:
                        yield from emitted.add(item)
        except BaseException as error:
            outcome = error
            if not isinstance(error, Exception):
                raise
        finally:
            visit.call_off()
            done = self.close(visit, run, outcome, time.perf_counter() - began)
        yield self._streamed(emitted, done, visit)

    async def astream(self, visit: Visit) -> AsyncIterator[Any]:
        """The same, async."""
        run, config = await self.aopen(visit)
        began = time.perf_counter()
        emitted = _Emitted()
        outcome: Output | BaseException | None = None
        try:
            call = self.call(visit, config)
            ends = began + visit.time_limit
            node = await in_time(self.anode(visit), visit, visit.time_limit)
            async with aclosing(node.astream(call)) as items:
                while True:
                    try:
                        # Around each step, not the whole: a yield must not stand inside a timeout.
                        item = await in_time(anext(items), visit, ends - time.perf_counter())
                    except StopAsyncIteration:
                        break
                    if isinstance(item, Output):
                        outcome = item
                    else:
                        for chunk in emitted.add(item):
                            yield chunk
        except BaseException as error:
            outcome = error
            if not isinstance(error, Exception):
                raise
        finally:
            visit.call_off()
            done = await self.aclose(visit, run, outcome, time.perf_counter() - began)
        yield self._streamed(emitted, done, visit)

    def _streamed(self, emitted: _Emitted, done: Completed, visit: Visit) -> Completed:
        if done.error is not None and emitted.content:
            self.session.complete(visit, done)
            text = f"the answer of node {visit.node_id!r} broke off: {done.error}"
            raise StreamInterrupted(emitted.total(), text) from done.error
        return done

    # Child runs

    def open(self, visit: Visit) -> tuple[CallbackManagerForChainRun | None, RunnableConfig]:
        """Begin a visit: its time runs, its decision is told, its child run (None where nobody looks) is open."""
        self.session.begin(visit)
        manager = self._around(visit)
        if not self.observed or not isinstance(manager, CallbackManagerForChainRun):
            return None, self._plain
        if visit.decision is not None:
            dispatch_custom_event(DECISION_EVENT, decision_as_dict(visit.decision), config=self._own())
        child = manager.get_child()
        self._tag(child, visit)
        run = child.on_chain_start(None, {"input": self.session.request.original}, name=visit.node_id)
        self._begun(visit, run)
        return run, patch_config(self.config, callbacks=run.get_child())

    async def aopen(self, visit: Visit) -> tuple[AsyncCallbackManagerForChainRun | None, RunnableConfig]:
        """The same, async."""
        self.session.begin(visit)
        manager = self._around(visit)
        if not self.observed or not isinstance(manager, AsyncCallbackManagerForChainRun):
            return None, self._plain
        if visit.decision is not None:
            await adispatch_custom_event(DECISION_EVENT, decision_as_dict(visit.decision), config=self._own())
        child = manager.get_child()
        self._tag(child, visit)
        child.add_handler(OpenRuns())
        run = await child.on_chain_start(None, {"input": self.session.request.original}, name=visit.node_id)
        self._begun(visit, run)
        return run, patch_config(self.config, callbacks=run.get_child())

    def _begun(self, visit: Visit, run: Any) -> None:
        visit.run = run
        for observer in observers:
            observer.visit_begun(self.manager.run_id, run.run_id, visit, self.session.walk.decisions)

    def _around(self, visit: Visit) -> CallbackManagerForChainRun | AsyncCallbackManagerForChainRun:
        """The run that a visit's run is a child of: its group's, or the flow's."""
        run: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun | None
        run = visit.group.run if visit.group else None
        return run or self.manager

    def _tag(self, child: BaseCallbackManager, visit: Visit) -> None:
        child.add_tags([NODE_TAG.format(visit.node_id)], inherit=True)
        if visit.live:
            return
        child.add_tags([HELD_TAG], inherit=True)
        if (self.config.get("metadata") or {}).get("langgraph_node") == visit.node_id:
            child.add_tags([HIDDEN_TAG], inherit=False)  # LangGraph would take the run for its own node's

    def close(
        self,
        visit: Visit,
        run: CallbackManagerForChainRun | None,
        outcome: Output | BaseException | None,
        seconds: float,
    ) -> Completed:
        """End a visit that gave this after so many seconds: it is billed, then its child run ends."""
        done = self._ended(visit, run, outcome, seconds)
        if run is not None and isinstance(outcome, BaseException):
            run.on_chain_error(outcome)
        elif run is not None:
            run.on_chain_end(_shown(done.output))
        return done

    async def aclose(
        self,
        visit: Visit,
        run: AsyncCallbackManagerForChainRun | None,
        outcome: Output | BaseException | None,
        seconds: float,
    ) -> Completed:
        """The same, async."""
        done = self._ended(visit, run, outcome, seconds)
        if run is not None and isinstance(outcome, BaseException):
            await end_open_runs(run, outcome)
            await run.on_chain_error(outcome)
        elif run is not None:
            await run.on_chain_end(_shown(done.output))
        return done

    def _ended(self, visit: Visit, run: Any, outcome: Output | BaseException | None, seconds: float) -> Completed:
        """How a visit ended; whoever observes spans is told before its run ends."""
        done = completed(seconds, outcome)
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            self.session.forget(visit)
        else:
            self.session.settle(visit, done)
        if run is not None:
            for observer in observers:
                observer.visit_ended(run.run_id, visit, done)
        return done

    def node(self, visit: Visit) -> Node:
        """The visit's node, ready to run."""
        return self.flow.node(visit.node_id)

    async def anode(self, visit: Visit) -> Node:
        """The same; a node that is still to be warmed up does not hold the event loop."""
        if self.flow.is_warm(visit.node_id):
            return self.flow.node(visit.node_id)
        return await run_in_executor(None, self.flow.node, visit.node_id)

    def call(self, visit: Visit, config: RunnableConfig) -> Call:
        """What the node gets to see. Raises where its options do not resolve or its time is up."""
        members = {name: GroupMember(self, name, visit) for name in visit.plan.members}
        return self.session.call(visit, config, members)

    def end(self, error: BaseException | None = None) -> None:
        """The request has ended, so: its record goes out. The first word counts."""
        if self._recording is not None:
            self._recording.end(error)

    def decided(self) -> None:
        """Tell of the last edge taken, the one into `end`; the others are told of as their visit begins."""
        if self.observed and self.session.walk.decisions:
            dispatch_custom_event(DECISION_EVENT, decision_as_dict(self.session.walk.decisions[-1]), config=self._own())

    async def adecided(self) -> None:
        """The same, async."""
        if self.observed and self.session.walk.decisions:
            await adispatch_custom_event(
                DECISION_EVENT, decision_as_dict(self.session.walk.decisions[-1]), config=self._own()
            )

    def _own(self) -> RunnableConfig:
        return patch_config(self.config, callbacks=self.manager.get_child())


class _Emitted:
    """What has gone out of a live answer. Chunks before the first content are held: they may yet be taken back."""

    def __init__(self) -> None:
        self.content = False
        self._chunks: list[Any] = []

    def add(self, chunk: Any) -> list[Any]:
        """The chunks that may go out now."""
        self._chunks.append(chunk)
        if self.content:
            return [chunk]
        self.content = has_content(chunk)
        return list(self._chunks) if self.content else []

    def total(self) -> Any:
        """All of them added up, or the last where they do not add."""
        return add_up(self._chunks)


def completed(seconds: float, outcome: Output | BaseException | None) -> Completed:
    """How a visit ended that gave this after so many seconds."""
    if isinstance(outcome, Output):
        return Completed(seconds, outcome)
    error = outcome if isinstance(outcome, Exception) else NodeFailed("the node gave no output")
    return Completed(seconds, None, error)


def _shown(output: Output | None) -> Any:
    """What a node's run shows as its output: an answer's value, or a signal's ports."""
    if output is None:
        return None
    return output.value if output.value is not None else dict(output.ports)
