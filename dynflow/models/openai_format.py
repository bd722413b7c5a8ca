"""Reads the OpenAI chat protocol, whole answers and streams alike, into LangChain chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.exceptions import ModelConnectionError
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import ToolCallChunk
from langchain_core.outputs import ChatGenerationChunk

from dynflow.speculation.statistics import ACCEPTED_KEY, SPECULATION_KEY, Speculation


class Reader:
    """Turns the events of one answer into chunks; statistics of speculation and accepted texts go along.

    `feed` gives a chunk for each event that carries content; `end` gives the last one, with usage, finish reason and
    timings; `whole` gives both as one. An answer that ends without a finish reason was cut off: `end` and `whole`
    raise ModelConnectionError, because half an answer must not pass for a whole one.
    """

    def __init__(self, model: str, provider: str) -> None:
        self._about: dict[str, Any] = {"model_name": model, "model_provider": provider}
        self._finish_reason: str | None = None
        self._usage: UsageMetadata | None = None

    def feed(self, event: Mapping[str, Any]) -> ChatGenerationChunk | None:
        """Read one event: a `chat.completion.chunk`, or all but the end of a `chat.completion`."""
        self._usage = usage(event.get("usage") or {}) or self._usage
        if event.get("timings"):
            self._about["timings"] = dict(event["timings"])
            if (told := _drafts(event["timings"])) is not None:
                self._about[SPECULATION_KEY] = told.as_dict()
        if SPECULATION_KEY in event:
            self._about[SPECULATION_KEY] = dict(event[SPECULATION_KEY])
        choice = next(iter(event.get("choices") or ()), None)
        if choice is None:
            return None
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        chunk = _chunk(choice.get("delta") or choice.get("message") or {}, choice.get("logprobs"))
        if chunk is not None and event.get(ACCEPTED_KEY):
            chunk.generation_info = {**(chunk.generation_info or {}), ACCEPTED_KEY: [chunk.text]}
        return chunk

    def end(self) -> ChatGenerationChunk:
        """The last chunk. Raises ModelConnectionError if no finish reason was read."""
        return self._ended(ChatGenerationChunk(message=AIMessageChunk(content="")))

    def whole(self, event: Mapping[str, Any]) -> ChatGenerationChunk:
        """Read a whole `chat.completion`. Raises ModelConnectionError if it has no finish reason."""
        return self._ended(self.feed(event) or ChatGenerationChunk(message=AIMessageChunk(content="")))

    def _ended(self, chunk: ChatGenerationChunk) -> ChatGenerationChunk:
        if self._finish_reason is None:
            raise ModelConnectionError(
                f"the answer of {self._about['model_name']} was cut off: its stream ended without a finish reason"
            )
        assert isinstance(chunk.message, AIMessageChunk)
        chunk.message.usage_metadata, chunk.message.chunk_position = self._usage, "last"
        chunk.generation_info = {**(chunk.generation_info or {}), "finish_reason": self._finish_reason, **self._about}
        return chunk


def _drafts(timings: Mapping[str, Any]) -> Speculation | None:
    """What a server of llama.cpp tells of the drafts that it checked by itself; None where it tells of none.

    It takes a drafted token where its sampler, on the target's own logits, chooses the same: the distribution stays.
    """
    try:
        drafted, accepted = int(timings["draft_n"]), int(timings["draft_n_accepted"])
        tokens, seconds = int(timings["predicted_n"]), float(timings["predicted_ms"]) / 1000
        passes = max(tokens - 1 - accepted, 0)  # the first token comes from the pass on the prompt
        return Speculation(
            tokens,
            passes,
            drafted,
            accepted,
            drafters=("server",),
            seconds=seconds,
            exactness="exact_distribution",
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _chunk(delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None) -> ChatGenerationChunk | None:
    text = delta.get("content") or ""
    calls = [_tool_call(call) for call in delta.get("tool_calls") or ()]
    extra = {key: delta[key] for key in ("reasoning_content", "refusal") if delta.get(key)}
    if isinstance(reasoning := delta.get("reasoning"), str) and reasoning:  # as OpenRouter and vLLM name it
        extra.setdefault("reasoning_content", reasoning)
    tokens = (logprobs or {}).get("content")
    if not (text or calls or extra or tokens):
        return None
    message = AIMessageChunk(content=text, tool_call_chunks=calls, additional_kwargs=extra)
    return ChatGenerationChunk(
        message=message, generation_info={"logprobs": {"content": list(tokens)}} if tokens else None
    )


def _tool_call(call: Mapping[str, Any]) -> ToolCallChunk:
    function = call.get("function") or {}
    return ToolCallChunk(
        name=function.get("name"),
        args=function.get("arguments"),
        id=call.get("id"),
        index=call.get("index"),
        type="tool_call_chunk",
    )


def usage(counts: Mapping[str, Any]) -> UsageMetadata | None:
    """Token counts in LangChain's form, with cached and reasoning tokens where they are told.

    None where nothing was counted: no prompt has no tokens, so zeros stand for a server that does not say.
    """
    prompt, completion = int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0)
    if not (prompt or completion):
        return None
    total = int(counts.get("total_tokens") or prompt + completion)
    found = UsageMetadata(input_tokens=prompt, output_tokens=completion, total_tokens=total)
    details = counts.get("prompt_tokens_details") or {}
    read, written = details.get("cached_tokens"), details.get("cache_creation_tokens")
    if read is not None:
        found["input_token_details"] = InputTokenDetails(cache_read=int(read))
    if written:
        found["input_token_details"] = InputTokenDetails(cache_read=int(read or 0), cache_creation=int(written))
    reasoning = (counts.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if reasoning is not None:
        found["output_token_details"] = OutputTokenDetails(reasoning=int(reasoning))
    return found
