"""Which nodes a collection of outcomes runs, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynflow.calibration.recorded import reachable, read_from_file
from dynflow.graph import CheckedGraph, NodePlan
from dynflow.language.references import Reference

if TYPE_CHECKING:
    from dynflow.flow import Flow


@dataclass(frozen=True)
class Needed:
    """What replay reads from an outcome file, and what must run for it."""

    recorded: frozenset[str]
    """Nodes whose outcomes the file takes: answers, and signals that have a model."""
    order: tuple[str, ...]
    """Those, and nodes that they refer to, each after all that it refers to; a group in the place of its members."""
    fallbacks: frozenset[str]
    """Nodes of these that a request comes to only where another has failed."""


def needed(flow: Flow) -> Needed:
    """The nodes that are run for each row. Of signals without a model only those that others refer to: replay runs
    them itself."""
    graph = flow.checked
    recorded = frozenset(read_from_file(flow))
    order: dict[str, None] = {}

    def put(name: str) -> None:
        name = graph.group_of.get(name, name)
        if name in order:
            return
        for owner in owners(graph, name):
            put(owner)
        order[name] = None

    fallbacks = recorded - reachable(graph)
    for name in graph.nodes:
        if name in recorded and name not in fallbacks:
            put(name)
    wanted = frozenset(order)
    for name in graph.nodes:
        if name in fallbacks:
            put(name)
    return Needed(recorded, tuple(order), frozenset(order) - wanted)


def owners(graph: CheckedGraph, name: str) -> Iterator[str]:
    """Nodes that the options of a node, or of a group's members, refer to."""
    plan = graph.nodes[name]
    for each in (plan, *(graph.nodes[member] for member in plan.members)):
        for reference in references(each).values():
            yield from (owner for owner, _ in reference.targets if owner in graph.nodes)


def references(plan: NodePlan) -> Mapping[object, Reference]:
    """The references among a node's options."""
    found = plan.options.references()
    return {path: reference for path, reference in found.items() if isinstance(reference, Reference)}
