"""The checked graph: a networkx MultiDiGraph of ways between nodes, and what follows from its shape alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import networkx as nx

from dynflow.language.evaluate import Evaluator
from dynflow.language.expression import Comparison, Constant, Either, Items, Port, Term, measured_ports, parts_of
from dynflow.language.facts import Facts, facts, mentions_failure
from dynflow.language.references import Reference
from dynflow.language.source import Source
from dynflow.language.spec import END, START, CommonOptions, GraphSpec, Role
from dynflow.language.types import PortType
from dynflow.node import Node

if TYPE_CHECKING:
    from dynflow.certainty import Certainty


@dataclass(frozen=True, slots=True)
class Way:
    """One edge, ready to be walked. `index` is its place in the file's list."""

    index: int
    source: str
    target: str
    when: str | None
    term: Term | None
    """The condition as a tree; None on the default edge, and while a faulty one is under check."""
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
    can_fail: bool = True
    answer_type: type[Any] = object


@dataclass(frozen=True)
class CheckedGraph:
    """A graph without faults."""

    spec: GraphSpec
    source: Source
    nodes: Mapping[str, NodePlan]
    ways: Mapping[str, tuple[Way, ...]]

    @property
    def name(self) -> str:
        """Its name; `graph` where the text gives it none."""
        return self.spec.name or "graph"

    @cached_property
    def input_read(self) -> frozenset[str]:
        """Keys of `input` that conditions read; `tokens` in any case."""
        ports = (port for outgoing in self.ways.values() for way in outgoing for port in way.reads)
        return frozenset({"tokens", *(port.path[0] for port in ports if port.owner == "input")})

    @cached_property
    def budget_read(self) -> bool:
        """Whether a condition reads the budget."""
        return any(port.owner == "budget" for outgoing in self.ways.values() for way in outgoing for port in way.reads)

    @cached_property
    def words(self) -> frozenset[str]:
        """Texts that conditions compare with: the graph's own, so that a port with such a value holds no content."""
        terms = (way.term for outgoing in self.ways.values() for way in outgoing if way.term is not None)
        parts = (part for term in terms for part in parts_of(term) if isinstance(part, Constant))
        return frozenset(part.value for part in parts if isinstance(part.value, str))

    @cached_property
    def keys(self) -> frozenset[str]:
        """Names that the graph gives to what records hold: in conditions and references, as ids, labels and fields."""
        paths = [port.path for outgoing in self.ways.values() for way in outgoing for port in way.reads]
        for owner in (*(plan.options for plan in self.nodes.values()), *self.spec.models.values()):
            for reference in owner.references().values():
                targets = reference.targets if isinstance(reference, Reference) else ()
                paths += [tuple(port.split(".")) for _, port in targets]
        types = [kind for plan in self.nodes.values() for kind in plan.ports.values()]
        told = [*paths, *(kind.values or () for kind in types), *(kind.fields or () for kind in types)]
        return self.words.union(self.nodes, self.spec.models, *told)

    @cached_property
    def measured(self) -> frozenset[tuple[str, str]]:
        """Ports, with their owners, whose length conditions ask for."""
        terms = (way.term for outgoing in self.ways.values() for way in outgoing if way.term is not None)
        ports = (port for term in terms for port in measured_ports(term))
        return frozenset((port.owner, port.path[0]) for port in ports if port.owner != "params" and len(port.path) == 1)

    @cached_property
    def digraph(self) -> nx.MultiDiGraph[str]:
        """Nodes `start`, `end` and the graph's own; edges carry their `Way`."""
        return to_digraph(self.nodes, self.ways)

    @cached_property
    def group_of(self) -> Mapping[str, str]:
        """The group of each member."""
        return {member: plan.id for plan in self.nodes.values() for member in plan.members}

    @cached_property
    def live(self) -> frozenset[str]:
        """Answers that stream as they are written: nothing after their success can replace or lose them."""
        harmless = _harmless(self)
        return frozenset(name for name in self.nodes if _streams_live(self, name, harmless))

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Nodes whose output can be the result."""
        return tuple(name for name, plan in self.nodes.items() if plan.role == "answer" and name not in self.group_of)

    @cached_property
    def order(self) -> dict[str, int]:
        """Place of each node in one topological order."""
        return {name: index for index, name in enumerate(nx.topological_sort(self.digraph))}

    @cached_property
    def ancestors(self) -> Mapping[str, frozenset[str]]:
        """The nodes from which each node can be reached."""
        return {name: frozenset(nx.ancestors(self.digraph, name)) for name in self.digraph}

    @cached_property
    def closable(self) -> frozenset[str]:
        """Nodes that may be closed for a request: they have a model, or lead only to such nodes."""
        return self.closed_where(lambda plan: True)

    def closed_where(self, lacks: Callable[[NodePlan], bool]) -> frozenset[str]:
        """Nodes that a request cannot go to: the node's model lacks something, or every way on from there is closed.

        Members of groups too; a group is closed with its last member, one that needs them all with its first.
        """
        closed = {name for name, plan in self.nodes.items() if plan.model is not None and lacks(plan)}
        for name in reversed(self.order):
            if name in (START, END):
                continue
            members = [self.nodes[member] for member in self.nodes[name].members]
            lost = [member.id in closed for member in members]
            if self.nodes[name].cls.all_members_succeed:
                lost = [any(member.id in closed and member.common.on_failure is None for member in members)]
            if (lost and all(lost)) or all(way.target in closed for way in self.ways[name]):
                closed.add(name)
        return frozenset(closed)


def to_digraph(nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> nx.MultiDiGraph[str]:
    """The networkx form; two edges may join the same two nodes."""
    members = {member for plan in nodes.values() for member in plan.members}
    digraph: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    digraph.add_nodes_from([START, *(name for name in nodes if name not in members), END])
    for outgoing in ways.values():
        for way in outgoing:
            digraph.add_edge(way.source, way.target, key=way.index, way=way)
    return digraph


def _streams_live(graph: CheckedGraph, name: str, harmless: Mapping[str, bool]) -> bool:
    """Whether it streams, and once it has succeeded no other answer can be reached and nothing later can raise."""
    plan = graph.nodes[name]
    if plan.role != "answer" or plan.common.buffer or plan.cls.group or name in graph.group_of:
        return False
    if not plan.cls.streams(plan.options):
        return False
    return all(harmless[target] for target in _ways_on(graph, name)) and not _may_get_stuck(graph, name)


def _harmless(graph: CheckedGraph) -> dict[str, bool]:
    """Whether a walk that comes to a node ends well, with no answer from there on."""
    harmless = {END: True}
    for name in reversed(graph.order):
        if name in (START, END):
            continue
        plan = graph.nodes[name]
        sure = plan.role == "signal" and plan.common.on_failure is not None and not _may_get_stuck(graph, name)
        harmless[name] = sure and all(harmless[target] for target in _ways_on(graph, name))
    return harmless


def _may_get_stuck(graph: CheckedGraph, name: str) -> bool:
    """Whether the ways on may be closed for a request that could come to this node.

    A node all of whose ways are closed is closed itself, so it takes two targets, one of which can be closed.
    """
    targets = {way.target for way in graph.ways[name]}
    return len(targets) > 1 and not graph.closable.isdisjoint(_ways_on(graph, name))


def _ways_on(graph: CheckedGraph, name: str) -> set[str]:
    """Where a walk may go from a node that has succeeded."""
    return {way.target for way in graph.ways[name] if name not in way.proves.failed}


def check_shape(source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> bool:
    """Report the faults of the graph's shape: defaults, circles, nodes out of reach. False where there is a circle.

    Assumes that each edge joins known nodes; conditions may be faulty still.
    """
    digraph = to_digraph(nodes, ways)
    if START not in ways:
        source.report(
            "no_start", "no edge leaves `start`: add `- {from: start, to: <first node>}`", ("edges",), key=True
        )
    _check_defaults(source, nodes, ways)
    if _check_cycles(source, digraph):
        return False
    if START in ways:
        _check_reachability(source, nodes, digraph)
    return True


def check_ends(
    source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]], certainty: Certainty
) -> None:
    """Report ways into `end` without a succeeded answer, and signals whose failure nothing handles."""
    for way in (way for outgoing in ways.values() for way in outgoing if way.target == END):
        if not certainty.answered(way):
            default = way.term is None
            hint = "no answer node stands on some path to it" if default else "its `when` can be true without one"
            text = (
                f"`end` can be reached here with no succeeded answer ({hint}): route through an answer, "
                "or add `and <answer>.ok` to the condition"
            )
            source.report("no_answer", text, ("edges", way.index))
    _check_unhandled(source, nodes, ways)


def _check_defaults(source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
    for name, outgoing in ways.items():
        defaults = [way for way in outgoing if way.when is None]
        for way in defaults[1:]:
            text = f"{name!r} has a default edge already: give this one a `when`"
            source.report("two_defaults", text, ("edges", way.index))
        for way in outgoing:
            if defaults and way.index > defaults[0].index and way.when is not None:
                text = f"this edge is never looked at: it stands after the default edge of {name!r}; move it up"
                source.report("after_default", text, ("edges", way.index))
        faulty = any(way.when is not None and way.term is None for way in outgoing)
        if not defaults and not faulty and not _covers_an_enum(name, nodes, outgoing):
            source.report(
                "no_default",
                f"{name!r} has no default edge: end its edges with one without `when`, such as "
                f"`- {{from: {name}, to: {outgoing[-1].target}}}`",
                ("edges", outgoing[-1].index),
            )


def _covers_an_enum(name: str, nodes: Mapping[str, NodePlan], ways: tuple[Way, ...]) -> bool:
    """Whether the conditions name every value of one closed port of the node that they leave."""
    if name not in nodes:
        return False
    stand_in = nodes[name].common.on_failure
    for port, kind in nodes[name].ports.items():
        if kind.values and (stand_in is None or port in stand_in):
            named = [_values_taken(way.term, name, port) for way in ways if way.term is not None]
            if set(kind.values) <= frozenset().union(*named):
                return True
    return False


def _values_taken(term: Term, name: str, port: str) -> frozenset[Any]:
    """Values of a port for which the condition is surely true."""
    match term:
        case Comparison(operands=(Port(owner=owner, path=(read,)), Constant(value=value)), operators=("==",)) if (
            owner,
            read,
        ) == (name, port):
            return frozenset({value})
        case Comparison(operands=(Port(owner=owner, path=(read,)), Items(items=items)), operators=("in",)) if (
            owner,
            read,
        ) == (name, port):
            constant = all(isinstance(item, Constant) for item in items)
            return frozenset(item.value for item in items if isinstance(item, Constant)) if constant else frozenset()
        case Either(operands=operands):
            return frozenset().union(*(_values_taken(operand, name, port) for operand in operands))
        case _:
            return frozenset()


def _check_cycles(source: Source, digraph: nx.MultiDiGraph[str]) -> bool:
    found = False
    for component in nx.strongly_connected_components(digraph):
        inside = [data["way"] for _, target, data in digraph.out_edges(component, data=True) if target in component]
        if not inside:
            continue
        found = True
        last = max(inside, key=lambda way: way.index)
        circle = [last.source, *nx.shortest_path(digraph, last.target, last.source)]
        shown = circle if len(circle) <= 10 else [*circle[:8], "…", circle[-1]]
        text = f"the edges run in a circle: {' → '.join(shown)}; a second try is a second node"
        source.report("cycle", text, ("edges", last.index))
    return found


def _check_reachability(source: Source, nodes: Mapping[str, NodePlan], digraph: nx.MultiDiGraph[str]) -> None:
    members = {member for plan in nodes.values() for member in plan.members}
    reached = nx.descendants(digraph, START)
    leading = nx.ancestors(digraph, END)
    for name in nodes:
        if name in members:
            continue
        if name not in reached:
            source.report(
                "unreachable",
                f"no path from start leads to {name!r}: add an edge to it, or remove it",
                ("nodes", name),
                key=True,
            )
        elif name not in leading:
            text = f"{name!r} leads nowhere: add `- {{from: {name}, to: end}}`"
            source.report("dead_end", text, ("nodes", name), key=True)


def _check_unhandled(source: Source, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
    group_of = {member: plan.id for plan in nodes.values() for member in plan.members}
    handled = {
        (way.source, name)
        for outgoing in ways.values()
        for way in outgoing
        if way.term is not None
        for name in mentions_failure(way.term) - way.proves.succeeded
    }

    def fine(name: str) -> bool:
        plan = nodes[name]
        leaves = group_of.get(name, name)
        stood_in = plan.common.on_failure is not None or nodes[leaves].common.on_failure is not None
        if stood_in or not plan.can_fail:
            return True
        return (leaves, name) in handled or (leaves, leaves) in handled

    for name, plan in nodes.items():
        if plan.role != "signal" or fine(name):
            continue
        if plan.cls.all_members_succeed and all(map(fine, plan.members)):
            continue
        text = (
            f"when {name!r} fails, the request fails with it: "
            f"add `on_failure:` to it, or an edge with `when: {name}.failed`"
        )
        source.report("unhandled_failure", text, ("nodes", name), key=True, severity="warning")
