"""Failures of model providers, as langchain-core's `ModelError` family.

The family is keyed to the HTTP status with which a provider reports a failure; every adapter maps through here, so
that the same condition has the same type whoever serves the model.
"""

from __future__ import annotations

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


def from_status(status: int | None, message: str) -> ModelError:
    """The error that an HTTP status stands for; without one, the provider was not reached."""
    if status is None:
        return ModelConnectionError(message)
    family = _BY_STATUS.get(status) or (ModelAPIError if status >= 500 else ModelInvalidRequestError)
    return family(message)


def timed_out(seconds: float | None, settings: ModelSettings) -> ModelTimeoutError:
    """The error of a call that took longer than its timeout."""
    return ModelTimeoutError(f"{settings.model} did not finish within {seconds:g} s")


def redact(message: str, settings: ModelSettings) -> str:
    """The message without the model's key: some services repeat the key that they refuse."""
    secret = settings.api_key.get_secret_value() if settings.api_key else ""
    return message.replace(secret, "**********") if secret else message
