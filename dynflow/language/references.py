"""References: `${params.x}`, `${input.key}`, `${node.port}`, `${a.port ?? b.port}`, `${env:NAME:-default}`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_ENVIRONMENT = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_TARGET = re.compile(r"([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)?)")


@dataclass(frozen=True, slots=True)
class EnvironmentReference:
    """`${env:NAME:-default}`: read when used, never stored."""

    name: str
    default: str | None = None

    def __str__(self) -> str:
        return f"${{env:{self.name}}}" if self.default is None else f"${{env:{self.name}:-{self.default}}}"


@dataclass(frozen=True, slots=True)
class Reference:
    """`${a.port ?? b.port}`: the first of `targets` (owner, port) whose owner succeeded.

    The owner is a node id, `params` or `input`.
    """

    targets: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "${" + " ?? ".join(f"{owner}.{port}" for owner, port in self.targets) + "}"


AnyReference = Reference | EnvironmentReference


class ReferenceSyntaxError(ValueError):
    """A `${…}` that is none of the four forms; the message says what was expected."""


def parse_reference(text: str) -> AnyReference | None:
    """The reference that a whole scalar is, or None where it holds no `${`.

    Raises `ReferenceSyntaxError` where a `${` stands in it and the scalar is not one whole reference.
    """
    if "${" not in text:
        return None
    body = text.strip()
    if not (body.startswith("${") and body.endswith("}")) or body.count("${") > 1:
        raise ReferenceSyntaxError(
            "a reference must be the whole value, such as ${local.answer}; to put values into a text, use a prompt node"
        )
    body = body[2:-1].strip()
    if body.startswith("env:"):
        match = _ENVIRONMENT.fullmatch(body)
        if match is None:
            raise ReferenceSyntaxError(
                f"{body!r} is no environment reference; write ${{env:NAME}} or ${{env:NAME:-default}}"
            )
        return EnvironmentReference(match[1], match[2])
    targets = []
    for part in body.split("??"):
        match = _TARGET.fullmatch(part.strip())
        if match is None:
            raise ReferenceSyntaxError(
                f"{part.strip()!r} is no reference; "
                "write ${node.port}, ${params.name}, ${input.key} or ${env:NAME}"
            )
        targets.append((match[1], match[2]))
    return Reference(tuple(targets))


def find_references(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], AnyReference]]:
    """Every reference inside a tree of mappings and lists, with its path."""
    if isinstance(value, AnyReference):
        yield at, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from find_references(item, (*at, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from find_references(item, (*at, index))
