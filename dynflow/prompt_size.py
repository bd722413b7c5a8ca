"""How many tokens a prompt has: an estimate for the record, and the most that it can be for reservations."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from dynflow.request import estimate_tokens

_WORD = re.compile(r" ?(?<![A-Za-z])[A-Za-z](?=[a-z]*[aeiouy])[a-z]{2,11}(?![A-Za-z])")
_PER_MESSAGE = 10
"""Tokens that a chat template puts around a message, at most."""
_PER_PROMPT = 64
"""Tokens of a template's own system message, at most."""
_PER_TOOLS = 600
"""Tokens of the instructions that a provider adds where tools are offered, at most."""
_PER_MEDIUM = 6_000
"""Tokens that an image, or a file that is fetched from an address, is taken to have at most."""
_IMAGES = frozenset({"image", "image_url"})


class PromptSize:
    """Tokens of a prompt: messages, and the tools and answer format that go along with them in `options`."""

    def __init__(self, messages: Sequence[BaseMessage], options: Mapping[str, Any] | None = None) -> None:
        options = options or {}
        self._messages = messages
        self._attached = [json.dumps(options[name], default=str) for name in _ATTACHED if options.get(name)]
        self._tools = bool(options.get("tools"))

    @cached_property
    def tokens(self) -> int:
        """What it has, roughly: one for four bytes of text."""
        texts = [*(str(message.text) for message in self._messages), *self._attached]
        return sum(map(estimate_tokens, texts))

    @cached_property
    def most(self) -> int:
        """What it has at most.

        No byte-level tokenizer makes more than one token of a byte, and none that is in use makes more than one of
        two bytes of an ordinary word; what chat templates and providers add is counted at the most that was seen.
        """
        added = _PER_PROMPT + _PER_MESSAGE * len(self._messages) + (_PER_TOOLS if self._tools else 0)
        return added + sum(map(_most, self._attached)) + sum(map(_most_of, self._messages))


_ATTACHED = ("tools", "response_format", "format")


def _most(text: str) -> int:
    """Tokens of a text at most."""
    saved = sum((word.end() - word.start()) // 2 for word in _WORD.finditer(text))
    return len(text.encode("utf-8", "replace")) - saved


def _most_of(message: BaseMessage) -> int:
    calls = [json.dumps(call, default=str) for call in message.tool_calls] if isinstance(message, AIMessage) else []
    parts = [message.content] if isinstance(message.content, str) else message.content
    return sum(_most_of_part(part) for part in parts) + sum(map(_most, calls)) + sum(map(_most, _names(message)))


def _names(message: BaseMessage) -> Iterator[str]:
    for name in (message.name, getattr(message, "tool_call_id", None)):
        if name:
            yield str(name)


def _most_of_part(part: str | Mapping[str, Any]) -> int:
    if isinstance(part, str):
        return _most(part)
    if part.get("type") == "text":
        return _most(str(part.get("text", "")))
    if part.get("type") in _IMAGES:
        return _PER_MEDIUM
    return _PER_MEDIUM + len(json.dumps(part, default=str))  # a file or a sound, whose data may be inside
