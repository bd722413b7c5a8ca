"""The walk, over random sound graphs and random outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dynflow.certainty import Certainty
from dynflow.compile import check_text, compile_text
from dynflow.errors import NoEligibleAnswer
from dynflow.graph import CheckedGraph
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.spec import END, START
from dynflow.walk import State, Walk
from tests.effort import EFFORT

OUTSIDE = {"params": {"bound": 0.5}, "input": {"turns": 2}, "budget": {"seconds_left": 10.0}}


def outside(owner: str, port: str) -> Any:
    return OUTSIDE[owner][port]


# Random graphs, as text

SIGNAL = "{type: runnable, name: f, ports: {score: number}%s}"
KINDS = {
    "signal": SIGNAL % "",
    "rescued": SIGNAL % ", on_failure: {score: 1}",
    "judge": "{type: chat, model: m#, role: signal}",
    "rescued judge": "{type: chat, model: m#, role: signal, on_failure: {}}",
    "chat": "{type: chat, model: m#}",
    "buffered": "{type: chat, model: m#, buffer: true}",
    "reply": "{type: prompt, template: x, role: answer}",
    "parallel": "{type: parallel, of: [n#a, n#b]}",
    "rescued parallel": "{type: parallel, of: [n#a, n#b], on_failure: {}}",
    "race": "{type: race, of: [n#a, n#b]}",
}
ANSWERS = ("chat", "buffered", "reply", "race")
PORT = {"signal": "score", "rescued": "score", "judge": "tokens", "rescued judge": "tokens", "chat": "tokens"}


@st.composite
def graph_texts(draw: Any) -> str:
    """Nodes n0, n1… in the order of the edges; an answer among the last, so that many of these graphs are sound."""
    kinds = [draw(st.sampled_from([*KINDS])) for _ in range(draw(st.integers(0, 4)))]
    kinds.append(draw(st.sampled_from(ANSWERS)))
    kinds += [draw(st.sampled_from(["rescued", "rescued judge", "signal"])) for _ in range(draw(st.integers(0, 2)))]
    nodes: dict[str, str] = {}
    for number, kind in enumerate(kinds):
        nodes[f"n{number}"] = KINDS[kind].replace("#", str(number))
        if "parallel" in kind:
            rescued = draw(st.sampled_from(["signal", "rescued"]))
            nodes |= {f"n{number}a": KINDS[rescued], f"n{number}b": KINDS["signal"]}
        if kind == "race":
            nodes |= {f"n{number}{letter}": KINDS["chat"].replace("#", f"{number}{letter}") for letter in "ab"}
    edges = ["- {from: start, to: n0}"]
    for number, kind in enumerate(kinds):
        later = [f"n{after}" for after in range(number + 1, len(kinds))]
        for _ in range(draw(st.integers(0, 2))):
            target = draw(st.sampled_from([*later, END] if kind in ANSWERS or not later else later))
            edges.append(f"- {{from: n{number}, to: {target}, when: '{draw(_conditions(number, kinds))}'}}")
        if later and kind in ANSWERS and draw(st.booleans()):  # the next node stays within reach
            edges.append(f"- {{from: n{number}, to: {later[0]}, when: '{draw(_conditions(number, kinds))}'}}")
            later = []
        edges.append(f"- {{from: n{number}, to: {(later or [END])[0]}}}")
    models = {f"m{name[1:]}" for name, body in nodes.items() if "model:" in body}
    return "\n".join(
        [
            "version: 1",
            "params: {bound: 0.5}",
            f"models: {{{', '.join(f'{model}: {{provider: host}}' for model in sorted(models))}}}",
            "nodes:",
            *(f"  {name}: {body}" for name, body in nodes.items()),
            "edges:",
            *edges,
        ]
    )


def _conditions(number: int, kinds: list[str]) -> Any:
    """Conditions on this node and those before it."""
    simple = [f"n{number}.failed", "input.turns > 1", "budget.seconds_left < 1"]
    for before in range(number + 1):
        name, kind = f"n{before}", kinds[before]
        simple += [f"{name}.ok", f"not {name}.ok", f'{name}.error == "timeout"', f"{name}.error != null"]
        if kind in PORT:
            simple.append(f"{name}.{PORT[kind]} > params.bound")
        if "parallel" in kind:
            simple += [f"{name}a.failed", f"{name}b.score > {name}a.score"]
        if kind == "race":
            simple += [f'{name}.winner == "{name}a"', f"{name}b.ok"]
    parts = st.sampled_from(simple)
    return st.one_of(parts, st.tuples(parts, st.sampled_from(["and", "or"]), parts).map(" ".join))


@dataclass
class Outcomes:
    """How each node ends, whenever it is run."""

    fails: frozenset[str]
    score: float
    first: str
    """Which member of a race comes first."""

    def run(self, graph: CheckedGraph, walk: Walk, name: str, closed: frozenset[str]) -> None:
        """Put the node's state on record, as a session does."""
        plan = graph.nodes[name]
        failed = (name in self.fails and plan.cls.can_fail) or name in closed
        ports: dict[str, Any] = {"score": self.score, "tokens": int(self.score * 10), "text": "x"}
        degraded = False
        if plan.members:
            members = [m for m in plan.members if m.endswith(self.first)] + [
                m for m in plan.members if not m.endswith(self.first)
            ]
            for member in members:
                self.run(graph, walk, member, closed)
                if plan.cls.type == "race" and walk.states[member].ok:
                    break  # the others are called off: they count as not run
            good = [member for member in members if member in walk.states and walk.states[member].ok]
            degraded = plan.cls.type == "parallel" and any(walk.states[member].rescued for member in good)
            failed = len(good) < len(members) if plan.cls.type == "parallel" else not good
            ports = {"winner": good[0], "tokens": 3} if good and plan.cls.type == "race" else {}
        stand_in = plan.common.on_failure
        if not failed:
            walk.states[name] = State(True, ports, rescued=degraded)
        elif stand_in is not None:
            walk.states[name] = State(True, stand_in, rescued=True)
        else:
            walk.states[name] = State(False, {}, "timeout" if self.score > 0.5 else "internal")


outcomes = st.builds(
    Outcomes,
    st.frozensets(st.sampled_from([f"n{number}{letter}" for number in range(7) for letter in ("", "a", "b")])),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from(["a", "b"]),
)


def take(
    graph: CheckedGraph,
    result: Outcomes,
    closed: frozenset[str] = frozenset(),
    visit: Callable[[Walk], None] | None = None,
) -> tuple[Walk, list[str], str]:
    """The walk, the nodes visited, and how it ended: `end`, `failed` or `stuck`."""
    walk = Walk(graph, outside, closed)
    path: list[str] = []
    while not walk.finished:
        try:
            decision = walk.advance()
        except NoEligibleAnswer:
            return walk, path, "stuck"
        if decision is None:
            return walk, path, "failed"
        if walk.finished:
            break
        path.append(walk.at)
        if visit is not None:
            visit(walk)
        result.run(graph, walk, walk.at, closed)
    return walk, path, "end"


def sound(text: str) -> CheckedGraph:
    source, graph = check_text(text)
    codes = {problem.code for problem in source.errors()}
    assert codes <= {"no_answer", "dead_end", "unreachable"}, source.errors()[0].render()
    assume(graph is not None)
    assert graph is not None
    return graph


walks = settings(max_examples=250 * EFFORT, deadline=None, suppress_health_check=[*HealthCheck])


@walks
@given(graph_texts(), outcomes)
def test_any_walk(text: str, result: Outcomes) -> None:
    graph = sound(text)
    certainty = Certainty(graph.nodes, graph.ways, graph.digraph)

    def look(walk: Walk) -> None:
        for name in graph.nodes:
            if certainty.succeeded(name, walk.at):
                assert walk.lookup(name, "ok") is True, (name, walk.at)

    walk, path, ended = take(graph, result, visit=look)
    assert ended in ("end", "failed")
    assert len(set(path)) == len(path)
    if ended == "failed":
        assert not walk.states[path[-1]].ok
    else:
        answers = [name for name in path if graph.nodes[name].role == "answer" and walk.states[name].ok]
        assert walk.result() == answers[-1]
    left = [decision.source for decision in walk.decisions if decision.source != START]
    assert walk.degraded == any(not walk.states[name].ok or walk.states[name].rescued for name in left)
    for decision in walk.decisions:
        chosen = next(way for way in graph.ways[decision.source] if way.index == decision.edge)
        assert (chosen.target, chosen.when) == (decision.target, decision.when)
        assert chosen.when is not None or decision.source == START or walk.states[decision.source].ok
        assert UNKNOWN not in decision.values.values()
    assert take(sound(text), result)[0].decisions == walk.decisions


@walks
@given(graph_texts(), outcomes, st.frozensets(st.integers(0, 6)))
def test_any_walk_of_a_request_that_not_every_model_takes(text: str, result: Outcomes, lacking: frozenset[int]) -> None:
    graph = sound(text)
    closed = graph.closed_where(lambda plan: lacks_any_of(lacking)(plan.model or ""))
    for name, ways in graph.ways.items():
        if name == START:
            continue
        shut = [member in closed for member in graph.nodes[name].members]
        model = graph.nodes[name].model
        assert not (model is not None and lacks_any_of(lacking)(model) and name not in closed)
        assert not (shut and all(shut) and name not in closed)
        assert name in closed or not all(way.target in closed for way in ways)
        if name in closed and model is None and not any(shut):
            assert all(way.target in closed for way in ways)
    walk, path, ended = take(graph, result, closed)
    assert not closed.intersection(path)
    if ended == "stuck":
        assert any(way.target in closed for way in graph.ways[walk.at])
    for place, name in enumerate(path):
        # Once a live answer has succeeded, no other answer runs and no error comes.
        if name in graph.live and walk.states[name].ok:
            assert all(graph.nodes[later].role == "signal" for later in path[place + 1 :])
            assert ended == "end"
            assert walk.result() == name


def lacks_any_of(numbers: frozenset[int]) -> Callable[[str], bool]:
    return lambda model: int(model.strip("mab")) in numbers


# By hand

FALLBACK = """
version: 1
models: {small: {provider: host}, large: {provider: host}}
nodes:
  gauge: {type: runnable, name: g, ports: {score: number}, on_failure: {score: 1.0}}
  small: {type: chat, model: small}
  large: {type: chat, model: large}
edges:
  - {from: start, to: gauge}
  - {from: gauge, to: large, when: gauge.score > 0.5}
  - {from: gauge, to: small}
  - {from: small, to: large, when: small.failed}
  - {from: small, to: end}
  - {from: large, to: end}
"""


def test_on_failure_stands_in() -> None:
    graph = compile_text(FALLBACK)
    walk, path, ended = take(graph, Outcomes(frozenset({"gauge"}), 0.0, "a"))
    assert (path, ended) == (["gauge", "large"], "end")
    assert walk.degraded
    assert walk.decisions[1].values == {"gauge.score": 1.0}
    assert walk.lookup("gauge", "ok") is True
    assert walk.lookup("gauge", "error") is None


def test_not_degraded_without_failure() -> None:
    walk, path, _ = take(compile_text(FALLBACK), Outcomes(frozenset(), 0.0, "a"))
    assert path == ["gauge", "small"]
    assert not walk.degraded


def test_a_failure_that_no_edge_handles() -> None:
    walk, path, ended = take(compile_text(FALLBACK), Outcomes(frozenset({"large"}), 1.0, "a"))
    assert (path, ended) == (["gauge", "large"], "failed")
    assert walk.result() is None


@pytest.mark.parametrize(
    ("lacking", "closed"),
    [((), set()), (("large",), {"large"}), (("small",), {"small"}), (("small", "large"), {"small", "large", "gauge"})],
)
def test_closed_nodes(lacking: tuple[str, ...], closed: set[str]) -> None:
    assert compile_text(FALLBACK).closed_where(lambda plan: plan.model in lacking) == closed


def test_an_edge_that_is_not_true_is_never_taken_instead() -> None:
    graph = compile_text(FALLBACK)
    walk, path, ended = take(graph, Outcomes(frozenset(), 0.0, "a"), frozenset({"small"}))
    assert (path, ended) == (["gauge"], "stuck")
    with pytest.raises(NoEligibleAnswer, match="small cannot take"):
        walk.advance()


def test_no_way_in_at_all() -> None:
    walk = Walk(compile_text(FALLBACK), outside, frozenset({"gauge", "small", "large"}))
    with pytest.raises(NoEligibleAnswer):
        walk.advance()


def test_a_node_that_did_not_run_is_neither_ok_nor_failed() -> None:
    walk = Walk(compile_text(FALLBACK), outside)
    assert walk.lookup("small", "ok") is False
    assert walk.lookup("small", "failed") is False
    for port in ("text", "error", "seconds", "usd"):
        assert walk.lookup("small", port) is UNKNOWN
