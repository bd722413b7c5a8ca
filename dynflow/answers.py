"""Answers that are not messages, and how an answer looks outside Python."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from langchain_core.load.serializable import Serializable
from langchain_core.messages import BaseMessage


class Classification(Serializable):
    """A label, how sure the classifier is (0…1, where it knows), and the probability of each label."""

    label: str
    confidence: float | None = None
    probabilities: Mapping[str, float] | None = None

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        return ["dynflow", "answers"]

    def __str__(self) -> str:
        return self.label


def plain_answer(value: Any) -> Any:
    """An answer as JSON has it: a message's text, or its blocks where it is an image, a classification's fields,
    anything else as it is."""
    if isinstance(value, BaseMessage):
        return str(value.text) if image_of(value) is None or value.text else value.content
    if isinstance(value, Classification):
        return {"label": value.label, "confidence": value.confidence, "probabilities": finite(value.probabilities)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return finite(dataclasses.asdict(value))
    return finite(value)


def image_of(value: Any) -> bytes | None:
    """The bytes of the first image that a message brings along; None where it brings none."""
    if not isinstance(value, BaseMessage) or isinstance(value.content, str):
        return None
    for block in value.content:
        if isinstance(block, dict) and block.get("type") == "image" and isinstance(block.get("base64"), str):
            try:
                return base64.b64decode(block["base64"], validate=True)
            except binascii.Error:
                return None
    return None


def text_of(value: Any) -> str:
    """An answer as text: a message's, a classification's label, an object as JSON; empty where there is none."""
    if isinstance(value, Classification):
        return value.label
    if isinstance(value, BaseMessage):
        return str(value.text)
    plain = "" if value is None else plain_answer(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, default=str)


def finite(value: Any) -> Any:
    """The value with null for what JSON has no word for: infinity, such as a budget without a limit, and no number."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
