"""YAML 1.2 scalars, durations and references."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dynflow.compile import check_text
from dynflow.language.options import FROM_TEXT, Options
from dynflow.language.options import Duration as Seconds
from dynflow.language.reader import decode, read
from dynflow.language.references import EnvironmentReference, Reference, ReferenceSyntaxError, parse_reference


def value_of(text: str) -> Any:
    source = decode(f"x: {text}", "x.yaml")
    value = read(source)
    assert not source.problems
    return value["x"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("1:30:00", "1:30:00"),
        ("2001-01-01", "2001-01-01"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("+7", 7),
        ("-7", -7),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        ("e3", "e3"),
        ("1.2.3", "1.2.3"),
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("nULL", "nULL"),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("'5'", "5"),
        ('"true"', "true"),
        ("'~'", "~"),
        ("9" * 65, "9" * 65),
        ("=", "="),
    ],
)
def test_scalar(text: str, value: Any) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(value_of(".nan"))


def test_merge_keys() -> None:
    source = decode("x-a: &a {p: 1, q: 2}\nx-b: &b {q: 3, r: 4}\nx: {<<: [*a, *b], p: 0}\ny: {<<: {s: 5}}\n", "x.yaml")
    value = read(source)
    assert not source.problems
    assert value["x"] == {"p": 0, "q": 2, "r": 4}  # its own first, then the first of the list
    assert value["y"] == {"s": 5}


class Timed(Options):
    time: Seconds | None = None


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30.0), ("500ms", 0.5), ("2m", 120.0), ("1h", 3600.0), ("1.5s", 1.5), ("0s", 0.0)]
)
def test_duration(text: str, seconds: float) -> None:
    assert Timed.model_validate({"time": text}, context=FROM_TEXT).time == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["30", "s", "30 s", "-1s", "1d", "", "1e3s", "٣s", "999999h", 30, 30.0, True])
def test_no_duration(text: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        Timed.model_validate({"time": text}, context=FROM_TEXT)


def test_a_resolved_duration_is_in_seconds() -> None:
    options = Timed.model_validate({"time": Reference((("params", "t"),))}, context=FROM_TEXT)
    assert options.resolve(lambda reference: 0.25).time == 0.25
    assert options.resolve(lambda reference: "250ms").time == 0.25


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("${params.x}", Reference((("params", "x"),))),
        ("${ a.b }", Reference((("a", "b"),))),
        (" ${a.b} ", Reference((("a", "b"),))),
        ("${a.b.c}", Reference((("a", "b.c"),))),
        ("${a.b ?? c.d??input.text}", Reference((("a", "b"), ("c", "d"), ("input", "text")))),
        ("${env:KEY}", EnvironmentReference("KEY")),
        ("${env:KEY:-}", EnvironmentReference("KEY", "")),
        ("${env:KEY:-a:b}", EnvironmentReference("KEY", "a:b")),
        ("plain", None),
        ("$5 {x}", None),
    ],
)
def test_reference(text: str, reference: Any) -> None:
    assert parse_reference(text) == reference
    if reference is not None:
        assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "${a}",
        "${}",
        "${a.b",
        "x ${a.b}",
        "${a.b}${c.d}",
        "${a.b ??}",
        "${A.b}",
        "${a.b.c.d}",
        "${env:}",
        "${env:A-B}",
        "${a.b|c}",
    ],
)
def test_no_reference(text: str) -> None:
    with pytest.raises(ReferenceSyntaxError, match=r"reference"):
        parse_reference(text)


def test_x_keys_are_ignored_and_give_anchors() -> None:
    text = """
version: 1
x-chat: &chat {type: chat, model: host}
x-anything: [1, {2: 3}]
models: {host: {provider: host}}
nodes:
  a: *chat
  b: {<<: *chat, temperature: 0.5}
edges:
  - {from: start, to: a}
  - {from: a, to: b, when: a.failed}
  - {from: a, to: end}
  - {from: b, to: end}
"""
    source, graph = check_text(text)
    assert source.problems == []
    assert graph is not None
    assert graph.nodes["b"].options.temperature == 0.5
    assert graph.nodes["a"].options.model == graph.nodes["b"].options.model == "host"
