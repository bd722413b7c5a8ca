"""Whether a request can be put on the wire at all, seen before a client library is asked to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.exceptions import ModelAuthenticationError, ModelInvalidRequestError
from langchain_core.messages import BaseMessage

from dynflow.models.base import openai_messages
from dynflow.models.failures import unbilled


def sendable_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages in the OpenAI protocol's form. Raises ModelInvalidRequestError where that has no form for them."""
    try:
        converted = openai_messages(messages)
        _encode(converted, None)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _unsendable("messages", error) from None
    return converted


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ModelInvalidRequestError where a text among the options is none that can be sent."""
    try:
        _encode(options, lambda _: None)  # objects, such as a type as answer format, are the library's to translate
    except (ValueError, TypeError) as error:
        raise _unsendable("options", error) from None


def check_key(key: str | None, model: str) -> None:
    """Raises ModelAuthenticationError for a key that no HTTP header can hold."""
    if key is not None and not (key.isascii() and key.isprintable() and key == key.strip()):
        raise unbilled(
            ModelAuthenticationError(
                f"the key of {model} cannot be sent: it holds a line break, a blank at an end, or a character "
                "beyond ASCII; copy it anew"
            )
        )


def _encode(value: Any, default: Any) -> None:
    """Raises UnicodeEncodeError for half a surrogate pair, ValueError for NaN, TypeError for what JSON lacks."""
    json.dumps(value, ensure_ascii=False, allow_nan=False, default=default).encode()


def _unsendable(what: str, error: Exception) -> ModelInvalidRequestError:
    why = "half a surrogate pair, which is no text" if isinstance(error, UnicodeEncodeError) else str(error)
    return unbilled(ModelInvalidRequestError(f"the request's {what} cannot be sent: {why}"))
