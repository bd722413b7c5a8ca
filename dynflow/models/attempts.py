"""A chat model as one call of a node uses it: attempts that are admitted, charged and told of, and retries."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, message_chunk_to_message
from langchain_core.runnables import Runnable, RunnableConfig
from tenacity import AsyncRetrying, Retrying

from dynflow.billing import Charge
from dynflow.chunks import add_up, has_content
from dynflow.closing import aclosing, closing
from dynflow.errors import BudgetExceeded, failure_kind
from dynflow.models.base import ProviderChat
from dynflow.models.breaker import Permit
from dynflow.models.failures import CircuitOpen, OutOfTime, blames_model, shows_model
from dynflow.models.health import Health, health_of
from dynflow.models.retries import RetryPolicy
from dynflow.models.settings import ModelSettings
from dynflow.node import Call, Cancelled
from dynflow.prompt_size import PromptSize
from dynflow.trace import Attempt

RETRIES = 2
"""Of a model whose settings do not say. Models of the host have retries of their own, and get none."""
_TICK = 0.02
"""Seconds between looks at whether a waiting call was called off."""
_MOMENT = 0.1
"""Seconds."""


class Attempts(Runnable[Sequence[BaseMessage], AIMessage]):
    """A chat model for one call of one node. Takes messages, gives an `AIMessage`, or its chunks.

    Each attempt passes the model's circuit breaker, is charged, and is one LangChain run; nothing beneath retries.
    A stream is tried again only until its first content has come. The last attempt's failure is what is raised, with
    a note where there were several; the call's record has them all, but for one that was cut off.

    `entry` is the model's name in the graph and `settings` what stands there; `prompt` is what a charge reckons
    with; `options` go along with each call; `bound` is the model with tools bound to it, where there are any.
    Raises what the model raises, `CircuitOpen`, `BudgetExceeded`; `Cancelled` where the call was called off.
    """

    def __init__(
        self,
        call: Call,
        entry: str,
        model: BaseChatModel,
        settings: ModelSettings,
        prompt: PromptSize,
        options: Mapping[str, Any],
        bound: Runnable[Any, AIMessage] | None = None,
    ) -> None:
        self.call = call
        self.entry = entry
        self.model = bound if bound is not None else model
        self.own = isinstance(model, ProviderChat)
        self.settings = model.settings if isinstance(model, ProviderChat) else settings
        self.prompt = prompt
        self.options = dict(options)
        self.health = health_of(model)
        retries = self.settings.retries
        if not isinstance(retries, int):
            retries = RETRIES if self.own else 0
        self.policy = RetryPolicy(retries, self.health, call.seconds_left)
        self.waited = 0.0
        """Seconds waited before the attempt that is made now."""
        self.failure: Exception | None = None
        """The last attempt's."""
        self.made = 0

    # The four ways to call it

    def invoke(self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        with self._ending():
            return self._retrying()(self._whole, input, config)

    async def ainvoke(
        self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        with self._ending():
            return await self._aretrying()(self._awhole, input, config)

    def stream(
        self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        with self._ending():
            begun: tuple[list[AIMessageChunk], Iterator[AIMessageChunk]] = self._retrying()(self._begun, input, config)
        first, rest = begun
        with closing(rest):
            yield from first
            yield from rest

    async def astream(
        self, input: Sequence[BaseMessage], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        with self._ending():
            begun: tuple[list[AIMessageChunk], AsyncIterator[AIMessageChunk]]
            begun = await self._aretrying()(self._abegun, input, config)
        first, rest = begun
        async with aclosing(rest):
            for chunk in first:
                yield chunk
            async for chunk in rest:
                yield chunk

    # One attempt

    def _whole(self, messages: Sequence[BaseMessage], config: RunnableConfig | None) -> AIMessage:
        if self.call.interruptible:
            return _message(list(self._chunks(messages, config)))
        with self._attempt() as attempt:
            return attempt.model.invoke(messages, config)

    async def _awhole(self, messages: Sequence[BaseMessage], config: RunnableConfig | None) -> AIMessage:
        if self.call.interruptible:  # a cancelled stream ends its run and its connection; `ainvoke` need not
            async with aclosing(self._achunks(messages, config)) as chunks:
                return _message([chunk async for chunk in chunks])
        with self._attempt() as attempt:
            return await attempt.model.ainvoke(messages, config)

    def _begun(
        self, messages: Sequence[BaseMessage], config: RunnableConfig | None
    ) -> tuple[list[AIMessageChunk], Iterator[AIMessageChunk]]:
        """The chunks up to the first with content, and the rest: up to there, nothing has gone out."""
        chunks = self._chunks(messages, config)
        first: list[AIMessageChunk] = []
        for chunk in chunks:
            first.append(chunk)
            if has_content(chunk):
                break
        return first, chunks

    async def _abegun(
        self, messages: Sequence[BaseMessage], config: RunnableConfig | None
    ) -> tuple[list[AIMessageChunk], AsyncIterator[AIMessageChunk]]:
        chunks = self._achunks(messages, config)
        first: list[AIMessageChunk] = []
        async for chunk in chunks:
            first.append(chunk)
            if has_content(chunk):
                break
        return first, chunks

    def _chunks(self, messages: Sequence[BaseMessage], config: RunnableConfig | None) -> Iterator[AIMessageChunk]:
        with self._attempt() as attempt, closing(attempt.model.stream(messages, config)) as chunks:
            for chunk in chunks:
                self.call.check()
                yield attempt.receive(chunk)

    async def _achunks(
        self, messages: Sequence[BaseMessage], config: RunnableConfig | None
    ) -> AsyncIterator[AIMessageChunk]:
        with self._attempt() as attempt:
            async with aclosing(attempt.model.astream(messages, config)) as chunks:
                async for chunk in chunks:
                    yield attempt.receive(chunk)

    def _attempt(self) -> _Attempt:
        """Admission of one attempt: nothing may be in its way, and the most that it can cost is reserved."""
        self.call.check()
        breaker = self.health.breaker
        permit = breaker.admit()
        if permit is None:
            self.call.attempts.append(Attempt(self.entry, 0.0, "unavailable", self.waited, "open"))
            raise CircuitOpen(self.entry, breaker.seconds_left())
        try:
            declared = self.options.get("max_tokens", self.settings.max_tokens)
            most = declared if isinstance(declared, int) else None
            charge = self.call.charge(self.entry, self.prompt, most)
        except BaseException:
            breaker.withdraw(permit)
            raise
        self.made += 1
        return _Attempt(self, permit, charge)

    # Between attempts

    def _retrying(self) -> Retrying:
        policy = self.policy
        return Retrying(retry=policy.retry, wait=policy.wait, stop=policy.stop, sleep=self._sleep, reraise=True)

    def _aretrying(self) -> AsyncRetrying:
        policy = self.policy
        return AsyncRetrying(retry=policy.retry, wait=policy.wait, stop=policy.stop, sleep=self._asleep, reraise=True)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless the call is called off."""
        self.waited = seconds
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self.call.check()
            time.sleep(min(left, _TICK))

    async def _asleep(self, seconds: float) -> None:
        self.waited = seconds
        await asyncio.sleep(seconds)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Says how often it was tried. What forbids a further attempt does not hide the failure before it."""
        try:
            yield
        except Exception as error:
            failure = self.failure
            if failure is None or not (error is failure or isinstance(error, BudgetExceeded | CircuitOpen)):
                raise
            why = self.policy.ended if error is failure else str(error)
            if self.made > 1:
                failure.add_note(f"the model {self.entry!r} was tried {self.made} times")
            if why is not None:
                failure.add_note(f"the model {self.entry!r} was not tried again: {why}")
            if error is failure:
                raise
            raise failure from failure.__cause__
        finally:
            self.failure = None


class _Attempt:
    """One attempt under way. However it ends, breaker, charge and record are told so once."""

    def __init__(self, attempts: Attempts, permit: Permit, charge: Charge) -> None:
        self._attempts = attempts
        self._permit = permit
        self._charge = charge
        self._began = time.perf_counter()
        self._hurried = False
        """Whether the request's time leaves it less than the model's own `timeout`: then its model is not blamed."""
        options = dict(attempts.options)
        if charge.max_tokens is not None:
            options["max_tokens"] = charge.max_tokens
        left = attempts.call.seconds_left()
        if attempts.own and left < math.inf:
            # Our own adapters take a time limit per call: a silent upstream is left when nobody waits any more. The
            # moment more lets the node's own clock go first: whose time was up is not left to chance.
            limit = attempts.settings.timeout
            limit = limit if isinstance(limit, float) else math.inf
            self._hurried = left < limit
            options["timeout"] = min(limit, max(left, 0.0) + _MOMENT)
        self.model = attempts.model.bind(**options) if options else attempts.model

    @property
    def _health(self) -> Health:
        return self._attempts.health

    def receive(self, chunk: Any) -> AIMessageChunk:
        """Take down a part of the answer."""
        self._charge.receive(_text(chunk))
        if self._permit.state == "half_open" and has_content(chunk):
            self._health.breaker.succeeded(self._permit)  # others need not wait until a long answer ends
        return chunk  # type: ignore[no-any-return]

    def __enter__(self) -> _Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        breaker = self._health.breaker
        if error is None:
            breaker.succeeded(self._permit)
            self._health.retries.succeeded()
            self._tell(None)
        elif isinstance(error, Exception) and not isinstance(error, Cancelled):
            if blames_model(error) and not self._hurried_out(error):
                breaker.failed(self._permit)
            elif shows_model(error):
                breaker.succeeded(self._permit)
            else:
                breaker.withdraw(self._permit)
            self._charge.failed(error)
            self._attempts.failure = error
            self._tell(failure_kind(error))
        else:
            breaker.withdraw(self._permit)

    def _hurried_out(self, error: Exception) -> bool:
        return self._hurried and isinstance(error, OutOfTime)  # a service's own 504 speaks against it all the same

    def _tell(self, failed: str | None) -> None:
        attempts, seconds = self._attempts, time.perf_counter() - self._began
        record = Attempt(attempts.entry, seconds, failed, attempts.waited, self._permit.state)
        attempts.call.attempts.append(record)


def _message(chunks: Sequence[AIMessageChunk]) -> AIMessage:
    message: AIMessage = message_chunk_to_message(add_up(chunks))  # type: ignore[assignment]
    return message


def _text(chunk: Any) -> str:
    """All that was written in a chunk: text, arguments of tool calls, reasoning."""
    if not isinstance(chunk, AIMessageChunk):
        return str(chunk)
    calls = "".join(part.get("args") or "" for part in chunk.tool_call_chunks)
    return f"{chunk.text}{calls}{chunk.additional_kwargs.get('reasoning_content') or ''}"
