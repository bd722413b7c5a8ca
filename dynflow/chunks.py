"""The chunks of a streamed answer: added up, and whether one says anything."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import add_ai_message_chunks


def add_up(chunks: Sequence[Any], empty: Any = None) -> Any:
    """All chunks of a stream as one; where they do not add up, the last one is the whole, as LangChain has it."""
    if not chunks:
        return empty
    first, rest = chunks[0], chunks[1:]
    try:
        if rest and isinstance(first, str):
            return "".join(chunks)
        if rest and isinstance(first, AIMessageChunk):
            return add_ai_message_chunks(first, *rest)  # in one go: one by one takes time quadratic in their number
        return functools.reduce(operator.add, rest, first)
    except TypeError:
        return chunks[-1]


def has_content(chunk: Any) -> bool:
    """Whether a chunk says anything: what went out with it cannot be taken back."""
    if isinstance(chunk, AIMessageChunk):
        extra = chunk.additional_kwargs.keys() - {"refusal"}  # after which the failure edges are still to be taken
        return bool(chunk.content or chunk.tool_call_chunks or extra)
    return not isinstance(chunk, str) or bool(chunk)
