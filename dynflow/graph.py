"""The checked graph: a networkx MultiDiGraph of ways between nodes, and what follows from its shape alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx

from dynflow.language.evaluate import Evaluator
from dynflow.language.expression import Comparison, Constant, Items, Port, Term
from dynflow.language.facts import Facts, facts, mentions_failure
from dynflow.language.source import Source
from dynflow.language.spec import END, START, CommonOptions, GraphSpec, Role
from dynflow.language.types import PortType
from dynflow.node import Node


@dataclass(frozen=True, slots=True)
class Way:
    """One edge, ready to be walked. `index` is its place in the file's list."""

    index: int
    source: str
    target: str
    when: str | None
    term: Term | None
    evaluate: Evaluator | None
    reads: tuple[Port, ...] = ()
    """The ports that the condition reads."""

    @property
    def proves(self) -> Facts:
        """What is certain on this way; the default edge is never taken after a failure."""
        if self.term is None:
            return Facts(succeeded=frozenset({self.source} - {START}))
        return facts(self.term)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node with its type, options, role and ports."""

    id: str
    cls: type[Node]
    common: CommonOptions
    options: Any
    role: Role
    ports: Mapping[str, PortType]
    model: str | None
    members: tuple[str, ...] = ()
    has_references: bool = False
    answer_type: type[Any] = object


@dataclass(frozen=True)
class CheckedGraph:
    """A graph without faults."""

    spec: GraphSpec
    source: Source
    nodes: Mapping[str, NodePlan]
    ways: Mapping[str, tuple[Way, ...]]
    warnings: tuple[Any, ...] = field(default=())

    @cached_property
    def digraph(self) -> nx.MultiDiGraph:
        """Nodes `start`, `end` and the graph's own; edges carry their `Way`."""
        return to_digraph(self.nodes, self.ways)

    @cached_property
    def group_of(self) -> Mapping[str, str]:
        """The group of each member."""
        return {member: plan.id for plan in self.nodes.values() for member in plan.members}

    @cached_property
    def live(self) -> frozenset[str]:
        """Answers that stream as they come: nothing after their success can replace or lose them."""
        return frozenset(name for name in self.nodes if streams_live(self, name))

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Nodes whose output can be the result."""
        return tuple(name for name, plan in self.nodes.items() if plan.role == "answer" and name not in self.group_of)

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Place of each node in one topological order."""
        return {name: index for index, name in enumerate(nx.topological_sort(self.digraph))}

    @cached_property
    def ancestors(self) -> Mapping[str, frozenset[str]]:
        """The nodes from which each node can be reached."""
        return {name: frozenset(nx.ancestors(self.digraph, name)) for name in self.digraph}


def to_digraph(nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> nx.MultiDiGraph:
    """The networkx form; two edges may join the same two nodes."""
    members = {member for plan in nodes.values() for member in plan.members}
    digraph = nx.MultiDiGraph()
    digraph.add_nodes_from([START, *(name for name in nodes if name not in members), END])
    for outgoing in ways.values():
        for way in outgoing:
            digraph.add_edge(way.source, way.target, key=way.index, way=way)
    return digraph


def streams_live(graph: CheckedGraph, name: str) -> bool:
    """Whether no other answer can be reached, and no later node can raise, once this answer has succeeded."""
    plan = graph.nodes[name]
    if plan.role != "answer" or plan.common.buffer or plan.cls.group or name in graph.group_of:
        return False
    later = {way.target for way in graph.ways.get(name, ()) if name not in way.proves.failed} - {END}
    reached = set(later).union(*(nx.descendants(graph.digraph, node) for node in later)) - {END}
    return all(graph.nodes[node].role == "signal" and graph.nodes[node].common.on_failure is not None for node in reached)


def check_structure(source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
    """Report every fault of the graph's shape. Assumes that each edge joins known nodes."""
    digraph = to_digraph(nodes, ways)
    if START not in ways:
        source.report("no_start", "no edge leaves `start`: add `- {from: start, to: <first node>}`", ("edges",), key=True)
    _check_defaults(source, nodes, ways)
    if _check_cycles(source, digraph):
        return
    _check_reachability(source, nodes, digraph)
    if source.errors():
        return
    _check_ends(source, nodes, ways, digraph)
    _check_unhandled(source, nodes, ways)


def _check_defaults(source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
    for name, outgoing in ways.items():
        defaults = [way for way in outgoing if way.term is None]
        for way in defaults[1:]:
            source.report("two_defaults", f"{name!r} has a default edge already: give this one a `when`", ("edges", way.index))
        after = next((way for way in outgoing if defaults and way.index > defaults[0].index and way.term is not None), None)
        if after is not None:
            text = f"this edge is never looked at: it stands after the default edge of {name!r}; move it up"
            source.report("after_default", text, ("edges", after.index))
        if not defaults and not _covers_an_enum(name, nodes, outgoing):
            source.report(
                "no_default",
                f"{name!r} has no default edge: end its edges with one without `when`, such as "
                f"`- {{from: {name}, to: {outgoing[-1].target}}}`",
                ("edges", outgoing[-1].index),
            )


def _covers_an_enum(name: str, nodes: Mapping[str, NodePlan], ways: tuple[Way, ...]) -> bool:
    """Whether the conditions name every value of one closed port of the node that they leave."""
    named: dict[str, set[str]] = {}
    for way in ways:
        match way.term:
            case Comparison(operands=(Port(owner=owner, path=(port,)), Constant(value=value)), operators=("==",)):
                values = [value]
            case Comparison(operands=(Port(owner=owner, path=(port,)), Items(items=items)), operators=("in",)):
                values = [item.value for item in items if isinstance(item, Constant)]
            case _:
                continue
        if owner == name:
            named.setdefault(port, set()).update(value for value in values if isinstance(value, str))
    ports = nodes[name].ports if name in nodes else {}
    return any(port in ports and ports[port].values and values >= set(ports[port].values or ()) for port, values in named.items())


def _check_cycles(source: Source, digraph: nx.MultiDiGraph) -> bool:
    found = False
    for component in nx.strongly_connected_components(digraph):
        inside = [data["way"] for _, target, data in digraph.out_edges(component, data=True) if target in component]
        if not inside:
            continue
        found = True
        cycle = [edge[0] for edge in nx.find_cycle(digraph.subgraph(component))]
        text = f"the edges run in a circle: {' → '.join([*cycle, cycle[0]])}; a second try is a second node"
        source.report("cycle", text, ("edges", max(way.index for way in inside)))
    return found


def _check_reachability(source: Source, nodes: Mapping[str, NodePlan], digraph: nx.MultiDiGraph) -> None:
    members = {member for plan in nodes.values() for member in plan.members}
    reached = nx.descendants(digraph, START)
    leading = nx.ancestors(digraph, END)
    for name in nodes:
        if name in members:
            continue
        if name not in reached:
            source.report("unreachable", f"no path from start leads to {name!r}: add an edge to it, or remove it", ("nodes", name), key=True)
        elif name not in leading:
            text = f"{name!r} leads nowhere: add `- {{from: {name}, to: end}}`"
            source.report("dead_end", text, ("nodes", name), key=True)


def certain_success(
    nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]
) -> tuple[dict[str, frozenset[str]], dict[str, bool]]:
    """For each node: who certainly succeeded before it, and whether some answer did, on every path."""
    digraph = to_digraph(nodes, ways)
    certain: dict[str, frozenset[str]] = {START: frozenset()}
    answered: dict[str, bool] = {START: False}
    for name in nx.topological_sort(digraph):
        incoming = [data["way"] for _, _, data in digraph.in_edges(name, data=True) if data["way"].source in certain]
        if name == START or not incoming:
            continue
        certain[name] = frozenset.intersection(*(certain_on(way, nodes, certain[way.source]) for way in incoming))
        answered[name] = all(answered_on(way, nodes, certain, answered) for way in incoming)
    return certain, answered


def certain_on(way: Way, nodes: Mapping[str, NodePlan], before: frozenset[str]) -> frozenset[str]:
    """Nodes that certainly succeeded where this way is taken; a signal with `on_failure` always does."""
    done = before | way.proves.succeeded
    if way.source in nodes and nodes[way.source].common.on_failure is not None:
        done |= {way.source}
    inside = {
        member
        for name in done
        if name in nodes and nodes[name].cls.all_members_succeed
        for member in nodes[name].members
    }
    return done | inside


def answered_on(
    way: Way, nodes: Mapping[str, NodePlan], certain: Mapping[str, frozenset[str]], answered: Mapping[str, bool]
) -> bool:
    """Whether some answer has certainly succeeded where this way is taken."""
    done = certain_on(way, nodes, certain[way.source])
    return answered[way.source] or any(name in nodes and nodes[name].role == "answer" for name in done)


def _check_ends(
    source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]], digraph: nx.MultiDiGraph
) -> None:
    certain, answered = certain_success(nodes, ways)
    for _, _, data in digraph.in_edges(END, data=True):
        way: Way = data["way"]
        if way.source in certain and not answered_on(way, nodes, certain, answered):
            hint = "no answer node stands on some path to it" if way.term is None else "its `when` can be true without one"
            source.report(
                "no_answer",
                f"`end` can be reached here with no succeeded answer ({hint}): route through an answer, "
                "or add `and <answer>.ok` to the condition",
                ("edges", way.index),
            )


def _check_unhandled(source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
    handled = {
        name for outgoing in ways.values() for way in outgoing if way.term is not None for name in mentions_failure(way.term)
    }
    for name, plan in nodes.items():
        if plan.role != "signal" or plan.common.on_failure is not None or name in handled or not plan.cls.can_fail:
            continue
        if plan.cls.all_members_succeed and all(
            member in handled or nodes[member].common.on_failure is not None for member in plan.members if member in nodes
        ):
            continue
        group = next((other.id for other in nodes.values() if name in other.members), None)
        if group is not None and group in handled:
            continue
        source.report(
            "unhandled_failure",
            f"when {name!r} fails, the request fails with it: add `on_failure:` to it, or an edge with `when: {name}.failed`",
            ("nodes", name),
            key=True,
            severity="warning",
        )


def iterate_references(plan: NodePlan) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every reference in a node's options, with its path."""
    yield from plan.options.references().items()
