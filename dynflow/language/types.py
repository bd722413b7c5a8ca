"""The types of ports, params and inputs, as conditions and references see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynflow.errors import FAILURE_KINDS


@dataclass(frozen=True)
class PortType:
    """What a port holds: its kind, the closed set of an enum, the fields of a record, and words for the docs.

    Kinds: `number integer string boolean null list record messages message image audio any`. An `integer` is a
    `number`; `any` is compatible with everything and checked when the walk reads it.
    """

    kind: str
    doc: str = field(default="", compare=False)
    values: tuple[str, ...] | None = None
    fields: Mapping[str, PortType] | None = None

    def __str__(self) -> str:
        if self.values is not None:
            return f"one of {', '.join(map(repr, self.values))}"
        return self.kind

    def accepts(self, other: PortType) -> bool:
        """Whether a value of type `other` may stand where this type is wanted."""
        if "any" in (self.kind, other.kind):
            return True
        if self.kind == "number":
            return other.kind in ("number", "integer")
        return self.kind == other.kind

    def with_doc(self, doc: str) -> PortType:
        """The same type with other words."""
        return PortType(self.kind, doc, self.values, self.fields)


def number(doc: str = "") -> PortType:
    return PortType("number", doc)


def integer(doc: str = "") -> PortType:
    return PortType("integer", doc)


def string(doc: str = "") -> PortType:
    return PortType("string", doc)


def boolean(doc: str = "") -> PortType:
    return PortType("boolean", doc)


def enum(values: tuple[str, ...] | list[str], doc: str = "") -> PortType:
    return PortType("string", doc, tuple(values))


def record(fields: Mapping[str, PortType] | None = None, doc: str = "") -> PortType:
    """A record with known fields, or (None) with any."""
    return PortType("record", doc, None, fields)


def any_type(doc: str = "") -> PortType:
    return PortType("any", doc)


NULL = PortType("null")
DECLARABLE: dict[str, PortType] = {
    name: PortType(name)
    for name in (
        "number",
        "integer",
        "string",
        "boolean",
        "list",
        "record",
        "messages",
        "message",
        "image",
        "audio",
        "any",
    )
}
"""Type names that a graph's text may use, in `inputs:` and in a runnable's `ports:`."""
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "string": (str,),
    "boolean": (bool,),
    "list": (list, tuple),
    "record": (dict,),
}


def holds(kind: str, value: Any) -> bool:
    """Whether a value is of a declarable kind; kinds without a plain Python type hold anything."""
    if kind in ("image", "audio"):  # bytes, a path or URL, a content block, an array: any form but a plain number
        return value is not None and not isinstance(value, (bool, int, float))
    wanted = _PYTHON_TYPES.get(kind)
    if wanted is None:
        return True
    return isinstance(value, wanted) and (kind == "boolean" or not isinstance(value, bool))


COMMON_PORTS: dict[str, PortType] = {
    "ok": boolean("ran and succeeded"),
    "failed": boolean("ran and failed"),
    "error": enum(FAILURE_KINDS, "why it failed; null where it succeeded"),
    "seconds": number("wall-clock time it took, s"),
    "usd": number("what it cost, USD"),
}
"""Ports of every node. `ok` and `failed` are never unknown; the others are known once the node ran."""

INPUT_TYPES: dict[str, PortType] = {
    "text": string("the last user turn"),
    "messages": PortType("messages", "the conversation"),
    "turns": integer("user turns so far"),
    "tokens": integer("estimated tokens of the whole request"),
    "has_images": boolean("the request holds an image"),
    "has_audio": boolean("the request holds audio"),
    "has_tools": boolean("the caller bound tools, as an agent does"),
}
BUDGET_TYPES: dict[str, PortType] = {
    "request_left_usd": number("USD left of limits.usd_per_request; infinite without one"),
    "day_left_usd": number("USD left of limits.usd_per_day; infinite without one"),
    "baseline_left": number("visits of the baseline that limits.baseline_share leaves; infinite without one"),
    "seconds_left": number("seconds left of limits.timeout; infinite without one"),
}


def type_of_value(value: Any) -> PortType:
    """The type of a literal: of a param's default, say."""
    match value:
        case bool():
            return boolean()
        case int():
            return integer()
        case float():
            return number()
        case str():
            return string()
        case None:
            return NULL
        case list() | tuple():
            return PortType("list")
        case _:
            return any_type()
