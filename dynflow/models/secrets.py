"""Keeps keys out of what is shown: errors, logs, traces."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import SplitResult, quote, unquote, urlsplit

from dynflow.models.settings import ModelSettings

_STARS = "**********"
_NAMES_A_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8
"""Characters; a shorter value of the environment is hardly a secret, and starring it out would spoil the message."""
_LOGGERS = ("LiteLLM", "aiohttp", "httpcore", "httpx", "ollama", "openai")
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}")


def redact(message: str, settings: ModelSettings) -> str:
    """The message without any key: services repeat those that they refuse, and clients repeat their requests."""
    return _redacted(message, {*_secrets(settings), *_of_environment()})


def _redacted(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        for written in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            text = text.replace(written, _STARS)
    return _BEARER.sub(rf"\g<1>{_STARS}", text)


class _Guard(logging.Filter):
    """Takes keys out of what client libraries log; at DEBUG they log requests and responses whole."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        secrets = {*self.secrets, *_of_environment()}
        record.msg, record.args = _redacted(record.getMessage(), secrets), None
        if record.exc_info:
            shown = logging.Formatter().formatException(record.exc_info)
            if (hidden := _redacted(shown, secrets)) != shown:
                record.exc_text, record.exc_info = hidden, None  # a handler that wrote it anew would show the key
        return True


_guard = _Guard()


def guard_logs(settings: ModelSettings) -> None:
    """From now on the client libraries that are loaded log nothing with this model's key."""
    _guard.secrets.update(_secrets(settings))
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(_LOGGERS):
            logging.getLogger(name).addFilter(_guard)  # a filter is added but once


def address_parts(address: str) -> SplitResult:
    """The parts of an address, which may leave out `http://`."""
    return urlsplit(address if "://" in address else f"http://{address}")


def public_address(address: str | None) -> str | None:
    """An address without what may be secret in it."""
    if address is None:
        return None
    split = address_parts(address)
    return split._replace(netloc=split.netloc.rpartition("@")[2], query="").geturl()


def _secrets(settings: ModelSettings) -> Iterator[str]:
    """The model's key, and what its address holds."""
    if settings.api_key is not None and settings.api_key.get_secret_value():
        yield settings.api_key.get_secret_value()
    address = address_parts(settings.address or "")
    for part in (address.username, address.password):
        if part:
            yield from (part, unquote(part))
    for pair in address.query.split("&"):
        if value := pair.partition("=")[2]:
            yield from (value, unquote(value))


def _of_environment() -> Iterator[str]:
    """Keys of the environment: client libraries read them without being told."""
    for name, value in list(os.environ.items()):
        if len(value) >= _SHORTEST and _NAMES_A_SECRET.search(name):
            yield value
