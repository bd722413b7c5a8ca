"""Keeps keys out of what is shown: errors, logs, traces."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from urllib.parse import SplitResult, quote, unquote, urlsplit

from dynflow.models.settings import ModelSettings

_STARS = "**********"
_NAMES_A_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8
"""Characters; a shorter value of the environment is hardly a secret, and starring it out would spoil the message."""
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)[\w.~+/=-]{8,}")


def redact(message: str, settings: ModelSettings) -> str:
    """The message without any key: services repeat those that they refuse, and clients repeat their requests."""
    for secret in sorted(set(_secrets(settings)), key=len, reverse=True):
        for written in {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}:
            message = message.replace(written, _STARS)
    return _BEARER.sub(rf"\g<1>{_STARS}", message)


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
    """The model's key, what its address holds, and the environment's keys: client libraries read those themselves."""
    if settings.api_key is not None and settings.api_key.get_secret_value():
        yield settings.api_key.get_secret_value()
    address = address_parts(settings.address or "")
    for part in (address.username, address.password):
        if part:
            yield from (part, unquote(part))
    for pair in address.query.split("&"):
        if value := pair.partition("=")[2]:
            yield from (value, unquote(value))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _NAMES_A_SECRET.search(name):
            yield value
