"""Runs one visit: as a child run with its callbacks, within its time, sync, async or streamed."""

from __future__ import annotations

import asyncio
import contextvars
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, TypeVar

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import patch_config

from dynflow.errors import NodeFailed, StreamInterrupted
from dynflow.node import Call, Cancelled, Node, Output
from dynflow.session import Completed, FlowParts, Session, Visit
from dynflow.trace import DECISION_EVENT, HELD_TAG, NODE_TAG, decision_as_dict
from dynflow.walk import State

T = TypeVar("T")
_GRACE = 0.02
"""Seconds between looks at whether a visit was called off, while waiting for its next chunk."""


class Runner:
    """Runs the visits of one session under one LangChain run."""

    def __init__(
        self,
        flow: FlowParts,
        session: Session,
        config: RunnableConfig,
        manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
    ) -> None:
        self.flow = flow
        self.session = session
        self.manager = manager
        self.observed = bool(manager.inheritable_handlers)
        self.config = config
        # Without handlers nobody can see child runs: node code still gets the caller's tags and metadata.
        self._plain: RunnableConfig = {
            key: value for key, value in config.items() if key not in ("callbacks", "run_id", "run_name")
        }  # type: ignore[assignment]

    # Whole visits

    def run(self, visit: Visit) -> Completed:
        """Run it to its end; failures come back as `Completed`, cancellation goes through."""
        run, config = self.open(visit)
        began = time.perf_counter()
        outcome: Output | BaseException | None = None
        try:
            call = self.call(visit, config)
            node = self.node(visit)
            outcome = node.run(call) if visit.seconds_left == math.inf else within(lambda: node.run(call), [visit])
        except Exception as error:
            outcome = error
        except BaseException as error:
            outcome = error
            raise
        finally:
            self.close(run, outcome)
        return _completed(began, outcome)

    async def arun(self, visit: Visit) -> Completed:
        """The same, async."""
        run, config = await self.aopen(visit)
        began = time.perf_counter()
        outcome: Output | BaseException | None = None
        try:
            call = self.call(visit, config)
            outcome = await _in_time(self.node(visit).arun(call), visit, visit.seconds_left)
        except Exception as error:
            outcome = error
        except BaseException as error:
            outcome = error
            raise
        finally:
            visit.call_off()  # a worker thread that still runs for us may stop
            await self.aclose(run, outcome)
        return _completed(began, outcome)

    # Streamed visits

    def stream(self, visit: Visit) -> Iterator[Any]:
        """Chunks as they come, then the `Completed`. Raises `StreamInterrupted` where content had gone out."""
        run, config = self.open(visit)
        began = time.perf_counter()
        emitted = _Emitted()
        outcome: Output | BaseException | None = None
        try:
            items = self.node(visit).stream(self.call(visit, config))
            if visit.seconds_left < math.inf:
                items = _pumped(items, visit)
            with closing(items):  # type: ignore[type-var]
                for item in items:
                    if isinstance(item, Output):
                        outcome = item
                    else:
                        yield from emitted.add(item)
        except Exception as error:
            outcome = error
        except BaseException as error:
            outcome = error
            raise
        finally:
            visit.call_off()
            self.close(run, outcome)
        yield self._streamed(emitted, _completed(began, outcome), visit)

    async def astream(self, visit: Visit) -> AsyncIterator[Any]:
        """The same, async."""
        run, config = await self.aopen(visit)
        began = time.perf_counter()
        emitted = _Emitted()
        outcome: Output | BaseException | None = None
        try:
            ends = began + visit.seconds_left
            async with aclosing(self.node(visit).astream(self.call(visit, config))) as items:  # type: ignore[type-var]
                while True:
                    try:
                        # Around each step, not the whole: a yield must not stand inside a timeout.
                        item = await _in_time(anext(items), visit, ends - time.perf_counter())
                    except StopAsyncIteration:
                        break
                    if isinstance(item, Output):
                        outcome = item
                    else:
                        for chunk in emitted.add(item):
                            yield chunk
        except Exception as error:
            outcome = error
        except BaseException as error:
            outcome = error
            raise
        finally:
            visit.call_off()
            await self.aclose(run, outcome)
        yield self._streamed(emitted, _completed(began, outcome), visit)

    def _streamed(self, emitted: _Emitted, done: Completed, visit: Visit) -> Completed:
        if done.error is not None and emitted.content:
            self.session.complete(visit, done)
            text = f"the answer of node {visit.node_id!r} broke off: {done.error}"
            raise StreamInterrupted(emitted.total, text) from done.error
        return done

    # Child runs

    def open(self, visit: Visit) -> tuple[CallbackManagerForChainRun | None, RunnableConfig]:
        """Begin a visit: its time runs, its decision is told, its child run (None where nobody looks) is open."""
        self.session.begin(visit)
        if not self.observed or not isinstance(self.manager, CallbackManagerForChainRun):
            return None, self._plain
        if visit.decision is not None:
            dispatch_custom_event(DECISION_EVENT, decision_as_dict(visit.decision), config=self._own())
        child = self.manager.get_child(NODE_TAG.format(visit.node_id))
        if not visit.live:
            child.add_tags([HELD_TAG], inherit=True)
        run = child.on_chain_start(None, {"input": self.session.request.original}, name=visit.node_id)
        return run, patch_config(self.config, callbacks=run.get_child())

    async def aopen(self, visit: Visit) -> tuple[AsyncCallbackManagerForChainRun | None, RunnableConfig]:
        """The same, async."""
        self.session.begin(visit)
        if not self.observed or not isinstance(self.manager, AsyncCallbackManagerForChainRun):
            return None, self._plain
        if visit.decision is not None:
            await adispatch_custom_event(DECISION_EVENT, decision_as_dict(visit.decision), config=self._own())
        child = self.manager.get_child(NODE_TAG.format(visit.node_id))
        if not visit.live:
            child.add_tags([HELD_TAG], inherit=True)
        run = await child.on_chain_start(None, {"input": self.session.request.original}, name=visit.node_id)
        return run, patch_config(self.config, callbacks=run.get_child())

    def close(self, run: CallbackManagerForChainRun | None, outcome: Output | BaseException | None) -> None:
        """End a visit's child run with what came of it."""
        if run is None:
            return
        if isinstance(outcome, BaseException):
            run.on_chain_error(outcome)
        else:
            run.on_chain_end(_shown(outcome))

    async def aclose(self, run: AsyncCallbackManagerForChainRun | None, outcome: Output | BaseException | None) -> None:
        """The same, async."""
        if run is None:
            return
        if isinstance(outcome, BaseException):
            await run.on_chain_error(outcome)
        else:
            await run.on_chain_end(_shown(outcome))

    def node(self, visit: Visit) -> Node:
        """The visit's node, ready to run."""
        return self.flow.node(visit.node_id)

    def call(self, visit: Visit, config: RunnableConfig) -> Call:
        """What the node gets to see. Raises where its options do not resolve or its time is up."""
        members = {name: GroupMember(self, name) for name in visit.plan.members}
        return self.session.call(visit, config, members)

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


class GroupMember:
    """A member of a group, run on the group's request (`Member`)."""

    def __init__(self, runner: Runner, node_id: str) -> None:
        self.id = node_id
        self._runner = runner
        self._visit = runner.session.visit(node_id, interruptible=True)
        self._lock = threading.Lock()
        self._ended = False
        self._output: Output | None = None

    def run(self) -> Mapping[str, Any] | None:
        """Run it in this thread; its ports, or None where it failed or was called off."""
        done = self._runner.run(self._visit)
        return self._take_down(done)

    async def arun(self) -> Mapping[str, Any] | None:
        """The same, async; cancelling the task calls it off."""
        began = time.perf_counter()
        try:
            return self._take_down(await self._runner.arun(self._visit))
        except asyncio.CancelledError:
            self._forget(time.perf_counter() - began)
            raise

    def call_off(self) -> None:
        """It counts as not run; a thread that still runs it ends at the next chunk."""
        self._visit.call_off()
        self._forget(0.0)

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
            if self._ended or isinstance(done.error, Cancelled):
                return None
            self._ended = True
            self._output = done.output
            self._runner.session.complete(self._visit, done)
        state = self._runner.session.walk.states[self.id]
        return state.ports if state.ok else None

    def _forget(self, seconds: float) -> None:
        with self._lock:
            if not self._ended:
                self._ended = True
                self._runner.session.forget(self._visit, None, seconds)


class _Emitted:
    """What has gone out of a live answer. Chunks before the first content are held: they may yet be taken back."""

    def __init__(self) -> None:
        self.total: Any = None
        self.content = False
        self._held: list[Any] = []

    def add(self, chunk: Any) -> list[Any]:
        """The chunks that may go out now."""
        try:
            self.total = chunk if self.total is None else self.total + chunk
        except TypeError:
            self.total = chunk
        if not self.content and not _has_content(chunk):
            self._held.append(chunk)
            return []
        self.content = True
        held, self._held = self._held, []
        return [*held, chunk]


def _has_content(chunk: Any) -> bool:
    if isinstance(chunk, AIMessageChunk):
        return bool(chunk.content or chunk.tool_call_chunks or chunk.additional_kwargs)
    return bool(chunk) or chunk in (0, False)


def _completed(began: float, outcome: Output | BaseException | None) -> Completed:
    seconds = time.perf_counter() - began
    if isinstance(outcome, Output):
        return Completed(seconds, outcome)
    return Completed(seconds, None, outcome if isinstance(outcome, Exception) else NodeFailed("the node gave no output"))


async def _in_time(result: Awaitable[T], visit: Visit, seconds: float) -> T:
    """Turn a time-out of our own into the visit's expiry; one that the node raised stays its own."""
    if seconds == math.inf:
        return await result
    try:
        async with asyncio.timeout(seconds) as timer:
            return await result
    except TimeoutError as failure:
        raise (visit.expired() if timer.expired() else failure) from None


def _shown(output: Output | None) -> Any:
    """What a node's run shows as its output: an answer's value, or a signal's ports."""
    if output is None:
        return None
    return output.value if output.value is not None else dict(output.ports)


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds


def within(function: Callable[[], T], visits: Sequence[Visit]) -> T:
    """The function's result, or the first visit's expiry. A thread that is late is called off and left behind."""
    results: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put(([function()], None))
        except BaseException as error:  # handed to the thread that waits
            results.put(([], error))

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    first = min(visits, key=lambda visit: visit.seconds_left)
    try:
        result, error = results.get(timeout=_finite(first.seconds_left))
    except queue.Empty:
        raise first.expired() from None
    finally:
        for visit in visits:
            visit.call_off()
    if error is not None:
        raise error
    return result[0]


def _pumped(items: Iterator[Any], visit: Visit) -> Iterator[Any]:
    """The same items with a deadline on each: a thread fetches them, so that a silent upstream cannot hold us."""
    end = object()
    fetched: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=8)

    def put(item: Any, error: BaseException | None = None) -> None:
        while not visit.called_off:
            try:
                fetched.put((item, error), timeout=_GRACE)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            with closing(items):  # type: ignore[type-var]
                for item in items:
                    put(item)
                    if visit.called_off:
                        return
            put(end)
        except BaseException as error:  # handed to the thread that waits
            put(end, error)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True).start()
    ends = time.perf_counter() + visit.seconds_left
    try:
        while True:
            try:
                item, error = fetched.get(timeout=max(0.0, ends - time.perf_counter()))
            except queue.Empty:
                raise visit.expired() from None
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        visit.call_off()
