"""What hosts hand over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import BaseMessage

from dynflow.testing import FakeChat

HOST = "models: {small: {provider: host}, large: {provider: host}}\n"
"""Two models of the host's."""


def small_and_large(**large: Any) -> dict[str, Any]:
    return {"small": FakeChat(replies=echo("small")), "large": FakeChat(replies=echo("large"), **large)}


def echo(name: str) -> Callable[[list[BaseMessage]], str]:
    return lambda messages: f"{name}: {messages[-1].text}"


def failing(error: Exception | None = None) -> FakeChat:
    return FakeChat(fail_with=error or ModelRateLimitError("too many requests"))


def number(text: Any) -> dict[str, float]:
    """The number that the request is; fails where it is none."""
    return {"score": float(text)}


def fails(_: Any) -> Any:
    raise ConnectionError("gone")


def scoring() -> dict[str, Any]:
    return {"score": number, "fails": fails}


SCORE = "{type: runnable, name: score, role: signal, ports: {score: number}}"
FAILING = "{type: runnable, name: fails, role: signal, ports: {score: number}}"


def canned(text: str) -> str:
    return f"{{type: prompt, role: answer, template: {text}}}"
