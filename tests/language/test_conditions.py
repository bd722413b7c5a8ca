"""Conditions: three values, numbers and nulls, and what a condition proves."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynflow.language.evaluate import UNKNOWN, compile_expression
from dynflow.language.expression import parse_expression
from dynflow.language.facts import facts
from tests.effort import EFFORT

SYMBOLS = {"t": True, "f": False, "u": UNKNOWN}


def evaluate(text: str, /, **ports: Any) -> Any:
    """The value of a condition over the ports of one node `a`; others are unknown."""
    return compile_expression(parse_expression(text))(lambda owner, port: ports.get(port, UNKNOWN))


@pytest.mark.parametrize(
    ("left", "right", "both", "either"),
    [
        *(("t", "t", "t", "t"), ("t", "f", "f", "t"), ("t", "u", "u", "t")),
        *(("f", "t", "f", "t"), ("f", "f", "f", "f"), ("f", "u", "f", "u")),
        *(("u", "t", "u", "t"), ("u", "f", "f", "u"), ("u", "u", "u", "u")),
    ],
)
def test_kleene(left: str, right: str, both: str, either: str) -> None:
    values = {"x": SYMBOLS[left], "y": SYMBOLS[right]}
    assert evaluate("a.x and a.y", **values) is SYMBOLS[both]
    assert evaluate("a.x or a.y", **values) is SYMBOLS[either]


@pytest.mark.parametrize(("value", "negated"), [("t", "f"), ("f", "t"), ("u", "u")])
def test_kleene_not(value: str, negated: str) -> None:
    assert evaluate("not a.x", x=SYMBOLS[value]) is SYMBOLS[negated]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 < 2 < 3", True),
        ("1 < 3 < 2", False),
        ("1 < 2 < a.gone", UNKNOWN),
        ("2 < 1 < a.gone", False),
        ("a.gone < 2 < 1", False),
        ("a.gone == a.gone", UNKNOWN),
        ("a.gone != 1", UNKNOWN),
        ("not a.gone == 1", UNKNOWN),
        ("a.null == null", True),
        ("a.null != null", False),
        ("a.null == 1", False),
        ("a.null != 1", True),
        ("a.null < 1", UNKNOWN),
        ("a.null + 1 > 0", UNKNOWN),
        ("a.flag == true", True),
        ("a.flag == 1", False),
        ("a.flag != 1", True),
        ("1 == 1.0", True),
        ("1 / 0 > 1", UNKNOWN),
        ("1 / 4 == 0.25", True),
        ("-a.number < 0", True),
        ("- - a.number == 7", True),
        ("a.number * 2 - 4 == 10", True),
        ("min(a.number, 3, 5) == 3", True),
        ("max(a.number, a.gone) == 7", UNKNOWN),
        ("abs(-a.number) == 7", True),
        ("len(a.text) == 5", True),
        ("len(a.list) == 2", True),
        ("len(a.number) == 1", UNKNOWN),
        ("'ell' in a.text", True),
        ("'x' not in a.text", True),
        ("1 in a.list", True),
        ("true in a.list", False),
        ("a.number in [1, 7]", True),
        ("a.number not in (1, 7)", False),
        ("a.gone in [1, 7]", UNKNOWN),
        ("7 in [a.gone, 7]", UNKNOWN),
        ("'x' in a.number", UNKNOWN),
        ("a.record.big > 0.5", True),
        ("a.record.small > 0.5", UNKNOWN),
        ("a.number.big > 0.5", UNKNOWN),
        ("a.text > 1", UNKNOWN),
        ("9" * 400 + " > 1.5", True),
        ("9" * 400 + " / 3 > 1", UNKNOWN),
        ("9" * 400 + " * 1.5 > 1", UNKNOWN),
        ("1e999 > 1", True),
        ("a.infinite - a.infinite > 0", False),
        ("a.nan == a.nan", False),
        ("a.text == 'hello'", True),
        ('a.text == "hello"', True),
    ],
)
def test_value(text: str, value: Any) -> None:
    ports = {
        "null": None,
        "flag": True,
        "number": 7,
        "text": "hello",
        "list": [1, "x"],
        "record": {"big": 0.75},
        "infinite": math.inf,
        "nan": math.nan,
    }
    assert evaluate(text, **ports) is value


class Array:
    """Compares to neither true nor false, as arrays do."""

    def __eq__(self, other: object) -> Any:
        return Array()

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")


@pytest.mark.parametrize("text", ["a.x == 1", "a.x != 1", "a.x in [1, 2]", "1 in a.list", "[1] == 1 or a.x == 1"])
def test_a_value_that_does_not_compare_is_unknown(text: str) -> None:
    assert evaluate(text.removeprefix("[1] == 1 or "), x=Array(), list=[Array()]) is UNKNOWN


# Random conditions over nodes a, b, c, against a plain evaluator that works on the text's own tree.

NODES = ("a", "b", "c")
number_ports = [f"{node}.{port}" for node in NODES for port in ("score", "seconds")]
numbers = st.deferred(
    lambda: st.one_of(
        st.sampled_from([*number_ports, "0", "1", "0.5", "-2"]),
        st.tuples(numbers, st.sampled_from("+-*/"), numbers).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(st.sampled_from(["min", "max"]), numbers, numbers).map(
            lambda parts: f"{parts[0]}({parts[1]}, {parts[2]})"
        ),
    )
)
order = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
leaves = st.one_of(
    st.sampled_from([f"{node}.{port}" for node in NODES for port in ("ok", "failed", "passed")]),
    st.sampled_from(
        [
            f"{node}.error {test}"
            for node in NODES
            for test in (
                "== 'timeout'",
                "!= 'timeout'",
                "== null",
                "!= null",
                "in ['timeout', 'auth']",
                "not in ['auth']",
            )
        ]
    ),
    st.sampled_from([f"null != {node}.error" for node in NODES]),
    st.tuples(numbers, order, numbers).map(" ".join),
    st.tuples(numbers, order, numbers, order, numbers).map(" ".join),
    st.tuples(numbers, st.sampled_from(["in", "not in"]), numbers, numbers).map(
        lambda parts: f"{parts[0]} {parts[1]} [{parts[2]}, {parts[3]}]"
    ),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(lambda part: f"not ({part})"),
        st.tuples(inner, st.sampled_from(["and", "or", "==", "!="]), inner).map(
            lambda parts: f"(({parts[0]}) {parts[1]} ({parts[2]}))"
        ),
        st.tuples(inner, st.sampled_from(["==", "!="]), inner, st.sampled_from(["==", "!="]), inner).map(
            lambda parts: f"(({parts[0]}) {parts[1]} ({parts[2]}) {parts[3]} ({parts[4]}))"
        ),
    ),
    max_leaves=8,
)
scores = st.sampled_from([0, 0.5, 1, 2, -1])
ended = st.one_of(
    st.none(),  # did not run
    st.fixed_dictionaries({"error": st.sampled_from(["timeout", "auth", "internal"]), "seconds": scores}),
    st.fixed_dictionaries({"error": st.none(), "seconds": scores, "score": scores, "passed": st.booleans()}),
)
states = st.fixed_dictionaries(dict.fromkeys(NODES, ended))


def read(states: dict[str, Any], owner: str, port: str) -> Any:
    """A port as the language has it: `ok` and `failed` are known always, others once the node ran or succeeded."""
    state = states[owner]
    if port in ("ok", "failed"):
        return state is not None and (state["error"] is None) is (port == "ok")
    return UNKNOWN if state is None else state.get(port, UNKNOWN)


class Naive:
    """Evaluates by Python itself: every value is the set of values it might have, unknown being one of many."""

    def __init__(self, states: dict[str, Any]) -> None:
        self.states = states

    def value(self, text: str) -> Any:
        import ast

        return self._of(ast.parse(text, mode="eval").body)

    def _of(self, node: Any) -> Any:
        import ast

        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            return {"null": None, "true": True, "false": False}[node.id]
        if isinstance(node, ast.Attribute):
            return read(self.states, node.value.id, node.attr)  # type: ignore[attr-defined]
        if isinstance(node, ast.UnaryOp):
            inner = self._of(node.operand)
            if inner is UNKNOWN:
                return UNKNOWN
            return -inner if isinstance(node.op, ast.USub) else not inner
        if isinstance(node, ast.BoolOp):
            values = [self._of(part) for part in node.values]
            if isinstance(node.op, ast.And):
                return False if False in values else UNKNOWN if UNKNOWN in values else True
            return True if True in values else UNKNOWN if UNKNOWN in values else False
        if isinstance(node, ast.BinOp):
            left, right = self._of(node.left), self._of(node.right)
            if UNKNOWN in (left, right) or (isinstance(node.op, ast.Div) and right == 0):
                return UNKNOWN
            sign = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(node.op)]  # type: ignore[index]
            return eval(f"l {sign} r", {"l": left, "r": right})
        if isinstance(node, ast.Call):
            values = [self._of(part) for part in node.args]
            return UNKNOWN if UNKNOWN in values else {"min": min, "max": max}[node.func.id](values)  # type: ignore[attr-defined]
        if isinstance(node, (ast.List, ast.Tuple)):
            values = [self._of(part) for part in node.elts]
            return UNKNOWN if UNKNOWN in values else values
        assert isinstance(node, ast.Compare)
        values = [self._of(node.left), *(self._of(part) for part in node.comparators)]
        links = []
        for operator, left, right in zip(node.ops, values, values[1:], strict=False):
            if left is UNKNOWN or right is UNKNOWN:
                links.append(UNKNOWN)
                continue
            sign = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}.get(
                type(operator)
            )
            if sign is None:
                links.append((left in right) is isinstance(operator, ast.In))
            else:
                links.append(eval(f"l {sign} r", {"l": left, "r": right}))
        return False if False in links else UNKNOWN if UNKNOWN in links else True


@settings(max_examples=300 * EFFORT, deadline=None)
@given(conditions, states)
def test_same_as_a_naive_evaluator(text: str, states: dict[str, Any]) -> None:
    found = compile_expression(parse_expression(text))(lambda owner, port: read(states, owner, port))
    assert found is Naive(states).value(text)


@settings(max_examples=600 * EFFORT, deadline=None)
@given(conditions, states)
def test_facts_are_sound(text: str, states: dict[str, Any]) -> None:
    """Where a condition is true, what it proves is so; likewise where it is false."""
    term = parse_expression(text)
    value = compile_expression(term)(lambda owner, port: read(states, owner, port))
    if value is UNKNOWN:
        return
    proved = facts(term, holds=value)
    assert all(read(states, node, "ok") for node in proved.succeeded), proved
    assert all(read(states, node, "failed") for node in proved.failed), proved


@pytest.mark.parametrize(
    ("text", "succeeded", "failed"),
    [
        ("a.score > 1", "a", ""),
        ("a.ok", "a", ""),
        ("not a.ok", "", ""),
        ("a.failed", "", "a"),
        ("a.score > b.score", "ab", ""),
        ("a.score > 1 or a.failed", "", ""),
        ("a.score > 1 or a.ok", "a", ""),
        ("a.failed and b.ok", "b", "a"),
        ("a.error == 'auth'", "", "a"),
        ("a.error in ['auth', 'timeout']", "", "a"),
        ("a.error != null", "", "a"),
        ("a.error == null", "a", ""),
        ("a.error != 'auth'", "", ""),
        ("not (a.score > 1 or b.ok)", "a", ""),
        ("(a.ok or b.score > 1) == true", "", ""),
        ("0 < a.score < b.score", "ab", ""),
        ("not 0 < a.score < b.score", "a", ""),
        ("a.seconds > 1", "", ""),
        ("params.x > 1 and input.tokens > 1 and budget.seconds_left > 1", "", ""),
        ("min(a.score, b.score) in [c.score, 1]", "abc", ""),
        ("a.passed", "a", ""),
        ("not a.passed", "a", ""),
    ],
)
def test_what_a_condition_proves(text: str, succeeded: str, failed: str) -> None:
    proved = facts(parse_expression(text))
    assert proved.succeeded == set(succeeded)
    assert proved.failed == set(failed)
