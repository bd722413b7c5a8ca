"""Fakes for trying a graph offline: hand them over with `load(…, models={"large": FakeChat(…)})`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field, PrivateAttr
from typing_extensions import override

_TICK = 0.005
"""Seconds between a hanging sync call's looks at whether it was let go."""
_lock = threading.Lock()


@dataclass
class FakeCall:
    """One call that a `FakeChat` took: what it was asked, with which options, and how far it came."""

    messages: list[BaseMessage]
    options: dict[str, Any] = field(default_factory=dict)
    chunks: int = 0
    ended: str | None = None
    """`finished`, `failed` or `closed` (the caller went away); None while it runs."""


class FakeChat(BaseChatModel):
    """A chat model that answers as told, sync, async and streamed word by word, and records its `calls`.

    ::

        FakeChat(replies=["Paris."])                       # the same answer each time
        FakeChat(replies=["no", "yes"])                    # one after the other; the last one stays
        FakeChat(replies=lambda messages: messages[-1].text.upper())
        FakeChat(fail_with=TimeoutError("too slow"))       # fails at once
        FakeChat(fail_with=OSError("cut"), fail_after=2)   # fails after two chunks
        FakeChat(delay=0.2, pause=0.05)                    # seconds before the first and each further chunk
        FakeChat(hang_after=0)                             # never answers, until `release()`
    """

    replies: Sequence[str] | Callable[[list[BaseMessage]], str] = ("ok",)
    fail_with: Any = Field(default=None, description="exception that each call ends with")
    fail_after: int = Field(default=0, ge=0, description="chunks that come before it fails")
    hang_after: int | None = Field(default=None, ge=0, description="chunks that come before it falls silent")
    delay: float = Field(default=0.0, ge=0, description="seconds before the first chunk")
    pause: float = Field(default=0.0, ge=0, description="seconds before each further chunk")
    logprob: float | None = Field(default=None, le=0, description="log-probability of every token; None: not given")
    usage: bool = Field(default=True, description="whether it counts tokens, one a word")
    calls: list[FakeCall] = Field(default_factory=list, exclude=True)

    _released: bool = PrivateAttr(default=False)

    @property
    @override
    def _llm_type(self) -> str:
        return "dynflow-fake"

    def release(self) -> None:
        """Let calls that hang go: they finish their answers."""
        self._released = True

    @override
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=list(tools), **kwargs)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _joined(list(self._stream(messages, stop, run_manager, **kwargs)))

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _joined([chunk async for chunk in self._astream(messages, stop, run_manager, **kwargs)])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call, words = self._begin(messages, stop, kwargs)
        try:
            for index, word in enumerate([*words, None]):
                time.sleep(self._wait(index))
                while self._silent(index):
                    time.sleep(_TICK)
                yield self._chunk(call, index, word, messages)
        except GeneratorExit:
            call.ended = "closed"
            raise

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call, words = self._begin(messages, stop, kwargs)
        try:
            for index, word in enumerate([*words, None]):
                await asyncio.sleep(self._wait(index))
                while self._silent(index):
                    await asyncio.sleep(_TICK)
                yield self._chunk(call, index, word, messages)
        except (GeneratorExit, asyncio.CancelledError):
            call.ended = "closed"
            raise

    def _begin(
        self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> tuple[FakeCall, list[str]]:
        call = FakeCall(messages, {**options, **({"stop": stop} if stop else {})})
        with _lock:
            self.calls.append(call)
            turn = len(self.calls) - 1
        text = self.replies(messages) if callable(self.replies) else self.replies[min(turn, len(self.replies) - 1)]
        words = text.split(" ")
        return call, [words[0], *(f" {word}" for word in words[1:])][: options.get("max_tokens")]

    def _wait(self, index: int) -> float:
        return self.pause if index else self.delay

    def _silent(self, index: int) -> bool:
        return self.hang_after is not None and index >= self.hang_after and not self._released

    def _chunk(self, call: FakeCall, index: int, word: str | None, messages: list[BaseMessage]) -> ChatGenerationChunk:
        """The next word; after the last one (None) an empty chunk with finish reason and usage."""
        if self.fail_with is not None and (index >= self.fail_after or word is None):
            call.ended = "failed"
            raise self.fail_with
        if word is not None:
            call.chunks += 1
            token = {"token": word, "logprob": self.logprob}
            about = {} if self.logprob is None else {"logprobs": {"content": [token]}}
            return ChatGenerationChunk(message=AIMessageChunk(content=word, response_metadata=about))
        call.ended = "finished"
        prompt = sum(len(str(message.text).split()) for message in messages)
        used = UsageMetadata(input_tokens=prompt, output_tokens=call.chunks, total_tokens=prompt + call.chunks)
        last = AIMessageChunk(
            content="",
            response_metadata={"finish_reason": "stop", "model_name": "fake"},
            usage_metadata=used if self.usage else None,
            chunk_position="last",
        )
        return ChatGenerationChunk(message=last)


def _joined(chunks: list[ChatGenerationChunk]) -> ChatResult:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    fields = whole.message.model_dump(exclude={"type", "tool_call_chunks", "chunk_position"})
    return ChatResult(generations=[ChatGeneration(message=AIMessage(**fields))])
