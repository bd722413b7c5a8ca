"""Evaluates a condition with three values: true, false, and unknown where a node failed or did not run (Kleene)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from dynflow.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Constant,
    Either,
    FunctionCall,
    Items,
    Negative,
    Not,
    Port,
    Term,
)


class Unknown:
    """The third truth value; `UNKNOWN` is its only instance, also across pickling."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "unknown"

    def __reduce__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()
Lookup = Callable[[str, str], Any]
Evaluator = Callable[[Lookup], Any]


def _order(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def ordered(left: Any, right: Any) -> Any:
        return compare(left, right) if _is_number(left) and _is_number(right) else UNKNOWN

    return ordered


def _equal(left: Any, right: Any) -> Any:
    if isinstance(left, bool) != isinstance(right, bool):  # `true == 1` holds in Python, not here
        return False
    try:
        return bool(left == right)
    except Exception:  # a value of the host's that does not compare to one truth value, such as an array
        return UNKNOWN


def _contains(left: Any, right: Any) -> Any:
    if isinstance(right, str):
        return left in right if isinstance(left, str) else UNKNOWN
    if not isinstance(right, Sequence):
        return UNKNOWN
    links = [_equal(left, item) for item in right]
    return True if True in links else UNKNOWN if UNKNOWN in links else False


def _divide(left: float, right: float) -> Any:
    return left / right if right else UNKNOWN


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": _order(lambda left, right: left < right),
    "<=": _order(lambda left, right: left <= right),
    ">": _order(lambda left, right: left > right),
    ">=": _order(lambda left, right: left >= right),
    "==": _equal,
    "!=": lambda left, right: negate(_equal(left, right)),
    "in": _contains,
    "not in": lambda left, right: negate(_contains(left, right)),
}
_CALCULATE: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": _divide,
}

_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def negate(value: Any) -> Any:
    """Kleene's not."""
    return UNKNOWN if not isinstance(value, bool) else not value


def compile_expression(term: Term) -> Evaluator:
    """A function of `lookup(owner, port) -> value | UNKNOWN` that gives a condition's value."""
    match term:
        case Constant(value=value):
            return lambda lookup: value
        case Port(owner=owner, path=(name,)):
            return lambda lookup: lookup(owner, name)
        case Port(owner=owner, path=(name, key)):
            return lambda lookup: _field(lookup(owner, name), key)
        case Items(items=items):
            return _items([compile_expression(item) for item in items])
        case Not(operand=operand):
            inner = compile_expression(operand)
            return lambda lookup: negate(inner(lookup))
        case Both(operands=operands):
            return _kleene([compile_expression(operand) for operand in operands], decisive=False)
        case Either(operands=operands):
            return _kleene([compile_expression(operand) for operand in operands], decisive=True)
        case Negative(operand=operand):
            return _numeric(lambda value: -value, [compile_expression(operand)])
        case Arithmetic():
            return _numeric(_CALCULATE[term.operator], [compile_expression(term.left), compile_expression(term.right)])
        case FunctionCall(name="len", arguments=(argument,)):
            measured = compile_expression(argument)
            return lambda lookup: _length(measured(lookup))
        case FunctionCall():
            return _numeric(_FUNCTIONS[term.name], [compile_expression(argument) for argument in term.arguments])
        case Comparison():
            return _comparison(term)
        case _:
            raise TypeError(type(term))


def _field(value: Any, key: str) -> Any:
    if value is UNKNOWN or not isinstance(value, dict):
        return UNKNOWN
    return value.get(key, UNKNOWN)


def _length(value: Any) -> Any:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else UNKNOWN


def _items(parts: list[Evaluator]) -> Evaluator:
    def evaluate(lookup: Lookup) -> Any:
        values = [part(lookup) for part in parts]
        return UNKNOWN if any(value is UNKNOWN for value in values) else values

    return evaluate


def _kleene(parts: list[Evaluator], *, decisive: bool) -> Evaluator:
    """`or` where true decides, `and` where false does; else unknown if any part is unknown."""

    def evaluate(lookup: Lookup) -> Any:
        result: Any = not decisive
        for part in parts:
            value = part(lookup)
            if value is decisive:
                return decisive
            if not isinstance(value, bool):
                result = UNKNOWN
        return result

    return evaluate


def _numeric(function: Callable[..., Any], parts: list[Evaluator]) -> Evaluator:
    def evaluate(lookup: Lookup) -> Any:
        values = [part(lookup) for part in parts]
        if not all(_is_number(value) for value in values):
            return UNKNOWN
        try:
            return function(*values)
        except OverflowError:
            return UNKNOWN

    return evaluate


def _comparison(term: Comparison) -> Evaluator:
    parts = [compile_expression(operand) for operand in term.operands]
    functions = [_COMPARE[operator] for operator in term.operators]
    if len(functions) == 1:  # nearly every condition: spare the loop
        (left, right), (compare,) = parts, functions

        def single(lookup: Lookup) -> Any:
            first, second = left(lookup), right(lookup)
            return UNKNOWN if first is UNKNOWN or second is UNKNOWN else compare(first, second)

        return single

    def chained(lookup: Lookup) -> Any:
        values = [part(lookup) for part in parts]
        result: Any = True
        for compare, first, second in zip(functions, values, values[1:], strict=False):
            link = UNKNOWN if first is UNKNOWN or second is UNKNOWN else compare(first, second)
            if link is False:
                return False
            if link is not True:
                result = UNKNOWN
        return result

    return chained
