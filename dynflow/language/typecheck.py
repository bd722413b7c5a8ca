"""Checks a condition against the declared ports, so that `difficulty.scor` is an error before any model loads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from dynflow.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Constant,
    Either,
    ExpressionError,
    FunctionCall,
    Items,
    Negative,
    Not,
    Port,
    Term,
)
from dynflow.language.source import did_you_mean
from dynflow.language.types import NULL, PortType, any_type, boolean, number, type_of_value

_ORDER = ("<", "<=", ">", ">=")


class Scope(Protocol):
    """What names a condition or reference may use."""

    def owners(self) -> Mapping[str, Mapping[str, PortType]]:
        """Ports by owner: `params`, `input`, `budget`, and each node's id."""
        ...


def resolve_port(term: Port, owners: Mapping[str, Mapping[str, PortType]]) -> PortType:
    """The type of a port. Raises `ExpressionError` with codes `unknown_name` and `unknown_port`."""
    at = (term.offset, term.length)
    if term.owner not in owners:
        raise ExpressionError("unknown_name", f"there is no node {term.owner!r}{did_you_mean(term.owner, owners)}", *at)
    ports = owners[term.owner]
    name = term.path[0]
    if name not in ports:
        kinds = {"params": "param", "input": "input key", "budget": "budget value"}
        what = kinds.get(term.owner, f"port of {term.owner!r}")
        raise ExpressionError("unknown_port", f"{name!r} is no {what}{did_you_mean(name, ports)}", *at)
    port = ports[name]
    if len(term.path) == 1:
        return port
    if port.kind == "any" or (port.kind == "record" and port.fields is None):
        return any_type()
    if port.kind != "record" or port.fields is None:
        raise ExpressionError(
            "unknown_port",
            f"{term.owner}.{name} is {port} and has no field {term.path[1]!r}: write {term.owner}.{name}",
            *at,
        )
    if term.path[1] not in port.fields:
        hint = did_you_mean(term.path[1], port.fields)
        raise ExpressionError("unknown_port", f"{term.path[1]!r} is no field of {term.owner}.{name}{hint}", *at)
    return port.fields[term.path[1]]


def check_condition(term: Term, owners: Mapping[str, Mapping[str, PortType]]) -> None:
    """Raise `ExpressionError` unless the condition is well-typed and a boolean."""
    kind = type_of(term, owners)
    if not boolean().accepts(kind):
        raise ExpressionError(
            "not_boolean",
            f"a condition is true or false, this is {kind}: compare it with something",
            term.offset,
            term.length,
        )


def type_of(term: Term, owners: Mapping[str, Mapping[str, PortType]]) -> PortType:
    """The type of any part of a condition. Raises `ExpressionError`."""
    match term:
        case Constant():
            return type_of_value(term.value)
        case Port():
            return resolve_port(term, owners)
        case Items():
            for item in term.items:
                type_of(item, owners)
            return PortType("list")
        case Not(operand=operand):
            _want(boolean(), operand, owners, "not")
            return boolean()
        case Both(operands=operands) | Either(operands=operands):
            for operand in operands:
                _want(boolean(), operand, owners, "and" if isinstance(term, Both) else "or")
            return boolean()
        case Negative(operand=operand):
            _want(number(), operand, owners, "-")
            return number()
        case Arithmetic():
            _want(number(), term.left, owners, term.operator)
            _want(number(), term.right, owners, term.operator)
            return number()
        case FunctionCall():
            return _call(term, owners)
        case Comparison():
            for left, operator, right in zip(term.operands, term.operators, term.operands[1:], strict=False):
                _compare(left, operator, right, owners)
            return boolean()
        case _:
            raise TypeError(type(term))


def _want(wanted: PortType, term: Term, owners: Mapping[str, Mapping[str, PortType]], where: str) -> None:
    found = type_of(term, owners)
    if not wanted.accepts(found):
        raise ExpressionError("type_mismatch", f"{where} takes a {wanted}, this is {found}", term.offset, term.length)


def _call(term: FunctionCall, owners: Mapping[str, Mapping[str, PortType]]) -> PortType:
    if term.name == "len":
        found = type_of(term.arguments[0], owners)
        if found.kind not in ("string", "list", "messages", "record", "any"):
            raise ExpressionError(
                "type_mismatch", f"len takes a string or a list, this is {found}", term.offset, term.length
            )
        return number()
    for argument in term.arguments:
        _want(number(), argument, owners, term.name)
    return number()


def _compare(left: Term, operator: str, right: Term, owners: Mapping[str, Mapping[str, PortType]]) -> None:
    first, second = type_of(left, owners), type_of(right, owners)
    if operator in _ORDER:
        for term, kind in ((left, first), (right, second)):
            if not number().accepts(kind):
                raise ExpressionError(
                    "type_mismatch", f"{operator} takes numbers, this is {kind}", term.offset, term.length
                )
        return
    if operator in ("in", "not in"):
        if isinstance(right, Items):
            for item in right.items:
                _compatible(left, item, first, type_of(item, owners))
        elif second.kind == "string":
            _want(PortType("string"), left, owners, operator)
        elif second.kind not in ("list", "any"):
            raise ExpressionError(
                "type_mismatch",
                f"{operator} looks into a list or a string, this is {second}",
                right.offset,
                right.length,
            )
        return
    _compatible(left, right, first, second)


def _compatible(left: Term, right: Term, first: PortType, second: PortType) -> None:
    """Refuse an equality that can never hold: other kinds, or a literal outside an enum's closed set."""
    if NULL in (first, second):
        return
    same = first.accepts(second) or second.accepts(first)
    if not same:
        raise ExpressionError(
            "type_mismatch", f"{first} never equals {second}: compare values of one type", right.offset, right.length
        )
    for enum_type, other in ((first, right), (second, left)):
        if enum_type.values is not None and isinstance(other, Constant) and other.value not in enum_type.values:
            hint = did_you_mean(str(other.value), enum_type.values)
            raise ExpressionError(
                "not_in_enum", f"{other.value!r} is none of the values it can have{hint}", other.offset, other.length
            )
