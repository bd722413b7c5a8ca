"""What a node gave at its ports: whether it keeps the node type's word, and how much of it a record may hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dynflow.language.types import PortType, holds


def port_fault(node_type: str, declared: Mapping[str, PortType], ports: Mapping[str, Any]) -> str | None:
    """How an output differs from the ports that its node type declares, in words. Null stands for any type."""
    fault = next(_faults(declared, ports), None)
    return None if fault is None else f"the node type {node_type!r} broke its own word: {fault}"


def _faults(declared: Mapping[str, PortType], ports: Mapping[str, Any]) -> Iterator[str]:
    for name, port in declared.items():
        if name not in ports:
            yield f"it gave no {name!r}"
            continue
        value = ports[name]
        if value is None or port.kind == "any":
            continue
        if not holds(port.kind, value):
            yield f"{name!r} is {type(value).__name__}, not {port}"
        elif port.values is not None and value not in port.values:
            yield f"{name!r} is {value!r}, not {port}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def plain_ports(
    ports: Mapping[str, Any], declared: Mapping[str, PortType], words: frozenset[str], keys: frozenset[str]
) -> dict[str, Any]:
    """Port values that explain without holding content: numbers, flags, and texts of a closed set or among `words`,
    which the graph itself names; of records of numbers, what stands under `keys`, which it names too."""
    kept: dict[str, Any] = {}
    for name, value in ports.items():
        if isinstance(value, str):
            plain = value in words or (name in declared and declared[name].values is not None)
        elif isinstance(value, Mapping):
            plain = all(map(_is_number, value.values()))
        else:
            plain = value is None or _is_number(value)
        if plain and not (isinstance(value, float) and not math.isfinite(value)):
            kept[name] = _under(keys, value) if isinstance(value, Mapping) else value
    return kept


def _under(keys: frozenset[str], record: Mapping[Any, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if isinstance(key, str) and key in keys}
