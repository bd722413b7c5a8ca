"""Failures of model providers, as langchain-core's `ModelError` family.

The family is keyed to the HTTP status with which a provider reports a failure; every adapter maps through here, so
that the same condition has the same type whoever serves the model.

An error after which the provider surely bills nothing has the attribute `billed`, which is then False: the request
was never sent, or was turned down (4xx). Any other error leaves the bill in doubt, and has no such attribute.

Where the provider says when to come back, the error has that as `retry_after`, in seconds.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import Any, TypeVar

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
from pydantic import ValidationError

from dynflow.errors import DynflowError, RefusedByModel
from dynflow.models.settings import ModelSettings

_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""OpenAI's codes for a 429 that no waiting mends."""
_CONNECTING = frozenset({"ConnectError", "ConnectTimeout", "ClientConnectorError"})
"""Failures to connect: the first two are httpx's and httpcore's, the last aiohttp's."""

_MISREADING = (AttributeError, TypeError, LookupError, ValueError, RecursionError)
"""What reading an answer raises that has not the protocol's form."""
_NOT_OF_READING = (OSError, UnicodeEncodeError)
"""Those among them of a connection (a certificate, say) or of a request that cannot be sent."""

E = TypeVar("E", bound=Exception)


class NotReached(ModelConnectionError):
    """No connection came about (refused, no such host, no route), so nothing was sent."""

    billed = False


class OutOfTime(ModelTimeoutError):
    """The time limit that we set the call ran out: the service itself said nothing of a time-out."""


class QuotaExhausted(ModelRateLimitError):
    """The account's quota or credit is used up: a rate limit that no waiting mends."""

    is_retryable = False


class CircuitOpen(ModelError):
    """The model is not called, because its last calls failed; `retry_after` is when it will be tried again."""

    billed = False

    def __init__(self, model: str, retry_after: float) -> None:
        self.model = model
        self.retry_after = retry_after
        when = f"in {retry_after:.1f} s" if retry_after > 0 else "by another request at this moment"
        super().__init__(f"the model {model!r} is not called: its last calls failed; it is tried again {when}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model, self.retry_after)


_BY_STATUS: dict[int, type[ModelError]] = {
    401: ModelAuthenticationError,
    402: QuotaExhausted,
    403: ModelPermissionDeniedError,
    404: ModelNotFoundError,
    408: ModelTimeoutError,
    409: ModelAPIError,  # nothing is wrong with the request: it came at a bad moment, as with 425
    425: ModelAPIError,
    429: ModelRateLimitError,
    504: ModelTimeoutError,
}


def retryable(error: BaseException) -> bool:
    """Whether the same call may succeed if it is made again: rate limits, time-outs, lost connections, and 5xx.

    Never what dynflow itself raises (a full queue, a budget, a missing package), nor what a model refuses.
    """
    if isinstance(error, ModelError):
        return error.is_retryable
    return isinstance(error, TimeoutError | ConnectionError) and not isinstance(error, DynflowError)


def blames_model(error: BaseException) -> bool:
    """Whether the failure speaks against the model's service: it was not there, not in time, or broke (5xx).

    A rate limit does not: it comes from a service that is well, and says itself when to come back. Were it counted,
    one greedy caller would close the model for all.
    """
    return retryable(error) and not isinstance(error, ModelRateLimitError)


def shows_model(error: BaseException) -> bool:
    """Whether the failure, though one, is the answer of a service that is there: any status but those above."""
    return isinstance(error, ModelError | RefusedByModel) and not blames_model(error)


def unbilled(error: E) -> E:
    """The error, marked as one after which the provider bills nothing."""
    error.billed = False  # type: ignore[attr-defined]
    return error


def from_status(status: int | None, message: str, cause: BaseException | None = None) -> ModelError:
    """The error that an HTTP status stands for; without one, the connection broke.

    `cause` is the client library's error; its response says when to come back.
    """
    if status is None:
        return ModelConnectionError(message)
    family = _BY_STATUS.get(status) or (ModelAPIError if status >= 500 else ModelInvalidRequestError)
    if family is ModelRateLimitError and any(map(_of_quota, beneath(cause))):
        family = QuotaExhausted
    error = asking_to_wait(family(message), cause)
    # After a 408 the model may have begun.
    return unbilled(error) if 400 <= status < 500 and status != 408 else error


def _of_quota(error: BaseException) -> bool:
    body = getattr(error, "body", None)
    codes = (body.get("code"), body.get("type")) if isinstance(body, Mapping) else ()
    return not _QUOTA.isdisjoint(code for code in codes if isinstance(code, str))


def asking_to_wait(error: E, cause: BaseException | None) -> E:
    """The error, with the `retry_after` of the response beneath the client library's error, if that has one."""
    responses = (getattr(each, "response", None) for each in beneath(cause))
    waits = (retry_after(getattr(response, "headers", None) or {}) for response in responses)
    wait = next((wait for wait in waits if wait is not None), None)
    if wait is not None:
        error.retry_after = wait  # type: ignore[attr-defined]
    return error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date (RFC 9110
    §10.2.3). None where it does not, or not in a form that can be read; a date that has passed is 0."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * unit
        except ValueError:
            try:
                seconds = max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
            except (ValueError, OverflowError):
                continue
        if 0 <= seconds < math.inf:
            return seconds
    return None


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


def misreading(error: BaseException) -> Exception | None:
    """What was first raised in reading an answer that has not the protocol's form; None where nothing such was."""
    found = [each for each in beneath(error) if isinstance(each, _MISREADING) and not isinstance(each, _NOT_OF_READING)]
    return found[-1] if found else None


def misread(settings: ModelSettings, error: Exception | None) -> ModelAPIError:
    """The error of an answer that has not the protocol's form. It says where, and nothing of what the answer says."""
    if isinstance(error, ValidationError):
        fault = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = f": {'.'.join(map(str, fault['loc']))}: {fault['type']}"
    elif isinstance(error, JSONDecodeError | UnicodeDecodeError):
        where = f": {error}"
    else:
        where = f": {type(error).__name__} in reading it" if error is not None else ""
    return ModelAPIError(f"the answer of {settings.model} is not the protocol's{where}")


def timed_out(seconds: float | None, settings: ModelSettings) -> OutOfTime:
    """The error of a call that took longer than its timeout."""
    return OutOfTime(f"{settings.model} did not finish within {seconds:g} s")
