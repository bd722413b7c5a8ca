"""Conditions over many requests and settings at once: the language's three values as arrays.

Every array is broadcastable to [settings, rows]. What is plainly numeric is calculated by numpy; any other comparison
goes through the language's own evaluator, value by value, so that both mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynflow.language.evaluate import UNKNOWN, compile_expression
from dynflow.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Constant,
    Either,
    FunctionCall,
    Negative,
    Not,
    Port,
    Term,
    ports_of,
)

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
_NOTHING = (None, UNKNOWN)


@dataclass(frozen=True)
class Column:
    """A port's values, and where they are known: numbers as float64, flags as bool, others as places in a table."""

    values: NDArray[Any]
    known: Flags
    table: tuple[Any, ...] | None = None
    """The different values, where they are neither numbers nor flags; None where `values` holds them itself."""

    @classmethod
    def of(cls, values: Sequence[Any]) -> Column:
        """One value for each row; `UNKNOWN` where there is none."""
        known = np.array([value is not UNKNOWN for value in values], dtype=bool)
        kinds = {type(value) for value in values if value is not UNKNOWN}
        if kinds and kinds <= {int, float}:
            return cls(np.array([0.0 if value is UNKNOWN else float(value) for value in values]), known)
        if kinds == {bool}:
            return cls(np.array([value is True for value in values], dtype=bool), known)
        places: dict[Any, int] = {}
        table: list[Any] = []
        found = np.zeros(len(values), dtype=np.int32)
        for row, value in enumerate(values):
            key = (type(value), value) if isinstance(value, str | int | float) else (id(value),)
            found[row] = place = places.setdefault(key, len(table))
            if place == len(table):
                table.append(value)
        return cls(found, known, tuple(table))

    @classmethod
    def of_array(cls, values: NDArray[Any]) -> Column:
        """The same, of an array of any shape."""
        flat = cls.of(values.ravel().tolist())
        return cls(flat.values.reshape(values.shape), flat.known.reshape(values.shape), flat.table)

    def at(self, index: NDArray[np.integer[Any]], known: Flags) -> Column:
        """The values of these places; known only where `known` says so too."""
        return Column(self.values[index], self.known[index] & known, self.table)

    def where(self, reached: Flags) -> Column:
        """The same, known only there."""
        return Column(self.values, self.known & reached, self.table)

    @cached_property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return bool(self.values.dtype == np.float64)

    def key(self, key: str) -> Column:
        """What records have under a key; other values as they are."""
        if self.table is None:
            return self
        parts = [value.get(key, UNKNOWN) if isinstance(value, Mapping) else value for value in self.table]
        return Column.of(parts).at(self.values, self.known)

    def floats(self) -> Floats | None:
        """The values as numbers, NaN where they are null or unknown; None where there are others than numbers."""
        if self.numeric or not self.known.any():
            return np.where(self.known, self.values, math.nan)
        if self.table is None or not all(_is_number(value) or value in _NOTHING for value in self.table):
            return None
        numbers = np.array([float(value) if _is_number(value) else math.nan for value in self.table])
        return np.where(self.known, numbers[self.values], math.nan)

    def objects(self) -> NDArray[Any]:
        """The values as the language's own evaluator takes them."""
        values = self.values.astype(object) if self.table is None else _objects(self.table)[self.values]
        array = np.empty(np.broadcast_shapes(self.values.shape, self.known.shape), dtype=object)
        array[...] = values
        array[~np.broadcast_to(self.known, array.shape)] = UNKNOWN
        return array

    def coded(self) -> tuple[NDArray[np.int64], list[Any]]:
        """A number for each different value, and what it stands for; `UNKNOWN` is the first."""
        if self.table is not None:
            places, table = self.values, list(self.table)
        else:
            different, places = np.unique(self.values, return_inverse=True)
            places, table = places.reshape(self.values.shape), different.tolist()
        return np.where(self.known, places + 1, 0).astype(np.int64), [UNKNOWN, *table]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@dataclass(frozen=True)
class Truth:
    """Where a condition is true, and where it is false; it is unknown elsewhere."""

    true: Flags
    false: Flags


Lookup = Callable[[str, str], Column]
"""The column of `owner.port`."""


def truth(term: Term, lookup: Lookup) -> Truth:
    """A condition's value everywhere (Kleene)."""
    match term:
        case Not(operand=operand):
            inner = truth(operand, lookup)
            return Truth(inner.false, inner.true)
        case Both(operands=operands):
            parts = [truth(operand, lookup) for operand in operands]
            return Truth(_all([part.true for part in parts]), _any([part.false for part in parts]))
        case Either(operands=operands):
            parts = [truth(operand, lookup) for operand in operands]
            return Truth(_any([part.true for part in parts]), _all([part.false for part in parts]))
        case Port(owner=owner, path=(name,)):
            column = lookup(owner, name)
            if column.values.dtype == bool:
                return Truth(column.values & column.known, ~column.values & column.known)
        case Comparison() if (compared := _compared(term, lookup)) is not None:
            return compared
    return _one_by_one(term, lookup)


def numbers(term: Term, lookup: Lookup) -> tuple[Floats, Flags] | None:
    """A numeric term's values, and where they are known; None where it is not plainly numeric."""
    match term:
        case Constant(value=bool()):
            return None
        case Constant(value=int() | float() as value):
            return np.array(float(value)), np.array(True)
        case Port(owner=owner, path=(name,)):
            column = lookup(owner, name)
            return (column.values, column.known) if column.numeric else None
        case Negative(operand=operand):
            inner = numbers(operand, lookup)
            return None if inner is None else (-inner[0], inner[1])
        case Arithmetic():
            return _calculated(term, lookup)
        case FunctionCall(name="min" | "max" | "abs" as name, arguments=arguments):
            found = [numbers(argument, lookup) for argument in arguments]
            parts = [part for part in found if part is not None]
            if len(parts) < len(found):
                return None
            values, known = [part[0] for part in parts], _all([part[1] for part in parts])
            if name == "abs":
                return np.abs(values[0]), known
            return reduce(np.minimum if name == "min" else np.maximum, values), known
    return None


_COMPARE: dict[str, Callable[[Floats, Floats], Flags]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


def _compared(term: Comparison, lookup: Lookup) -> Truth | None:
    """A chain of numeric comparisons; None where it is none."""
    if not all(operator in _COMPARE for operator in term.operators):
        return None
    operands = []
    for operand in term.operands:
        part = numbers(operand, lookup)
        if part is None:
            return None
        operands.append(part)
    links = []
    for operator, (left, left_known), (right, right_known) in zip(term.operators, operands, operands[1:], strict=False):
        known = left_known & right_known
        holds = _COMPARE[operator](left, right)
        links.append(Truth(holds & known, ~holds & known))
    return Truth(_all([link.true for link in links]), _any([link.false for link in links]))


def _calculated(term: Arithmetic, lookup: Lookup) -> tuple[Floats, Flags] | None:
    left, right = numbers(term.left, lookup), numbers(term.right, lookup)
    if left is None or right is None:
        return None
    known = left[1] & right[1]
    with np.errstate(all="ignore"):
        match term.operator:
            case "+":
                return left[0] + right[0], known
            case "-":
                return left[0] - right[0], known
            case "*":
                return left[0] * right[0], known
    divisible = right[0] != 0
    return left[0] / np.where(divisible, right[0], 1.0), known & divisible


def _one_by_one(term: Term, lookup: Lookup) -> Truth:
    """Any other term, by the language's own evaluator: once for each different combination of values."""
    ports = list(dict.fromkeys((port.owner, port.path[0]) for port in ports_of(term)))
    evaluate = compile_expression(term)
    columns = [lookup(*port).coded() for port in ports]
    codes, size = np.zeros(1, dtype=np.int64), 1
    for places, table in columns:
        codes, size = codes * len(table) + places, size * len(table)
    different, place = np.unique(codes, return_inverse=True) if len(columns) > 1 else (np.arange(size), codes)
    found = []
    for code in different.tolist():
        known: dict[tuple[str, str], Any] = {}
        for port, (_, table) in zip(reversed(ports), reversed(columns), strict=True):
            code, at = divmod(code, len(table))
            known[port] = table[at]
        found.append(evaluate(partial(_read, known)))
    place = place.reshape(codes.shape)
    return Truth(*(np.array([value is flag for value in found], dtype=bool)[place] for flag in (True, False)))


def _read(known: Mapping[tuple[str, str], Any], owner: str, port: str) -> Any:
    return known[owner, port]


def _all(parts: Sequence[Flags]) -> Flags:
    return reduce(np.logical_and, parts)


def _any(parts: Sequence[Flags]) -> Flags:
    return reduce(np.logical_or, parts)
