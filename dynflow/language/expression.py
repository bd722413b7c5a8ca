"""Conditions: text → a small tree. Parsed with `ast` and an allowlist; what is not listed here does not exist."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dynflow.language.source import did_you_mean

MAX_LENGTH = 2_000
MAX_TERMS = 200
MAX_DEPTH = 40
FUNCTIONS = ("len", "min", "max", "abs")
CONSTANTS: dict[str, Any] = {"true": True, "false": False, "null": None}
_OUTSIDE = ("params", "input", "budget")
_PYTHON_CONSTANTS = {"True": "true", "False": "false", "None": "null"}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.In: "in",
    ast.NotIn: "not in",
}
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


_NAMES: dict[type[ast.expr], str] = {
    ast.BinOp: "this operator",
    ast.UnaryOp: "this operator",
    ast.Subscript: "a subscript",
    ast.List: "a list outside of `in`",
    ast.Tuple: "a tuple outside of `in`",
    ast.JoinedStr: "an f-string",
    ast.IfExp: "if … else",
    ast.NamedExpr: ":=",
    ast.Constant: "this kind of value",
}


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a condition; `offset` and `length` say where it stands in the text."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Constant(Term):
    value: Any


@dataclass(frozen=True, slots=True)
class Port(Term):
    """`owner.port`, or `owner.port.field` of a record; bare `input` is `input.text`."""

    owner: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Items(Term):
    items: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Not(Term):
    operand: Term


@dataclass(frozen=True, slots=True)
class Both(Term):
    """`and`."""

    operands: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Either(Term):
    """`or`."""

    operands: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Comparison(Term):
    """A chain `a < b <= c`: the operators stand between the operands."""

    operands: tuple[Term, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arithmetic(Term):
    operator: str
    left: Term
    right: Term


@dataclass(frozen=True, slots=True)
class Negative(Term):
    operand: Term


@dataclass(frozen=True, slots=True)
class FunctionCall(Term):
    name: str
    arguments: tuple[Term, ...]


class ExpressionError(ValueError):
    """A condition that is not of the language: a code, words, and the place inside its text."""

    def __init__(self, code: str, text: str, offset: int = 0, length: int = 1) -> None:
        super().__init__(text)
        self.code = code
        self.offset = offset
        self.length = length


def parse_expression(text: str, *, bare: str | None = None) -> Term:
    """The tree of a condition. Raises `ExpressionError`.

    `bare` is the owner that names without one belong to: in a race's `accept`, ports of the finishing member.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            "expression_too_long", f"a condition may have {MAX_LENGTH:,} characters; split it over edges"
        )
    if not text.strip():
        raise ExpressionError("expression_syntax", "the condition is empty; leave `when` out for the default edge")
    if "\n" in text.strip():
        raise ExpressionError("expression_syntax", "a condition stands on one line; fold it with `>-`")
    indent = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError(
            "expression_syntax",
            f"this is no condition: {error.msg.split('. ')[0]}{_syntax_hint(text)}",
            min(indent + max(0, (error.offset or 1) - 1), max(0, len(text.rstrip()) - 1)),
        ) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError("expression_syntax", f"this is no condition: {error}") from None
    parser = _Parser(text.strip(), indent, bare)
    term = parser.term(tree.body, 0)
    behind = text.find("#", sum(parser.place(tree.body)))
    if behind >= 0:
        raise ExpressionError("expression_syntax", "a condition holds no comment: move it behind the edge", behind)
    return term


def _syntax_hint(text: str) -> str:
    for wrong, right in (("&&", "and"), ("||", "or"), ("${", "a bare name such as difficulty.score")):
        if wrong in text:
            return f"; write {right} instead of {wrong}"
    if text.lstrip().startswith("!"):
        return "; write not instead of !"
    if re.search(r"[^=!<>]=[^=]", text):
        return "; use == to compare"
    return "; write comparisons such as difficulty.score > 0.5, joined by and, or, not"


class _Parser:
    def __init__(self, text: str, indent: int, bare: str | None) -> None:
        self.text = text
        self.data = text.encode()
        self.indent = indent
        self.bare = bare
        self.terms = 0

    def place(self, node: ast.expr) -> tuple[int, int]:
        """Offset and length in characters; `ast` counts bytes."""
        begin, end = node.col_offset, node.end_col_offset or node.col_offset
        if len(self.data) > len(self.text):
            begin, end = (len(self.data[:offset].decode(errors="ignore")) for offset in (begin, end))
        return begin + self.indent, max(1, end - begin)

    def fail(self, code: str, text: str, node: ast.expr) -> ExpressionError:
        return ExpressionError(code, text, *self.place(node))

    def term(self, node: ast.expr, depth: int) -> Term:
        self.terms += 1
        if self.terms > MAX_TERMS or depth > MAX_DEPTH:
            raise self.fail(
                "expression_too_long",
                f"a condition may have {MAX_TERMS} terms, {MAX_DEPTH} levels deep: split it over edges",
                node,
            )
        at = self.place(node)
        below = depth + 1
        match node:
            case ast.Constant(value=bool() | None):
                wrong = str(node.value)
                raise self.fail("expression_name", f"write {_PYTHON_CONSTANTS[wrong]}, not {wrong}", node)
            case ast.Constant(value=int() | float() | str()):
                return Constant(*at, node.value)
            case ast.Name(id=name) if name in CONSTANTS:
                return Constant(*at, CONSTANTS[name])
            case ast.Name(id="input"):
                return Port(*at, "input", ("text",))
            case ast.Name(id=name) if self.bare is not None:
                return Port(*at, self.bare, (name,))
            case ast.Name(id=name):
                hint = did_you_mean(name, CONSTANTS) if len(name) > 3 and name.lower() in CONSTANTS else ""
                raise self.fail(
                    "expression_name",
                    f"{name!r} alone is no value{hint}; "
                    f"name a port, such as {name}.ok, or a param, such as params.{name}",
                    node,
                )
            case ast.Attribute():
                return self.port(node)
            case ast.BoolOp(op=ast.And()):
                return Both(*at, tuple(self.term(value, below) for value in node.values))
            case ast.BoolOp():
                return Either(*at, tuple(self.term(value, below) for value in node.values))
            case ast.UnaryOp(op=ast.Not()):
                return Not(*at, self.term(node.operand, below))
            case ast.UnaryOp(op=ast.USub()):
                return Negative(*at, self.term(node.operand, below))
            case ast.Compare():
                return self.comparison(node, at, below)
            case ast.BinOp(op=operator) if type(operator) in _ARITHMETIC:
                name = _ARITHMETIC[type(operator)]
                return Arithmetic(*at, name, self.term(node.left, below), self.term(node.right, below))
            case ast.Call():
                return self.call(node, at, below)
            case _:
                raise self.fail(
                    "expression_not_allowed",
                    f"{_NAMES.get(type(node), type(node).__name__.lower())} is not part of the language: "
                    f"use comparisons, and, or, not, in, + - * /, numbers, strings, {', '.join(FUNCTIONS)}",
                    node,
                )

    def port(self, node: ast.Attribute) -> Port:
        path: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            if inner.attr.startswith("_"):
                raise self.fail(
                    "expression_not_allowed", f"{inner.attr!r}: names with a leading _ do not exist; name a port", node
                )
            path.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise self.fail(
                "expression_not_allowed", "only node.port, params.name, input.key and budget.key exist", node
            )
        if len(path) > 2:
            raise self.fail("expression_not_allowed", "a record port goes one level deep: write node.port.field", node)
        if self.bare is not None and inner.id not in _OUTSIDE:
            return Port(*self.place(node), self.bare, (inner.id, *path)[:2])
        return Port(*self.place(node), inner.id, tuple(path))

    def comparison(self, node: ast.Compare, at: tuple[int, int], depth: int) -> Comparison:
        operators = []
        for operator in node.ops:
            if type(operator) not in _COMPARISONS:
                raise self.fail("expression_not_allowed", "`is` is not part of the language; use == or !=", node)
            operators.append(_COMPARISONS[type(operator)])
        operands = [self.term(node.left, depth)]
        for name, operand in zip(operators, node.comparators, strict=True):
            if name in ("in", "not in") and isinstance(operand, ast.List | ast.Tuple):
                self.terms += 1
                operands.append(Items(*self.place(operand), tuple(self.term(item, depth) for item in operand.elts)))
            else:
                operands.append(self.term(operand, depth))
        return Comparison(*at, tuple(operands), tuple(operators))

    def call(self, node: ast.Call, at: tuple[int, int], depth: int) -> FunctionCall:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            name = node.func.id if isinstance(node.func, ast.Name) else "a method"
            raise self.fail(
                "expression_not_allowed", f"{name} is no function here{did_you_mean(name, FUNCTIONS)}", node.func
            )
        if node.keywords:
            raise self.fail("expression_not_allowed", f"{node.func.id} takes no named arguments", node)
        count = len(node.args)
        if (count != 1) if node.func.id in ("len", "abs") else (count < 2):
            wanted = "one argument" if node.func.id in ("len", "abs") else "two or more arguments"
            raise self.fail("expression_not_allowed", f"{node.func.id} takes {wanted}", node)
        return FunctionCall(*at, node.func.id, tuple(self.term(argument, depth) for argument in node.args))


def parts_of(term: Term) -> Iterator[Term]:
    """A condition itself, and all that it is made of."""
    yield term
    match term:
        case Items(items=parts) | Both(operands=parts) | Either(operands=parts) | Comparison(operands=parts):
            inner = parts
        case FunctionCall(arguments=parts):
            inner = parts
        case Not(operand=part) | Negative(operand=part):
            inner = (part,)
        case Arithmetic(left=left, right=right):
            inner = (left, right)
        case _:
            return
    for each in inner:
        yield from parts_of(each)


def ports_of(term: Term) -> Iterator[Port]:
    """Every port that a condition reads."""
    return (part for part in parts_of(term) if isinstance(part, Port))


def measured_ports(term: Term) -> Iterator[Port]:
    """Every port whose length a condition asks for."""
    for part in parts_of(term):
        if isinstance(part, FunctionCall) and part.name == "len" and isinstance(part.arguments[0], Port):
            yield part.arguments[0]
