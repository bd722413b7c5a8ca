"""What a node gave at its ports: whether it keeps the node type's word, and how much of it a record may hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dynflow.language.types import PortType, holds


def port_fault(declared: Mapping[str, PortType], ports: Mapping[str, Any]) -> str | None:
    """How an output differs from the declared ports, in words. Null stands for any type."""
    for name, port in declared.items():
        if name not in ports:
            return f"it gave no {name!r}"
        value = ports[name]
        if value is None or port.kind == "any":
            continue
        if not holds(port.kind, value):
            return f"{name!r} is {type(value).__name__}, not {port}"
        if port.values is not None and value not in port.values:
            return f"{name!r} is {value!r}, not {port}"
    return None


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
