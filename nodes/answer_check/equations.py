"""The arithmetic that an answer writes down: which equations stand in it, and whether they hold.

Read are calculator marks as GSM8K has them (`<<3*60=180>>`, Cobbe et al. 2021, arXiv 2110.14168) and plain equations
with units, signs of money and percentages between (`3 boxes * $1.50 = $4.50`).
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

_MARK = re.compile(r"<<([^<>=]{1,120}(?:=[^<>=]{1,120})*)>>")
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER})(?P<percent>\s?%)?|(?P<times>(?<=[\d) ])x(?= ?[$\d(])|[×⋅·])|(?P<by>÷)|(?P<equals>=)"  # noqa: RUF001
    r"|(?P<unknown>(?<=\d)[a-z](?![a-zA-Z])|\b[A-Za-z]\b|(?<=\d)\()"
    r"|(?P<sign>[-+*/()])|(?P<unit>\s+|[$€£°]|[A-Za-z]{2,}(?:/[A-Za-z]+)?)|(?P<other>.)",
    re.DOTALL,
)
_UNIT_WORDS = 3  # so many words may stand between a number and the next sign
_OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_DEEPEST = 30


@dataclass(frozen=True, slots=True)
class Step:
    """One written equation: the numbers and signs of its left side, what that gives, and what was written."""

    operands: tuple[float, ...]
    signs: str
    value: float | None
    """What the left side gives; None where it cannot be worked out (a division by zero)."""
    written: float
    decimals: int
    """Digits after the point in what was written."""

    @property
    def holds(self) -> bool:
        """Whether the written result is right, rounding allowed."""
        if self.value is None:
            return False
        allowed = 0.51 * 10.0**-self.decimals
        return any(
            math.isclose(self.value, meant, rel_tol=1e-4, abs_tol=allowed)
            for meant in (self.written, 100 * self.written)  # 0.1 * 100 = 10%
        )


def number(text: str) -> float:
    """The value of digits with or without commas; at most 10¹⁵."""
    return min(float(text.replace(",", "")), 1e15)


def numbers(text: str) -> list[float]:
    """All numbers of a text, in order."""
    return [number(found) for found in re.findall(_NUMBER, text)]


def steps(text: str) -> list[Step]:
    """All equations of a text with a sign in them, in order; the same one next to itself counts once."""
    found: list[Step] = []
    text = text.replace("\\*", "*").replace("\\times", "*").replace("\\div", "/")
    for line in text.splitlines():
        marked = [step for mark in _MARK.findall(line) for step in _chain(mark)]
        plain = [step for run in _runs(_MARK.sub(" ", line)) for step in _chain(run)]
        known = {_key(step) for step in marked}
        found += [*marked, *(step for step in plain if _key(step) not in known and not _restated(step, marked))]
    kept: list[Step] = []
    for step in found:
        if not kept or _key(step) != _key(kept[-1]):
            kept.append(step)
    return kept


def _key(step: Step) -> tuple[object, ...]:
    return (tuple(sorted(step.operands)), round(step.written, 6))


def _restated(step: Step, marked: list[Step]) -> bool:
    """Whether a mark of the same line gives the same result: what stands around it in words is the same equation."""
    return any(math.isclose(step.written, other.written, rel_tol=0.01) for other in marked)


def _runs(line: str) -> list[str]:
    """Stretches of a line that are arithmetic, with units, money and words between numbers taken out."""
    runs: list[str] = []
    current: list[str] = []
    words = 0

    def end() -> None:
        nonlocal words
        text = "".join(current).lstrip("+*/)= ").rstrip("+-*/(= ")
        if "=" in text:
            runs.append(text)
        current.clear()
        words = 0

    for token in _TOKEN.finditer(line):
        kind = token.lastgroup if token.lastgroup != "percent" else "number"
        text = token.group()
        if kind == "number":
            if current and (current[-1][-1].isdigit() or current[-1] == ")"):
                end()  # two numbers side by side: another stretch begins
            digits = token.group("number").replace(",", "")
            current.append(f"({digits}/100)" if token.group("percent") else digits)
            words = 0
        elif kind in ("sign", "times", "by", "equals"):
            sign = {"times": "*", "by": "/"}.get(kind or "", text)
            if current or sign in "(-":
                current.append(sign)
            words = 0
        elif kind == "unit":
            if text.strip() and text not in "$€£":
                words += 1
                if words > _UNIT_WORDS:
                    end()
        else:
            end()
    end()
    return runs


def _chain(text: str) -> list[Step]:
    """`a = b = c` as steps: each side with a sign in it, with the next side that is a number or works out to one."""
    sides = [side.strip() for side in text.split("=")]
    found = []
    for left, right in itertools.pairwise(sides):
        operands, signs, value = _worked(left)
        _, _, written = _worked(right)
        if not signs or written is None or len(operands) < 2:
            continue
        shown = re.search(r"\.(\d+)", right)
        found.append(Step(tuple(operands), signs, value, written, len(shown.group(1)) if shown else 0))
    return found


def _worked(side: str) -> tuple[list[float], str, float | None]:
    """Numbers and signs of one side, and its value."""
    text = re.sub(rf"({_NUMBER})\s?%", r"(\1/100)", side)
    text = re.sub(r"[$€£,\s]", "", text)
    text = re.sub(r"(?<![\d.])0+(?=\d)", "", text)  # Python takes no leading zeros
    if not text or len(text) > 120 or not re.fullmatch(r"[-+*/().\d]+", text):
        return [], "", None
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return [], "", None
    operands: list[float] = []
    signs: list[str] = []
    try:
        value: float | None = _value(tree, operands, signs, 0)
    except (ZeroDivisionError, OverflowError):
        value = None
    except ValueError:
        return [], "", None
    return operands, "".join(signs), value if value is None or math.isfinite(value) else None


def _value(tree: ast.expr, operands: list[float], signs: list[str], depth: int) -> float:
    if depth > _DEEPEST:
        raise ValueError("too deep")
    match tree:
        case ast.Constant(value=int() | float() as value):
            operands.append(float(value))
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, operands, signs, depth + 1)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in _OPERATORS:
            first = _value(left, operands, signs, depth + 1)
            signs.append(_SIGNS[type(kind)])
            return _OPERATORS[type(kind)](first, _value(right, operands, signs, depth + 1))
    raise ValueError("no arithmetic")
