"""The walk, pure: given what the nodes gave so far, which node is next. No I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from dynflow.errors import NoEligibleAnswer
from dynflow.graph import CheckedGraph, Way
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.spec import END, START

_RAN = frozenset({"seconds", "usd"})
_EXPLAINS = (bool, int, float, type(None))
_OUTSIDE = frozenset({"params", "input", "budget"})


@dataclass(frozen=True, slots=True)
class State:
    """How a node's run ended. `ports` are those of a success, or of `on_failure`."""

    ok: bool
    ports: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    usd: float | None = 0.0
    rescued: bool = False
    """It failed and `on_failure` stood in: it counts as succeeded, and the path as degraded."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One edge taken: why, in numbers."""

    source: str
    target: str
    edge: int
    """Place in the file's list of edges."""
    when: str | None
    """The condition that was true; None on a default edge."""
    values: Mapping[str, Any]
    """What the conditions looked at on the way to this decision had as values; unknown ones are left out."""
    degraded: bool = False
    """The edge leaves a failed node, or one that `on_failure` stood in for."""


class Walk:
    """One request's way through a graph: `at` is where it stands, `states` what is known."""

    def __init__(
        self,
        graph: CheckedGraph,
        outside: Callable[[str, str], Any],
        closed: Collection[str] = (),
    ) -> None:
        """`outside(owner, name)` reads params, input and budget; `closed` are nodes this request cannot go to."""
        self.graph = graph
        self.states: dict[str, State] = {}
        self.decisions: list[Decision] = []
        self.at = START
        self._outside = outside
        self.closed = closed

    @property
    def degraded(self) -> bool:
        """Whether the path left a failed node, or used `on_failure`."""
        return any(decision.degraded for decision in self.decisions)

    @property
    def finished(self) -> bool:
        """Whether the walk has reached `end`."""
        return self.at == END

    def lookup(self, owner: str, port: str) -> Any:
        """The value of a port, or `UNKNOWN`."""
        if owner in _OUTSIDE:
            return self._outside(owner, port)
        state = self.states.get(owner)
        if state is None:
            return False if port in ("ok", "failed") else UNKNOWN
        if port == "ok":
            return state.ok
        if port == "failed":
            return not state.ok
        if port in _RAN:
            value = getattr(state, port)
            return UNKNOWN if value is None else value
        if port == "error":
            return state.error
        return state.ports.get(port, UNKNOWN) if state.ok else UNKNOWN

    def advance(self) -> Decision | None:
        """Take the first edge whose condition is true; None where the node failed and no edge is.

        Raises `NoEligibleAnswer` where every edge that could be taken is closed for this request.
        """
        state = self.states.get(self.at)
        failed = state is not None and not state.ok
        values: dict[str, Any] = {}
        passed_over: list[str] = []
        for way in self.graph.ways[self.at]:
            if way.evaluate is None:
                if failed:
                    continue
            else:
                self._note(way, values)
                if way.evaluate(self.lookup) is not True:
                    continue
            if way.target in self.closed:
                passed_over.append(way.target)
                continue
            if self.graph.budget_read:  # money and time pass: what the other edges would have seen is known now only
                for other in self.graph.ways[self.at]:
                    self._note(other, values, frozenset({"budget"}))
            decision = Decision(
                way.source,
                way.target,
                way.index,
                way.when,
                values,
                degraded=failed or (state is not None and state.rescued),
            )
            self.decisions.append(decision)
            self.at = way.target
            return decision
        if failed and not passed_over:
            return None
        names = ", ".join(passed_over)
        if not passed_over:
            raise NoEligibleAnswer(f"no edge out of {self.at!r} is true, and it has no default edge")
        raise NoEligibleAnswer(f"from {self.at!r} no way on fits this request: {names} cannot take it")

    def result(self) -> str | None:
        """The last answer on the path that succeeded."""
        for decision in reversed(self.decisions):
            name = decision.source
            if name != START and self.graph.nodes[name].role == "answer" and self.states[name].ok:
                return name
        return None

    def _note(self, way: Way, values: dict[str, Any], owners: Collection[str] | None = None) -> None:
        for port in way.reads:
            if owners is not None and (port.owner not in owners or ".".join((port.owner, *port.path)) in values):
                continue
            value = self.lookup(port.owner, port.path[0])
            if len(port.path) > 1 and isinstance(value, Mapping):
                value = value.get(port.path[1], UNKNOWN)
            # Numbers and labels explain a decision; any other text is content, which no record holds.
            if isinstance(value, _EXPLAINS) or (isinstance(value, str) and self._is_label(port.owner, port.path[0])):
                values[".".join((port.owner, *port.path))] = value

    def _is_label(self, owner: str, port: str) -> bool:
        """Whether a port's texts come from the graph itself: a param, or one of a closed set."""
        if owner in _OUTSIDE:
            return owner == "params"
        plan = self.graph.nodes[owner]
        return port == "error" or (port in plan.ports and plan.ports[port].values is not None)
