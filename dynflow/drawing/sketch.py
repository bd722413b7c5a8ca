"""What a drawing of a graph shows, whatever its form: boxes with their lines of text, and labelled arrows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dynflow.language.spec import END, START

if TYPE_CHECKING:
    from dynflow.graph import CheckedGraph, NodePlan

Kind = Literal["terminal", "signal", "answer"]


@dataclass(frozen=True)
class Box:
    """One node: its id as title, and what it is."""

    id: str
    kind: Kind
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arrow:
    """One edge. `failure`: it is taken only when its source has failed."""

    source: str
    target: str
    label: str = ""
    failure: bool = False


@dataclass(frozen=True)
class Sketch:
    """A graph's boxes in topological order, and its arrows in the order of the file."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def sketch(graph: CheckedGraph) -> Sketch:
    """Labels are the conditions, numbered where more than two edges leave a node; a default edge among others is
    `otherwise`.
    """
    names = sorted(graph.order, key=graph.order.__getitem__)
    boxes = tuple(
        Box(name, "terminal") if name in (START, END) else Box(name, graph.nodes[name].role, tuple(_lines(graph, name)))
        for name in names
    )
    arrows: list[Arrow] = []
    for name in names:
        ways = graph.ways.get(name, ())
        for number, way in enumerate(ways, 1):
            words = "" if len(ways) == 1 and way.when is None else " ".join((way.when or "otherwise").split())
            label = f"{number}: {words}" if len(ways) > 2 else words
            arrows.append(Arrow(way.source, way.target, label, way.term is not None and bool(way.proves.failed)))
    return Sketch(graph.spec.name or "graph", boxes, tuple(arrows))


def _lines(graph: CheckedGraph, name: str) -> list[str]:
    plan = graph.nodes[name]
    lines = [_kind(plan)]
    lines += [f"{member}: {_kind(graph.nodes[member])}" for member in plan.members]
    if plan.role == "answer":
        lines.append("streams live" if name in graph.live else "held")
    return lines


def _kind(plan: NodePlan) -> str:
    return plan.cls.type if plan.model is None else f"{plan.cls.type}, {plan.model}"
