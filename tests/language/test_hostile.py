"""Hostile texts give a typed error or a checked graph, within 1 s and 200 MB, and never anything else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynflow.compile import check_text, compile_text
from dynflow.errors import GraphError
from tests.effort import EFFORT
from tests.language.hostile import SOUND, Text, all_texts

ROOT = Path(__file__).parents[2]
TEXTS = dict(all_texts())

_MEASURE = """
import json, resource, sys, time
from dynflow.compile import check_text
from tests.language.hostile import SOUND, all_texts

def seconds(work):
    began = time.process_time()
    work()
    return time.process_time() - began

def check(name, text):
    source, graph = check_text(text)
    assert (graph is None) == bool(source.errors()), name
    for problem in source.sorted():
        assert len(problem.render()) < 2_000, name
        assert problem.place.line <= max(1, len(source.lines)), name
    if graph is not None:
        graph.live

texts = list(all_texts())
check_text(SOUND)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
measured = {}
for name, text in texts:
    measured[name] = seconds(lambda: check(name, text))
    if measured[name] > 0.8:  # another process may have been in the way
        measured[name] = min(measured[name], seconds(lambda: check(name, text)))
spin = min(seconds(lambda: sum(number * number for number in range(1_000_000))) for _ in range(5))
json.dump({"seconds": measured, "spin": spin}, sys.stdout)
"""


def test_there_are_many() -> None:
    assert len(TEXTS) >= 300
    assert check_text(SOUND)[1] is not None


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if len(text) < 10_000])
def test_typed_error_or_graph(name: str) -> None:
    _expect_typed(TEXTS[name])


def _expect_typed(text: Text) -> None:
    source, graph = check_text(text)
    assert (graph is None) == bool(source.errors())
    for problem in source.sorted():
        assert 1 <= problem.place.line <= max(1, len(source.lines))
        assert len(problem.render()) < 2_000
    if graph is None:
        with pytest.raises(GraphError):
            compile_text(text)


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_time_and_memory() -> None:
    """All in a process of its own, with 200 MB to spare; a second of CPU time each, of a machine like the build's."""
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    measured = json.loads(done.stdout)
    slower = max(1.0, measured["spin"] / 0.05)
    slow = {name: seconds for name, seconds in measured["seconds"].items() if seconds > slower}
    assert not slow


words = st.sampled_from(
    [
        *("version: 1\n", "nodes:\n", "edges:\n", "models:\n", "params:\n", "limits:\n", "inputs:\n", "baseline: a\n"),
        *(
            "  a: {type: chat, model: m}\n",
            "  m: {provider: host}\n",
            "- {from: start, to: a}\n",
            "- {from: a, to: end}\n",
        ),
        *(
            "<<: *x\n",
            "&x ",
            "*x",
            "!t ",
            "? ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            ": ",
            "\n",
            "  ",
            "'",
            '"',
            "${a.text}",
            "#",
        ),
        *(
            "|\n",
            ">-\n",
            "1e99",
            "null",
            "~",
            "\t",
            "---\n",
            "...\n",
            "%YAML 1.2\n",
            "\x00",
            "\ufeff",
            "\u2028",
            "é",
            "\ud800",
        ),
    ]
)


@settings(max_examples=300 * EFFORT, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200), st.lists(words, max_size=25).map("".join)))
def test_any_text(text: Text) -> None:
    _expect_typed(text)


@settings(max_examples=300 * EFFORT, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 8), words), min_size=1, max_size=4))
def test_any_edit_of_a_sound_graph(edits: list[tuple[int, int, str]]) -> None:
    text = SOUND
    for place, removed, added in edits:
        text = text[:place] + added + text[place + removed :]
    _expect_typed(text)


texts = st.sampled_from(["${a.text}", "${params.p}", "${env:X}", "a.ok", "a", "end", "30s"])
keys = st.sampled_from(["type", "model", "from", "to", "when", "default", "with", "of", "a", "x"])
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=8), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
options = st.sampled_from(
    [
        *(
            "type",
            "model",
            "timeout",
            "role",
            "buffer",
            "on_failure",
            "messages",
            "labels",
            "output",
            "template",
            "with",
        ),
        *(
            "of",
            "accept",
            "stagger",
            "uses",
            "input",
            "routes",
            "score",
            "bands",
            "label",
            "name",
            "ports",
            "estimator",
        ),
    ]
)
types = st.sampled_from(["chat", "prompt", "router", "runnable", "graph", "parallel", "race", "difficulty_classifier"])


@settings(max_examples=400 * EFFORT, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    types,
    st.dictionaries(options, plain, max_size=5),
    st.sampled_from(["params", "inputs", "models", "limits", "edges", "x-a"]),
    plain,
)
def test_any_value_of_any_option(kind: str, given_options: dict[str, object], section: str, value: object) -> None:
    graph = {
        "version": 1,
        "models": {"m": {"provider": "host"}},
        "nodes": {"a": {"type": "chat", "model": "m"}, "b": {"type": kind, **given_options}},
        "edges": [{"from": "start", "to": "b"}, {"from": "b", "to": "a"}, {"from": "a", "to": "end"}],
    }
    _expect_typed(json.dumps({**graph, section: value}))
