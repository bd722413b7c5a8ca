"""One request: what the caller sent, as nodes and conditions read it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, convert_to_messages
from langchain_core.prompt_values import PromptValue

from dynflow.errors import InputError
from dynflow.language.source import did_you_mean
from dynflow.language.spec import InputBody
from dynflow.language.types import holds

_CHARACTERS_PER_TOKEN = 4
"""The usual estimate for English; used before any tokenizer is loaded, so for limits and capabilities only."""


class Request:
    """The caller's input: its messages, the last user turn, and the declared further keys."""

    def __init__(
        self,
        original: Any,
        *,
        call_options: Mapping[str, Any] | None = None,
        declared: Mapping[str, InputBody] | None = None,
    ) -> None:
        """Raises `InputError` where the input is empty, of another type, or lacks a declared key."""
        self.original = original
        self.call_options: Mapping[str, Any] = call_options or {}
        """What the caller of the chat face asks of the model that answers: `tools`, `stop`, `max_tokens`…"""
        self.extras: dict[str, Any] = {}
        self._declared = declared or {}
        self._required = [name for name, spec in self._declared.items() if spec.default is None]
        if isinstance(original, str) and not declared:
            self._content: str | Sequence[BaseMessage] = original
        else:
            self._content = self._read(original, declared or {})
        if not (self.text.strip() or self.has_images or self.has_audio or self._required):
            raise InputError("the request is empty: give a question, or messages with one")

    def _read(self, original: Any, declared: Mapping[str, InputBody]) -> str | Sequence[BaseMessage]:
        body = original
        given: dict[str, Any] = {}
        if isinstance(original, Mapping):
            keys = [key for key in ("input", "messages") if key in original]
            if len(keys) > 1:
                raise InputError("give `input` or `messages`, not both")
            unknown = [str(key) for key in original if key not in declared and key not in keys]
            if unknown:
                hint = did_you_mean(unknown[0], [*declared, "input", "messages"])
                raise InputError(f"the request key {unknown[0]!r} is not declared under `inputs:`{hint}")
            if not keys and not declared:
                raise InputError("a mapping needs the key `input` (text) or `messages`")
            body = original[keys[0]] if keys else ""
            given = {key: value for key, value in original.items() if key in declared}
        for name, spec in declared.items():
            self.extras[name] = _declared_value(name, spec, given)
        return _content(body)

    @cached_property
    def messages(self) -> list[BaseMessage]:
        """The conversation; a plain text is one user turn."""
        return [HumanMessage(self._content)] if isinstance(self._content, str) else list(self._content)

    @cached_property
    def text(self) -> str:
        """The last user turn."""
        if isinstance(self._content, str):
            return self._content
        for message in reversed(self._content):
            if message.type == "human":
                return str(message.text)
        return str(self._content[-1].text) if self._content else ""

    @property
    def turns(self) -> int:
        """User turns so far."""
        return sum(message.type == "human" for message in self.messages)

    @cached_property
    def tokens(self) -> int:
        """Estimated tokens of the whole conversation."""
        if isinstance(self._content, str):
            return estimate_tokens(self._content)
        return sum(estimate_tokens(str(message.text)) for message in self._content)

    @cached_property
    def tool_tokens(self) -> int:
        """Estimated tokens of the tools that the caller bound."""
        tools = self.call_options.get("tools")
        return estimate_tokens(json.dumps(tools)) if tools else 0

    @property
    def has_tools(self) -> bool:
        """Whether the caller bound tools."""
        return bool(self.call_options.get("tools"))

    @cached_property
    def has_images(self) -> bool:
        """Whether a message, or a declared key of type image, holds an image."""
        return self._has("image", "image_url") or self._declares("image")

    @cached_property
    def has_audio(self) -> bool:
        """Whether a message, or a declared key of type audio, holds sound."""
        return self._has("audio", "input_audio") or self._declares("audio")

    def _declares(self, kind: str) -> bool:
        """Whether a declared key of this type was given."""
        return any(spec.type == kind and self.extras.get(name) is not None for name, spec in self._declared.items())

    def _has(self, *kinds: str) -> bool:
        if isinstance(self._content, str):
            return False
        return any(
            isinstance(block, dict) and block.get("type") in kinds
            for message in self._content
            if isinstance(message.content, list)
            for block in message.content
        )

    def port(self, name: str) -> Any:
        """The value of `input.<name>` in conditions and references."""
        return self.extras[name] if name in self.extras else getattr(self, name)


def estimate_tokens(text: str) -> int:
    """Tokens that a text has, roughly: one for four bytes of it."""
    return -(-len(text.encode("utf-8", "replace")) // _CHARACTERS_PER_TOKEN)


def _content(body: Any) -> str | Sequence[BaseMessage]:
    if isinstance(body, str):
        return body
    if isinstance(body, PromptValue):
        return body.to_messages()
    if isinstance(body, BaseMessage):
        return [body]
    if isinstance(body, Sequence) and not isinstance(body, (bytes, bytearray)):
        try:
            messages: Sequence[AnyMessage | BaseMessage] = convert_to_messages(list(body))
        except Exception as error:
            raise InputError(f"these are no messages: {str(error).splitlines()[0]}") from error
        if not messages:
            raise InputError("the request is empty: `messages` holds none")
        return messages
    raise InputError(
        "a request is a text, a prompt value, messages, or a mapping with `input` or `messages`; "
        f"not {type(body).__name__}"
    )


def _declared_value(name: str, spec: InputBody, given: Mapping[str, Any]) -> Any:
    if name not in given:
        if spec.default is None:
            raise InputError(f"the request lacks {name!r}, which the graph declares ({spec.type})")
        return spec.default
    value = given[name]
    if not holds(spec.type, value):
        raise InputError(f"{name!r} takes a {spec.type}, not {type(value).__name__}")
    return value
