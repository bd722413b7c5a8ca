"""What all providers' chat models share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from dynflow.models.base import ProviderChat
from dynflow.models.settings import ModelSettings


class Echo(ProviderChat):
    """Says what it is told."""

    provider = "echo"

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        yield ChatGenerationChunk(message=AIMessageChunk(content=messages[-1].text, chunk_position="last"))


def test_a_call_leaves_the_warning_filters_of_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no thread's own: with many threads that change them at each call, CPython has crashed."""
    model = Echo(settings=ModelSettings(provider="llama_cpp", model="echo"))
    assert model.invoke("first").text == "first"  # imports may change them

    def changed(*_: Any) -> None:
        raise AssertionError("the filters of all threads were changed")

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", changed)
    assert model.invoke("hello").text == "hello"
    assert [chunk.text for chunk in model.stream("hello")] == ["hello"]
