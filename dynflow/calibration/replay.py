"""Replay: a graph walks recorded requests with many settings of its params at once, and no model is called.

Signals run for real, once for each request and each different input; what answers and models gave is read from an
outcome file. A sub-graph that the file has no outcomes of is walked too, and names inside it are `node/inner`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration.columns import Flags, Floats
from dynflow.calibration.inside import UNTOLD
from dynflow.calibration.kept import KeptOutputs
from dynflow.calibration.outcomes import Fault, OutcomeFile, outcome_error
from dynflow.calibration.recorded import Around, Bindings, RecordedNode, ports_read, reachable, recorded, walked_inside
from dynflow.calibration.signals import Progress, Signals
from dynflow.calibration.stops import Stops
from dynflow.calibration.walked import Params, Walked, joined
from dynflow.calibration.walking import Walking, settings_columns
from dynflow.eligible import closed_nodes
from dynflow.errors import InputError, OutcomeError
from dynflow.graph import NodePlan
from dynflow.language.expression import Term
from dynflow.language.references import Reference
from dynflow.language.spec import ParamBody
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.flow import Flow

_MOST_CELLS = 4_000_000
"""Settings times rows that are walked at once."""


class Replay:
    """A graph over an outcome file, ready to walk it with any params."""

    def __init__(
        self,
        flow: Flow,
        file: OutcomeFile,
        bindings: Bindings | None = None,
        progress: Progress = lambda done, total, what: None,
        kept: KeptOutputs | None = None,
        around: Around | None = None,
    ) -> None:
        """`kept` holds what signals gave in earlier runs, and takes what they give now.

        Raises `OutcomeError` with every row that the graph cannot take, or that lacks an outcome it needs.
        """
        bindings = bindings or {}
        around = around or Around("", [row.input for row in file.rows])
        self.flow = flow
        self.graph = flow.checked
        self.file = file
        self.rows = file.rows
        self.prefix = around.prefix
        self.requests = _requests(flow, file, around.inputs)
        self.signals = Signals(flow, progress, kept)
        self.stops = Stops(flow, self.requests, self.defaults, progress)
        self.closed = self._closed_nodes()
        parts = walked_inside(flow, file, bindings)
        self.recorded = recorded(flow, file, self.requests, bindings, parts, around)
        self.handed = {name: part.values for name, part in parts.items()}
        """The params that nodes hand to their sub-graphs: a literal or a reference."""
        self.inside: dict[str, Replay] = {}
        """Sub-graphs that are walked, by node."""
        wanted = reachable(self.graph) if around.surely else frozenset()
        read = ports_read(self.graph, parts, around.read)
        for name, part in parts.items():
            if told := sorted(read[name] & UNTOLD):
                whole = f"{around.prefix}{name}"
                raise OutcomeError(f"the graph reads {whole}.{told[0]}: give outcomes of {whole!r} as a whole, with it")
            asked = around.inputs
            if part.request is not None:
                asked = [_asked(request, part.request) for request in self.requests]
            below = {outcome: _below(name, nodes) for outcome, nodes in bindings.items()}
            inner = Around(f"{around.prefix}{name}/", asked, name in wanted, read[name])
            bound = {outcome: nodes for outcome, nodes in below.items() if nodes}
            self.inside[name] = Replay(part.flow, file, bound, progress, kept, inner)

    def __len__(self) -> int:
        return len(self.rows)

    # What there is

    @property
    def defaults(self) -> Params:
        """The params as the graph has them."""
        return {name: body.default for name, body in self.flow.params.items() if "/" not in name}

    @cached_property
    def stopping(self) -> Mapping[str, str]:
        """Params marked `tune: true` by which nodes read from the file stop early, with these nodes.

        What such a node gave is recorded as it was then, so that the file does not tell what another value would do.
        """
        rules = {name: self.flow.resources.cold_node(name).stop_rule(self.defaults) for name in self.recorded.nodes}
        params = self.graph.spec.params
        return {rule.param: name for name, rule in rules.items() if rule is not None and params[rule.param].tune}

    @cached_property
    def knobs(self) -> Mapping[str, ParamBody]:
        """Params marked `tune: true`, with those of sub-graphs that are walked and that no node sets by `with:`."""
        found = {name: body for name, body in self.graph.spec.params.items() if body.tune and name not in self.stopping}
        for name, inner in self.inside.items():
            own = {knob: body for knob, body in inner.knobs.items() if knob not in self.handed[name]}
            found |= {f"{name}/{knob}": body for knob, body in own.items()}
        return found

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All nodes, with those of sub-graphs that are walked."""
        return (*self.graph.nodes, *(f"{name}/{each}" for name, inner in self.inside.items() for each in inner.names))

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Answers that a walk can come to without a node having failed; those of sub-graphs in their place."""
        wanted = reachable(self.graph)
        found: list[str] = []
        for name in self.graph.answers:
            if name in wanted:
                inner = self.inside.get(name)
                found += [name] if inner is None else [f"{name}/{each}" for each in inner.answers]
        return tuple(found)

    @property
    def baseline(self) -> str | None:
        """The answer that the graph names as its baseline; of a sub-graph that one's."""
        name = self.graph.spec.baseline
        if name is None or name not in self.inside:
            return name
        inner = self.inside[name].baseline
        return None if inner is None else f"{name}/{inner}"

    @cached_property
    def recorded_nodes(self) -> Mapping[str, RecordedNode]:
        """The nodes that are read from the file, with those of sub-graphs that are walked."""
        found = dict(self.recorded.nodes)
        for name, inner in self.inside.items():
            found |= {f"{name}/{each}": node for each, node in inner.recorded_nodes.items()}
        return found

    @cached_property
    def looked_for(self) -> frozenset[str]:
        """Names of outcomes that were looked for in the file, for this graph and those inside it."""
        return self.recorded.looked_for.union(*(inner.looked_for for inner in self.inside.values()))

    def plan(self, name: str) -> NodePlan:
        """A node's plan, by its whole name."""
        node, _, rest = name.partition("/")
        return self.inside[node].plan(rest) if rest else self.graph.nodes[node]

    def outcome_quality(self, node: str) -> Floats:
        """The quality [n] of one node's answers, whoever asks for them; NaN where a row has none."""
        quality = self.recorded_nodes[node].quality
        return np.array([math.nan if value is None else value for value in quality])

    def outcome_usd(self, node: str) -> Floats:
        """The cost [n] of one node's answers; NaN where nobody knows."""
        states = self.recorded_nodes[node].states
        return np.array([math.nan if state is None or state.usd is None else state.usd for state in states])

    # How signals fared

    @property
    def failures(self) -> Mapping[str, int]:
        """How often a signal failed, by node: on different requests, or different values of what it reads."""
        return Counter({name: count for place, part in self.parts() for name, count in _named(place, part.failures)})

    @property
    def first_failure(self) -> Mapping[str, Exception]:
        """How each signal failed first."""
        return {name: error for place, part in self.parts() for name, error in _named(place, part.first_failure)}

    @property
    def succeeded(self) -> frozenset[str]:
        """Signals that gave anything at all."""
        return frozenset(f"{place}{name}" for place, part in self.parts() for name in part.succeeded)

    def parts(self) -> Iterator[tuple[str, Signals]]:
        """The signals of this graph and of those inside it, with what their names begin with here."""
        yield "", self.signals
        for name, inner in self.inside.items():
            yield from ((f"{name}/{place}", part) for place, part in inner.parts())

    # Walks

    def walk(self, settings: Sequence[Params]) -> Walked:
        """Walk every row under every setting; params that a setting leaves out have their defaults.

        Raises `OutcomeError` where the walk comes to a node that a row has no outcome of.
        """
        step = max(1, _MOST_CELLS // len(self.rows))
        parts = [self._walked(settings[start : start + step]) for start in range(0, len(settings), step)]
        return parts[0] if len(parts) == 1 else joined(parts)

    def _walked(self, settings: Sequence[Params]) -> Walked:
        walk = self.walking(settings)
        called = {name: walk.called(name) for name in self.names}
        return Walked(
            [{**self.defaults, **setting} for setting in settings],
            walk.quality,
            walk.spent,
            walk.answer,
            self.names,
            called,
        )

    def walking(self, settings: Sequence[Params]) -> Walking:
        """A walk with all that nodes gave on the way."""
        start = np.ones((len(settings), len(self.rows)), dtype=bool)
        return Walking(self, settings_columns(settings, self.defaults), start)

    def numbers(
        self, settings: Sequence[Params], knob: str, beside: Callable[[Replay, str], list[Term]]
    ) -> list[Floats]:
        """The different numbers that conditions and nodes compare a param with under these settings, wherever it goes.

        `beside(replay, name)` gives the terms of one graph that stand beside the param that it knows by this name.
        """
        found: list[Floats] = []
        stack = [(self.walking(settings), knob)]
        while stack:
            walk, name = stack.pop()
            found += [walk.different(term) for term in beside(walk.replay, name)] + walk.beside(name)
            stack += [(walk.inside[node], inner) for node, inner in walk.replay.goes_to(name) if node in walk.inside]
        return found

    def goes_to(self, knob: str) -> Iterator[tuple[str, str]]:
        """The sub-graphs that a param belongs to, or is handed to, with what it is called there."""
        node, _, rest = knob.partition("/")
        if rest:
            yield node, rest
            return
        for name in self.inside:
            for param, value in self.handed[name].items():
                if isinstance(value, Reference) and ("params", knob) in value.targets:
                    yield name, param

    def _closed_nodes(self) -> Mapping[str, Flags]:
        """Nodes that some requests cannot go to, with these requests [n]."""
        closed: dict[str, Flags] = {}
        for row, request in enumerate(self.requests):
            for name in closed_nodes(self.graph, self.flow.resources.known, request):
                closed.setdefault(name, np.zeros(len(self.rows), dtype=bool))[row] = True
        return closed


def _requests(flow: Flow, file: OutcomeFile, inputs: Sequence[Any]) -> list[Request]:
    """The rows as requests. Raises `OutcomeError` with every one that the graph cannot take."""
    declared = flow.checked.spec.inputs
    requests: list[Request] = []
    faults: list[Fault] = []
    for row, asked in zip(file.rows, inputs, strict=True):
        try:
            requests.append(Request(asked, declared=declared))
        except InputError as error:
            faults.append(Fault(row.line, str(error)))
    if faults:
        raise outcome_error(file.path, faults)
    return requests


def _asked(request: Request, reference: Reference) -> Any:
    """What a sub-graph is asked: a key of the request; the first that is given."""
    values = (request.port(port) for _, port in reference.targets)
    return next((value for value in values if value is not None), None)


def _below(name: str, nodes: Sequence[str]) -> list[str]:
    """The bindings of nodes inside another one, as it knows them."""
    return [node.removeprefix(f"{name}/") for node in nodes if node.startswith(f"{name}/")]


def _named(place: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"{place}{name}", value) for name, value in values.items())
