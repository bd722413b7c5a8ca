"""Conditions over arrays mean what the language's own evaluator says, value by value."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynflow.calibration.columns import Column, truth
from dynflow.language.evaluate import UNKNOWN, compile_expression
from dynflow.language.expression import parse_expression
from tests.effort import EFFORT

NUMBERS = ["a.x", "a.y", "params.p", "0", "0.5", "-1", "2"]
FLAGS = ["a.f", "a.g", "true", "false"]
TEXTS = ["a.s", "'red'", "null", "a.m"]


def numeric(inner: Any) -> Any:
    return st.one_of(
        st.tuples(st.sampled_from("+-*/"), inner, inner).map(lambda t: f"({t[1]} {t[0]} {t[2]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda t: f"{t[0]}({t[1]}, {t[2]})"),
        inner.map(lambda t: f"abs({t})"),
        inner.map(lambda t: f"(-{t})"),
    )


NUMERIC = st.recursive(st.sampled_from(NUMBERS), numeric, max_leaves=4)
ORDER = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
LEAVES = st.one_of(
    st.sampled_from(FLAGS),
    st.tuples(NUMERIC, ORDER, NUMERIC).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    st.tuples(NUMERIC, ORDER, NUMERIC, ORDER, NUMERIC).map(lambda t: f"({' '.join(t)})"),
    st.tuples(st.sampled_from([*TEXTS, *NUMBERS, *FLAGS]), st.sampled_from(["==", "!="]), st.sampled_from(TEXTS)).map(
        lambda t: f"({' '.join(t)})"
    ),
    st.tuples(st.sampled_from(["a.s", "a.x"]), st.sampled_from(["in ['red', 'blue']", "not in ['red', 1]"])).map(
        lambda t: f"({' '.join(t)})"
    ),
    st.just("(len(a.s) > 3)"),
    st.just("(a.r.k < params.p)"),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda t: f"(not {t})"),
    ),
    max_leaves=5,
)
SOME_NUMBER = st.sampled_from([UNKNOWN, 0, 1, 0.5, -2.0, 3])
ROW = st.fixed_dictionaries(
    {
        "x": SOME_NUMBER,
        "y": SOME_NUMBER,
        "f": st.sampled_from([UNKNOWN, True, False]),
        "g": st.sampled_from([True, False]),
        "s": st.sampled_from([UNKNOWN, "red", "green", None]),
        "m": st.sampled_from([UNKNOWN, None, 1, "red", True]),
        "r": st.sampled_from([UNKNOWN, {"k": 0.2}, {}, None]),
    }
)


@given(
    CONDITIONS, st.lists(ROW, min_size=1, max_size=6), st.lists(st.sampled_from([0, 0.5, 1.5]), min_size=1, max_size=3)
)
@settings(max_examples=150 * EFFORT, deadline=None)
def test_arrays_and_the_evaluator_agree(text: str, rows: list[dict[str, Any]], params: list[float]) -> None:
    term = parse_expression(text)
    evaluate = compile_expression(term)

    def column(owner: str, port: str) -> Column:
        if owner == "params":
            values = Column.of(params)
            return Column(values.values[:, None], values.known[:, None], values.table)
        values = Column.of([row[port] for row in rows])
        return Column(values.values[None, :], values.known[None, :], values.table)

    found = truth(term, column)
    shape = (len(params), len(rows))
    true, false = np.broadcast_to(found.true, shape), np.broadcast_to(found.false, shape)
    for setting, param in enumerate(params):
        for index, row in enumerate(rows):
            value = evaluate(lambda owner, port, p=param, r=row: p if owner == "params" else r[port])
            assert bool(true[setting, index]) == (value is True), (text, param, row)
            assert bool(false[setting, index]) == (value is False), (text, param, row)


def test_dividing_by_nothing_is_unknown_and_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = truth(parse_expression("a.x / a.y > 0"), lambda owner, port: Column.of([1.0, 0.0]))
    assert found.true.tolist() == [True, False]
    assert found.false.tolist() == [False, False]


@pytest.mark.parametrize(("values", "dtype"), [([1, 0.5], float), ([True, UNKNOWN], bool), ([1, True], np.int32)])
def test_columns_take_the_plainest_type(values: list[Any], dtype: type) -> None:
    assert Column.of(values).values.dtype == dtype
