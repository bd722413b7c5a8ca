"""What an outcome file says of a graph's nodes: the state that each would end in, how good it is, and what it cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage

from dynflow.calibration.outcomes import Fault, Outcome, OutcomeFile, Row, outcome_error
from dynflow.errors import OutcomeError
from dynflow.graph import CheckedGraph, NodePlan
from dynflow.language.references import Reference
from dynflow.language.source import did_you_mean
from dynflow.language.spec import END, START
from dynflow.language.types import COMMON_PORTS, holds
from dynflow.ledger import Usage, cost
from dynflow.node import InnerFlow
from dynflow.request import Request, estimate_tokens
from dynflow.walk import State

if TYPE_CHECKING:
    from dynflow.flow import Flow

Bindings = Mapping[str, Sequence[str]]
"""Nodes by the name that the file has for their outcomes."""


@dataclass(frozen=True)
class RecordedNode:
    """One node's outcomes, in the rows' order; None in a row that has none."""

    states: Sequence[State | None]
    quality: Sequence[float | None]
    """None also where a signal's outcome has none."""
    estimated: int
    """Rows whose cost is an estimate, from the model's price and the lengths of prompt and response."""
    without_response: int
    """Rows among these that have no response, so that the prompt alone counts."""


@dataclass(frozen=True)
class Recorded:
    """The nodes that replay reads from the file, with what it says of them."""

    nodes: Mapping[str, RecordedNode]
    names: Mapping[str, str]
    """The name that the file has for each node's outcomes."""
    looked_for: frozenset[str] = frozenset()
    """All names that were looked for in the file."""
    missing: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """What to say where the walk comes to a node that a row has no outcome of: by node and row."""


@dataclass(frozen=True)
class Around:
    """Where the graph of a replay stands in another one."""

    prefix: str
    """How its names begin there, such as `tutor/`."""
    inputs: Sequence[Any]
    """What it is asked, for each row."""
    surely: bool = True
    """Whether a walk comes to it although no node fails."""
    read: frozenset[str] = frozenset()
    """The ports of its answers that are read there."""


def read_from_file(flow: Flow) -> tuple[str, ...]:
    """Nodes whose outcomes can be read: answers, whatever has a model that writes, sub-graphs, races.

    A signal that reads by an encoder runs for real, like any that measures.
    """
    graph, inner = flow.checked, flow.resources.subflows
    writes = {name for name, settings in graph.spec.models.items() if settings.provider != "encoder"}
    return tuple(
        name
        for name, plan in graph.nodes.items()
        if name not in graph.group_of or graph.nodes[graph.group_of[name]].role != "answer"
        if plan.role == "answer" or plan.model in writes or name in inner
    )


def walked_inside(flow: Flow, file: OutcomeFile, bindings: Bindings) -> dict[str, InnerFlow]:
    """Sub-graphs that are walked like the graph itself: the file has no outcomes of them as a whole.

    One whose request is another node's output is not: what it would be asked depends on the params.
    """
    taken = {*file.names, *(node for nodes in bindings.values() for node in nodes)}
    found: dict[str, InnerFlow] = {}
    for name in read_from_file(flow):
        inner = flow.resources.cold_node(name).inner()
        if inner is None or name in taken:
            continue
        if inner.request is None or all(owner == "input" for owner, _ in inner.request.targets):
            found[name] = inner
    return found


def recorded(
    flow: Flow,
    file: OutcomeFile,
    requests: Sequence[Request],
    bindings: Bindings,
    inside: Mapping[str, InnerFlow],
    around: Around,
) -> Recorded:
    """What the file says of the graph's nodes; `bindings` are those that the user gave.

    A node's outcomes are found under the name bound to it, else its id, its entry of `models:`, or that model's own
    name. Those `inside` are walked, not read. Raises `OutcomeError` with every row that lacks what the walk will surely
    want.
    """
    graph = flow.checked
    prefix = around.prefix
    names = [name for name in read_from_file(flow) if name not in inside]
    bound = _bound(graph, file, names, bindings, inside, prefix)
    wanted = reachable(graph) if around.surely else frozenset()
    read = ports_read(graph, names, around.read)
    faults: list[Fault] = []
    found: dict[str, RecordedNode] = {}
    known_as: dict[str, str] = {}
    looked_for: set[str] = set()
    missing: dict[str, dict[int, str]] = {}
    for name in names:
        aliases = [bound[name]] if name in bound else _aliases(flow, name, prefix)
        looked_for |= {*aliases}
        used = next((alias for alias in aliases if alias in file.names), None)
        if used is None and name in wanted:
            raise OutcomeError(
                f"{file.path}: no row has an outcome of the node {prefix + name!r} (looked for {_quoted(aliases)}; "
                f"there are outcomes of {_quoted(file.names)}): bind one of them, "
                f"--outcome {file.names[0]}={prefix}{name}"
                + (f", or give outcomes of {prefix.rstrip('/')!r} as a whole" if prefix else "")
            )
        known_as[name] = used or aliases[0]
        ports = read.get(name, frozenset())
        node, wrong, lacking = _node(flow, graph.nodes[name], file.rows, requests, aliases, ports, prefix)
        found[name] = node
        missing[name] = lacking
        faults += wrong
        if name in wanted:
            faults += [Fault(file.rows[index].line, text) for index, text in lacking.items()]
    if faults:
        raise outcome_error(file.path, sorted(faults, key=lambda fault: fault.line))
    return Recorded(found, known_as, frozenset(looked_for), missing)


def _bound(
    graph: CheckedGraph,
    file: OutcomeFile,
    names: Sequence[str],
    bindings: Bindings,
    inside: Mapping[str, InnerFlow],
    prefix: str,
) -> dict[str, str]:
    """The name of each node's outcomes, as the user bound them. Raises `OutcomeError`."""
    found: dict[str, str] = {}
    told = [f"{prefix}{name}" for name in names]
    for outcome, nodes in bindings.items():
        if outcome not in file.names:
            hint = did_you_mean(outcome, file.names)
            raise OutcomeError(f"{file.path} has no outcomes of {outcome!r}{hint}: there are {_quoted(file.names)}")
        for node in nodes:
            if node.partition("/")[0] in inside:
                continue  # its own graph looks at it
            whole = prefix + node
            if node not in graph.nodes:
                hint = did_you_mean(whole, told)
                raise OutcomeError(f"the graph has no node {whole!r}{hint}: bind {outcome!r} to {_quoted(told)}")
            if node not in names:
                raise OutcomeError(f"{whole!r} is run for real: outcomes are bound to {_quoted(told)}")
            if found.get(node, outcome) != outcome:
                raise OutcomeError(f"{whole!r} is bound to {found[node]!r} and to {outcome!r}: bind it once")
            found[node] = outcome
    return found


def _aliases(flow: Flow, name: str, prefix: str) -> list[str]:
    """Names under which a file may hold a node's outcomes."""
    model = flow.checked.nodes[name].model
    if model is None:
        return [prefix + name]
    settings = flow.resources.model_settings(model)
    return [
        prefix + name,
        prefix + model,
        *([settings.model] if settings.model and isinstance(settings.model, str) else []),
    ]


def reachable(graph: CheckedGraph) -> frozenset[str]:
    """Nodes that a walk can come to without a node having surely failed."""
    seen = {START}
    stack = [START]
    while stack:
        for way in graph.ways.get(stack.pop(), ()):
            if not way.proves.failed and way.target not in seen:
                seen.add(way.target)
                stack.append(way.target)
    return frozenset(seen).union(*(graph.nodes[name].members for name in seen - {START, END}))


def ports_read(graph: CheckedGraph, names: Collection[str], outside: frozenset[str]) -> dict[str, frozenset[str]]:
    """Ports that conditions read, or options of nodes that run, by the node that has them.

    `outside`: those of answers that the graph around this one reads.
    """
    pairs = {(port.owner, port.path[0]) for ways in graph.ways.values() for way in ways for port in way.reads}
    for plan in graph.nodes.values():
        if plan.id in names:
            continue
        for reference in plan.options.references().values():
            if isinstance(reference, Reference):
                pairs |= {(owner, port.partition(".")[0]) for owner, port in reference.targets}
    found = {name: frozenset(port for owner, port in pairs if owner == name) for name in names}
    return {name: ports | outside if name in graph.answers else ports for name, ports in found.items()}


def _node(
    flow: Flow,
    plan: NodePlan,
    rows: Sequence[Row],
    requests: Sequence[Request],
    aliases: Sequence[str],
    read: frozenset[str],
    prefix: str,
) -> tuple[RecordedNode, list[Fault], dict[int, str]]:
    """A node's outcomes, what is wrong with them, and what to say in rows that have none."""
    states: list[State | None] = []
    quality: list[float | None] = []
    faults: list[Fault] = []
    missing: dict[int, str] = {}
    whole = prefix + plan.id
    estimated = without_response = 0
    for index, (row, request) in enumerate(zip(rows, requests, strict=True)):
        outcome = next((row.outcomes[alias] for alias in aliases if alias in row.outcomes), None)
        if outcome is None:
            missing[index] = f"no outcome of {whole!r}: add one as {_quoted(aliases)}"
            states.append(None)
            quality.append(None)
            continue
        if plan.role == "answer" and outcome.quality is None:
            faults.append(Fault(row.line, f"the outcome of {whole!r}, an answer, has no quality: add it, 0 to 1"))
        usd = outcome.usd
        if usd is None and plan.model is not None:
            usd = _estimate(flow, plan, request, outcome)
            estimated += usd is not None and usd > 0
            without_response += usd is not None and usd > 0 and outcome.response is None
        elif usd is None and plan.id not in flow.resources.subflows:
            usd = 0.0
        ports, wrong = _ports(plan, whole, outcome, request, read, usd)
        faults += [Fault(row.line, text) for text in wrong]
        stand_in = plan.common.on_failure if outcome.error is not None else None
        states.append(
            State(
                outcome.error is None or stand_in is not None,
                ports if stand_in is None else stand_in,
                outcome.error if stand_in is None else None,
                outcome.seconds or 0.0,
                usd,
                rescued=stand_in is not None,
            )
        )
        quality.append(outcome.quality)
    return RecordedNode(states, quality, estimated, without_response), faults, missing


def _estimate(flow: Flow, plan: NodePlan, request: Request, outcome: Outcome) -> float | None:
    """USD by the model's price, for the request's and the response's estimated tokens; None where it has no price."""
    assert plan.model is not None
    system = getattr(plan.options, "system", None)
    prompt = request.tokens + (estimate_tokens(system) if isinstance(system, str) else 0)
    usage = Usage(plan.model, prompt, estimate_tokens(outcome.response or ""), estimated=True)
    return cost(flow.resources.known(plan.model).price, usage, outcome.seconds or 0.0)


def _ports(
    plan: NodePlan, whole: str, outcome: Outcome, request: Request, read: frozenset[str], usd: float | None
) -> tuple[dict[str, Any], list[str]]:
    """The ports that the graph reads of a node that succeeded, and what is wrong with them."""
    if outcome.error is not None:
        return {}, []
    ports: dict[str, Any] = {}
    wrong: list[str] = []
    for name in sorted(read):
        declared = plan.ports.get(name)
        if name == "usd" and name not in plan.ports:
            if usd is None:
                wrong.append(f"the outcome of {whole!r} has no usd, its price is unknown, and the graph reads it")
        elif name == "seconds":
            if outcome.seconds is None:
                wrong.append(f'the outcome of {whole!r} has no "seconds", which the graph reads')
        elif declared is None or name in COMMON_PORTS:
            continue
        elif name in outcome.ports:
            value = outcome.ports[name]
            fits = value is None or (holds(declared.kind, value) and (not declared.values or value in declared.values))
            if not fits:
                wrong.append(f"the port {name!r} of {whole!r} takes {declared}; {value!r} is not")
            ports[name] = value
        elif name == "tokens":
            ports[name] = request.tokens + estimate_tokens(outcome.response or "")
        elif outcome.response is not None and declared.kind == "message":
            ports[name] = AIMessage(outcome.response)
        elif outcome.response is not None and name == "text":
            ports[name] = outcome.response
        elif declared.kind == "message" or name == "text":
            wrong.append(f'the outcome of {whole!r} has no "response", which the graph reads: add it')
        else:
            wrong.append(
                f'the outcome of {whole!r} lacks its port {name!r}, which the graph reads: add "ports": {{"{name}": …}}'
            )
    return ports, wrong


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "nothing"
