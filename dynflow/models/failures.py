"""Failures of model providers, as langchain-core's `ModelError` family.

The family is keyed to the HTTP status with which a provider reports a failure; every adapter maps through here, so
that the same condition has the same type whoever serves the model.

An error after which the provider surely bills nothing has the attribute `billed`, which is then False: the request
was never sent, or was turned down (4xx). Any other error leaves the bill in doubt, and has no such attribute.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TypeVar

from langchain_core.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from dynflow.models.settings import ModelSettings

_BY_STATUS: dict[int, type[ModelError]] = {
    401: ModelAuthenticationError,
    403: ModelPermissionDeniedError,
    404: ModelNotFoundError,
    408: ModelTimeoutError,
    429: ModelRateLimitError,
    504: ModelTimeoutError,
}
_CONNECTING = frozenset({"ConnectError", "ConnectTimeout", "ClientConnectorError"})
"""Failures to connect: the first two are httpx's and httpcore's, the last aiohttp's."""

E = TypeVar("E", bound=Exception)


class NotReached(ModelConnectionError):
    """No connection came about (refused, no such host, no route), so nothing was sent."""

    billed = False


def unbilled(error: E) -> E:
    """The error, marked as one after which the provider bills nothing."""
    error.billed = False  # type: ignore[attr-defined]
    return error


def from_status(status: int | None, message: str) -> ModelError:
    """The error that an HTTP status stands for; without one, the connection broke."""
    if status is None:
        return ModelConnectionError(message)
    family = _BY_STATUS.get(status) or (ModelAPIError if status >= 500 else ModelInvalidRequestError)
    # After a 408 the model may have begun.
    return unbilled(family(message)) if 400 <= status < 500 and status != 408 else family(message)


def not_sent(error: BaseException) -> bool:
    """Whether a client library's error, or one beneath it, is such as comes only before a request is sent."""
    errors = list(beneath(error))
    return any(map(_in_connecting, errors)) and not any(map(_lost_later, errors))


def _in_connecting(error: BaseException) -> bool:
    return isinstance(error, ConnectionRefusedError | socket.gaierror) or not _names(error).isdisjoint(_CONNECTING)


def _lost_later(error: BaseException) -> bool:
    """aiohttp's error of a connection that had come about: litellm calls that, too, httpx's ConnectError."""
    return "ClientOSError" in _names(error) and not _in_connecting(error)


def _names(error: BaseException) -> set[str]:
    """Names of an error's classes; neither httpx nor aiohttp need be installed."""
    return {cls.__name__ for cls in type(error).__mro__}


def beneath(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def from_connection(error: BaseException, message: str) -> ModelConnectionError:
    """The error of a connection that broke, or never came about."""
    return NotReached(message) if not_sent(error) else ModelConnectionError(message)


def timed_out(seconds: float | None, settings: ModelSettings) -> ModelTimeoutError:
    """The error of a call that took longer than its timeout."""
    return ModelTimeoutError(f"{settings.model} did not finish within {seconds:g} s")
