"""What follows from a graph's shape: live answers, certainty, warnings, enums that need no default."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynflow.certainty import Certainty
from dynflow.compile import check_text, compile_text
from dynflow.graph import CheckedGraph
from dynflow.language.spec import END, START

NODES = {
    "gauge": "{type: runnable, name: g, ports: {score: number}, on_failure: {score: 1}}",
    "meter": "{type: runnable, name: m, ports: {score: number}}",
    "judge": "{type: chat, model: small, role: signal, on_failure: {}}",
    "topic": "{type: chat, model: small, role: signal, labels: [code, prose]}",
    "small": "{type: chat, model: small}",
    "large": "{type: chat, model: large}",
    "label": "{type: chat, model: large, labels: [code, prose]}",
    "object": "{type: chat, model: large, output: {type: object}}",
    "held": "{type: chat, model: large, buffer: true}",
    "reply": "{type: prompt, template: x, role: answer}",
    "both": "{type: parallel, of: [gauge, meter]}",
    "either": "{type: race, of: [small, large]}",
}


def graph_of(edges: str, *extra: str) -> str:
    """A graph of the nodes that the edges name, such as `start > small; small > end if small.ok`."""
    ways = [edge.strip().partition(" if ") for edge in edges.split(";")]
    named = {end for ends, _, _ in ways for end in ends.split(" > ")} | set(extra)
    lines = ["version: 1", "models: {small: {provider: host}, large: {provider: host}}", "nodes:"]
    lines += [f"  {name}: {body}" for name, body in NODES.items() if name in named]
    lines.append("edges:")
    for ends, _, when in ways:
        source, target = ends.split(" > ")
        lines.append(f"- {{from: {source}, to: {target}" + (f", when: '{when}'}}" if when else "}"))
    return "\n".join(lines)


def compiled(edges: str, *extra: str) -> CheckedGraph:
    return compile_text(graph_of(edges, *extra))


def codes(edges: str, *extra: str) -> list[str]:
    return [problem.code for problem in check_text(graph_of(edges, *extra))[0].sorted() if problem.code != "unused"]


@pytest.mark.parametrize(
    ("edges", "live"),
    [
        ("start > small; small > end", {"small"}),
        ("start > held; held > end", set()),
        # What is only known when it is whole does not stream.
        ("start > label; label > end", set()),
        ("start > object; object > end", set()),
        ("start > reply; reply > end", {"reply"}),
        # An answer that may be replaced is held; one that is left for another only when it failed streams.
        ("start > small; small > large if small.failed; small > end; large > end", {"small", "large"}),
        ("start > small; small > large if small.confidence < 0.5; small > end; large > end", {"large"}),
        ("start > small; small > large if small.failed or small.tokens > 3; small > end; large > end", {"large"}),
        ('start > small; small > large if small.error == "timeout"; small > end; large > end', {"small", "large"}),
        # A signal behind it may fail and take the request with it, unless `on_failure` stands in.
        ("start > small; small > gauge; gauge > end", {"small"}),
        ("start > small; small > meter; meter > end", set()),
        ("start > small; small > gauge; gauge > large if gauge.score > 0.5; gauge > end; large > end", {"large"}),
        ("start > small; small > gauge; gauge > meter if gauge.score > 0.5; gauge > end; meter > end", set()),
        # A model that may not take the request closes an edge: with one way on the answer itself is closed with it;
        # with two, the walk may get stuck behind the answer.
        ("start > small; small > judge; judge > end", {"small"}),
        ("start > small; small > end if small.tokens > 3; small > judge; judge > end", set()),
        ("start > small; small > gauge; gauge > end if gauge.score > 1; gauge > judge; judge > end", set()),
        ("start > small; small > judge if small.failed; small > end; judge > small", None),
    ],
)
def test_live(edges: str, live: set[str] | None) -> None:
    if live is None:
        assert "cycle" in codes(edges)
        return
    assert compiled(edges).live == live


def test_members_and_groups_never_stream() -> None:
    assert compiled("start > either; either > end", "small", "large").live == frozenset()


@pytest.mark.parametrize(
    ("edges", "extra", "found"),
    [
        # Into `end` an answer must have succeeded on all paths.
        ("start > small; small > end", (), []),
        ("start > gauge; gauge > end", (), ["no_answer"]),
        ("start > small; small > end if small.failed; small > end", (), ["no_answer"]),
        (
            "start > small; small > large if small.failed; small > end; "
            "large > end if large.failed and small.ok; large > end",
            (),
            [],
        ),
        ("start > small; small > gauge if small.failed; small > end; gauge > end", (), ["no_answer"]),
        (
            "start > small; small > gauge if small.failed; small > end; gauge > end if small.ok; "
            "gauge > large; large > end",
            (),
            [],
        ),
        ("start > either; either > end", ("small", "large"), []),
        ("start > either; either > end if small.ok; either > end", ("small", "large"), ["no_answer"]),
        # Signals whose failure nothing handles.
        ("start > meter; meter > small; small > end", (), ["unhandled_failure"]),
        ("start > meter; meter > small if meter.failed; meter > small; small > end", (), []),
        ("start > meter; meter > small if not meter.ok; meter > small; small > end", (), []),
        ("start > meter; meter > small if meter.error != null; meter > small; small > end", (), []),
        (
            "start > meter; meter > large if meter.score > 1 or meter.failed; meter > small; small > end; large > end",
            (),
            [],
        ),
        (
            "start > meter; meter > large if meter.ok and meter.score > 1; meter > small; small > end; large > end",
            (),
            ["unhandled_failure"],
        ),
        (
            "start > meter; meter > small; small > large if meter.failed; small > end; large > end",
            (),
            ["unhandled_failure"],
        ),
        ("start > both; both > small if meter.failed; both > small; small > end", ("gauge", "meter"), []),
        ("start > both; both > small if both.failed; both > small; small > end", ("gauge", "meter"), []),
        ("start > both; both > small; small > end", ("gauge", "meter"), ["unhandled_failure"] * 2),
        # All values of a closed port need no default.
        (
            'start > topic; topic > small if topic.label == "code"; '
            'topic > large if topic.label == "prose"; small > end; large > end',
            (),
            ["unhandled_failure"],
        ),
        (
            'start > topic; topic > small if topic.label in ["code", "prose"]; '
            "topic > small if topic.failed; small > end",
            (),
            [],
        ),
        (
            'start > topic; topic > small if topic.label == "code"; topic > small if topic.failed; small > end',
            (),
            ["no_default"],
        ),
        (
            'start > topic; topic > small if topic.label == "code" and topic.tokens > 1; '
            'topic > small if topic.label == "prose"; small > end',
            (),
            ["no_default"],
        ),
        ('start > small; small > end if small.error == "timeout"', (), ["no_default"]),
    ],
)
def test_problems(edges: str, extra: tuple[str, ...], found: list[str]) -> None:
    assert codes(edges, *extra) == found


@pytest.mark.parametrize(
    ("edges", "extra", "at", "certain"),
    [
        ("start > gauge; gauge > small; small > end", (), "small", {"gauge"}),
        ("start > meter; meter > small; small > end", (), "small", {"meter"}),
        ("start > meter; meter > small if meter.failed; meter > small; small > end", (), "small", set()),
        ("start > gauge; gauge > small if gauge.failed; gauge > small; small > end", (), "small", {"gauge"}),
        (
            "start > meter; meter > small if meter.score > 1; meter > large; small > end; large > end",
            (),
            "small",
            {"meter"},
        ),
        (
            "start > meter; meter > small if meter.seconds > 1; meter > large; small > end; large > end",
            (),
            "small",
            set(),
        ),
        ("start > small; small > large if small.failed; small > end; large > end", (), "large", set()),
        (
            "start > small; small > large if small.tokens > 1; small > large if small.failed; small > end; large > end",
            (),
            END,
            set(),
        ),
        ("start > both; both > small; small > end", ("gauge", "meter"), "small", {"both", "gauge", "meter"}),
        ("start > both; both > small if both.failed; both > small; small > end", ("gauge", "meter"), "small", set()),
        ("start > both; both > small if gauge.ok; both > small; small > end", ("gauge", "meter"), "small", {"gauge"}),
        ("start > either; either > end", ("small", "large"), END, {"either"}),
        (
            'start > either; either > reply if either.winner == "small"; either > end; reply > end',
            ("small", "large"),
            "reply",
            {"either"},
        ),
    ],
)
def test_certainty(edges: str, extra: tuple[str, ...], at: str, certain: set[str]) -> None:
    source, graph = check_text(graph_of(edges, *extra))
    assert graph is not None, source.errors()[0].render()
    certainty = Certainty(graph.nodes, graph.ways, graph.digraph)
    assert {name for name in graph.nodes if certainty.succeeded(name, at)} == certain


def test_a_group_that_is_stood_in_for_proves_nothing_of_its_members() -> None:
    text = graph_of("start > both; both > small; small > end", "gauge", "meter")
    graph = compile_text(text.replace("[gauge, meter]", "[gauge, meter], on_failure: {}"))
    certainty = Certainty(graph.nodes, graph.ways, graph.digraph)
    assert certainty.succeeded("both", "small")
    assert not certainty.succeeded("meter", "small")


def test_the_graph_is_a_multigraph() -> None:
    graph = compiled("start > small; small > end if small.tokens > 3; small > end")
    assert graph.digraph.number_of_edges("small", END) == 2
    assert [data["way"].when for _, _, data in graph.digraph.edges("small", data=True)] == ["small.tokens > 3", None]
    assert list(graph.order) == [START, "small", END]


INNER = """
version: 1
params: {bound: {default: 0.5, min: 0, max: 1}}
models: {m: {provider: host}}
nodes:
  a: {type: chat, model: m, labels: [x, y]}
  b: {type: chat, model: m}
edges:
  - {from: start, to: a}
  - {from: a, to: b, when: a.failed or a.confidence < params.bound}
  - {from: a, to: end}
  - {from: b, to: end}
"""
OUTER = """
version: 1
nodes:
  inner: {type: graph, uses: inner.yaml}
edges:
  - {from: start, to: inner}
  - from: inner
    to: end
    when: inner.ok and inner.%s
  - {from: inner, to: end}
"""


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("tokens > 3", []),
        ("degraded", []),
        ("text == 'x'", []),
        ("label == 'x'", ["unknown_port"]),
        ("a > 1", ["unknown_port"]),
    ],
)
def test_ports_of_a_subgraph(tmp_path: Path, condition: str, found: list[str]) -> None:
    """Those common to all its answers, and its own."""
    (tmp_path / "inner.yaml").write_text(INNER)
    source, _ = check_text(OUTER % condition, path=tmp_path / "outer.yaml")
    assert [problem.code for problem in source.problems] == found


def test_a_subgraph_of_a_text_needs_a_base(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(INNER)
    text = OUTER % "tokens > 3"
    assert "base=" in check_text(text)[0].problems[0].text
    assert check_text(text, base=tmp_path)[1] is not None


def test_a_subgraph_that_many_use_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level uses the next twice: checked anew each time, these would be thousands of checks."""
    reads: list[Path] = []

    def counted(path: Path) -> bytes:
        reads.append(path)
        return path.read_bytes()

    monkeypatch.setattr("dynflow.compile.read_graph_file", counted)
    levels = 14
    (tmp_path / f"level{levels}.yaml").write_text(INNER)
    for level in range(levels):
        text = "version: 1\nnodes:\n"
        text += "".join(f"  {name}: {{type: graph, uses: ./{name}{level + 1}.yaml}}\n" for name in ("left", "right"))
        text += "edges:\n- {from: start, to: left}\n- {from: left, to: right, when: left.failed}\n"
        text += "- {from: left, to: end}\n- {from: right, to: end}\n"
        (tmp_path / f"level{level}.yaml").write_text(text)
        for name in ("left", "right"):
            (tmp_path / f"{name}{level + 1}.yaml").symlink_to(f"level{level + 1}.yaml")
    top = tmp_path / "level0.yaml"
    assert check_text(top.read_bytes(), path=top)[1] is not None
    assert len(reads) == levels


def test_graphs_too_many_levels_inside_each_other(tmp_path: Path) -> None:
    for level in range(40):
        text = OUTER.replace("inner.yaml", f"{level + 1}.yaml") % "ok"
        (tmp_path / f"{level}.yaml").write_text(text)
    top = tmp_path / "0.yaml"
    source, _ = check_text(top.read_bytes(), path=top)
    assert "more than 16 levels" in source.problems[0].text
