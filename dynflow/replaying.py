"""Replay: recorded requests walk again, over what nodes gave then, so that nothing runs and nothing is paid.

The walk is the real one. It stops where the record cannot say how it goes on: at a node that did not run then, at one
that would run on something else now, or at a condition over content that the record does not hold.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dynflow.errors import InputError, NoEligibleAnswer
from dynflow.flow import Flow
from dynflow.graph import NodePlan, Way
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.references import Reference
from dynflow.language.spec import END
from dynflow.request import Request
from dynflow.trace_file import request_of
from dynflow.walk import Decision, State, Walk

Record = Mapping[str, Any]
"""A line of a trace file, or what `FlowResult.metadata()` gives."""
Verdict = Literal["same", "other", "untold"]


@dataclass(frozen=True)
class Replayed:
    """How a recorded request would go now."""

    verdict: Verdict
    """`same` path, `other` path, or `untold`: the record does not say."""
    recorded: tuple[str, ...]
    """The path it took."""
    decisions: tuple[Decision, ...]
    """Those that it would take now, so far as the record says."""
    answer: str | None = None
    """The node whose answer it would get; None where that is untold, or the request would fail. Where the walk comes to
    an answer that did not run, and whose success would settle it, that answer is taken to succeed."""
    usd: float | None = None
    """What the path would cost, by what its nodes cost then; None where that is untold or unknown."""
    needs: str | None = None
    """The node that the walk would come to and that did not run then."""
    why: str | None = None
    """Why it is untold, in words."""

    @property
    def path(self) -> tuple[str, ...]:
        """The path now, so far as the record says."""
        return ("start", *(decision.target for decision in self.decisions)) if self.decisions else ()


def replay(flow: Flow, record: Record, params: Mapping[str, Any] | None = None) -> Replayed:
    """Walk a recorded request again, with these params (`node/param` for a sub-graph's) in the place of its own.

    Raises `InputError` where the record is damaged.
    """
    try:
        return _Replay(flow, record, params or {}).result()
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> InputError:
    return InputError(f"this is no whole decision record ({type(error).__name__}: {error})")


class _Untold(Exception):
    def __init__(self, why: str, needs: str | None = None) -> None:
        super().__init__(why)
        self.needs = needs


class _Measured(dict[Any, Any]):
    """Stands for content of which the record holds the length alone: whatever else is asked of it is unknown."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __eq__(self, other: object) -> bool:
        raise NotImplementedError  # the language takes what does not compare for unknown

    __hash__ = None


class _Ports(dict[str, Any]):
    """A node's ports as the record has them; asking for one that it has not is noted."""

    def __init__(self, values: Mapping[str, Any], replay: _Replay, owner: str) -> None:
        super().__init__(values)
        self._replay = replay
        self._owner = owner

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return self._replay.withheld(self._owner, key)
        return self._replay.told(self._owner, key, self[key])


class _Fields(dict[str, Any]):
    """A record's fields as far as the graph named them; asking another graph's record for one more is noted."""

    def __init__(self, values: Mapping[str, Any], length: int, absent: Callable[[str], Any]) -> None:
        super().__init__(values)
        self._length = length
        self._absent = absent

    def __len__(self) -> int:
        return self._length

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else self._absent(key)


class _Replay:
    """One request on its way once more."""

    def __init__(self, flow: Flow, record: Record, params: Mapping[str, Any]) -> None:
        self.flow = flow
        self.graph = flow.checked
        self.record = record
        self.recorded = tuple(record["path"])
        self.taken = {decision["from"]: decision for decision in record["decisions"]}
        self.ran = {node["node"]: node for node in record["nodes"]}
        self.before = {name: set(list(self.ran)[:place]) for place, name in enumerate(self.ran)}
        used = {**{name: body.default for name, body in self.graph.spec.params.items()}, **record["params"]}
        self.params = {**used, **{name: value for name, value in params.items() if "/" not in name}}
        self.changed = {name for name, value in self.params.items() if value != used.get(name)}
        self.inner = {name: value for name, value in params.items() if "/" in name}
        self.content = record.get("content")
        self.broke_off = record["outcome"] in ("cancelled", "interrupted")
        self.walk = Walk(self.graph, self._outside, frozenset(record.get("closed", ())))
        self.missing: list[str] = []
        """Ports asked for since the last condition began that the record does not hold."""

    def result(self) -> Replayed:
        """Walk as far as the record says."""
        if not self.recorded:  # it was refused, or no way on from `start` fitted it
            return Replayed("same", (), ())
        try:
            answer = self._go()
        except _Untold as stop:
            return self._replayed("untold", None, stop)
        return self._replayed("same" if self._path() == self.recorded else "other", answer, None)

    def _replayed(self, verdict: Verdict, answer: str | None, stop: _Untold | None) -> Replayed:
        usd = None if stop else self._usd(same=verdict == "same")
        why, needs = (str(stop), stop.needs) if stop else (None, None)
        if needs in self.graph.live:
            answer = needs
        return Replayed(verdict, self.recorded, tuple(self.walk.decisions), answer, usd, needs, why)

    def _go(self) -> str | None:
        """Walk to the end, or to where the request ended then; the node that answers. Raises `_Untold`."""
        while not self.walk.finished:
            if self.walk.at in self.graph.ways:
                for way in self.graph.ways[self.walk.at]:
                    if self._holds(way):
                        break
            try:
                decision = self.walk.advance()
            except NoEligibleAnswer:
                return None
            if decision is None or decision.target == END:
                break
            if self.broke_off and self._path() == self.recorded:
                return None  # the request ended here then: it was cancelled, or the answer broke off
            self._arrive(self.graph.nodes[decision.target])
        return self.walk.result() if self.walk.finished else None

    def _path(self) -> tuple[str, ...]:
        return ("start", *(decision.target for decision in self.walk.decisions))

    @property
    def _astray(self) -> bool:
        """Whether the path is another one by now."""
        path = self._path()
        return path != self.recorded[: len(path)]

    def _holds(self, way: Way) -> bool:
        """Whether an edge is surely taken. Raises `_Untold` where that hangs on what the record does not hold.

        Conditions are monotone in Kleene's logic: with unknown in the place of a missing value, true stays true and
        false stays false whatever the value was.
        """
        if way.evaluate is None:
            state = self.walk.states.get(way.source)
            return (state is None or state.ok) and way.target not in self.walk.closed
        self.missing.clear()
        holds = way.evaluate(self.walk.lookup)
        if not isinstance(holds, bool) and self.missing:
            raise _Untold(f"`{way.when}` reads {self.missing[0]}, which the record does not hold")
        return holds is True and way.target not in self.walk.closed

    def _arrive(self, plan: NodePlan) -> None:
        """Take over what a node gave then. Raises `_Untold` where it did not run, or would give something else."""
        if plan.id not in self.ran:
            raise _Untold(f"{plan.id} did not run then", plan.id)
        for each in (plan, *(self.graph.nodes[name] for name in plan.members)):
            if each.id in self.ran:
                self._check_input(each)
        if plan.id in self.record.get("inner", {}) and plan.id in self.flow.resources.subflows:
            self._check_inside(plan)
        for name in (plan.id, *plan.members):
            if name in self.ran:
                self.walk.states[name] = self._state(self.graph.nodes[name])

    def _check_input(self, plan: NodePlan) -> None:
        """Raise `_Untold` unless a node would run on what it ran on then."""
        settings = self.graph.spec.models.get(plan.model or "")
        for reference in [*plan.options.references().values(), *(settings.references().values() if settings else ())]:
            for owner, port in reference.targets if isinstance(reference, Reference) else ():
                if owner == "params" and port.partition(".")[0] in self.changed:
                    raise _Untold(f"{plan.id} would run with another params.{port}")
                ran, runs = owner in self.before[plan.id], owner in self.walk.states
                if owner in self.graph.nodes and ran != runs:
                    raise _Untold(f"{plan.id} reads {owner}, which {'ran' if ran else 'did not run'} before it then")

    def _check_inside(self, plan: NodePlan) -> None:
        """Raise `_Untold` unless a sub-graph would go the same way."""
        prefix = f"{plan.id}/"
        own = {name.removeprefix(prefix): value for name, value in self.inner.items() if name.startswith(prefix)}
        inner = _Replay(self.flow.resources.subflows[plan.id], self.record["inner"][plan.id], own).result()
        if inner.verdict != "same":
            why = inner.why or f"it would go {' → '.join(inner.path)}"
            raise _Untold(f"inside {plan.id}: {why}", f"{prefix}{inner.needs}" if inner.needs else None)

    def _state(self, plan: NodePlan) -> State:
        node = self.ran[plan.id]
        stand_in = plan.common.on_failure
        if not node["ok"] and stand_in is not None:
            return State(True, stand_in, None, node["seconds"], node["usd"], rescued=True)
        ports = _Ports(node["values"], self, plan.id)
        rescued = node["ok"] and self.taken.get(plan.id, {}).get("degraded", False)
        return State(node["ok"], ports, node.get("error"), node["seconds"], node["usd"], rescued)

    def _outside(self, owner: str, name: str) -> Any:
        if owner == "params":
            return self.params[name]
        if owner == "budget":
            # Another path has spent other money and time by now.
            values = {} if self._astray else self.taken.get(self.walk.at, {}).get("values", {})
            value = values.get(f"budget.{name}", UNKNOWN)
            return math.inf if value is None else self.withheld(owner, name) if value is UNKNOWN else value
        if name in self.record["input"]:
            return self.told(owner, name, self.record["input"][name])
        if self.content is not None:
            return Request(request_of(self.content["request"]), declared=self.graph.spec.inputs).port(name)
        return self.withheld(owner, name)

    def told(self, owner: str, name: str, value: Any) -> Any:
        """A value that the record holds. Of a record it holds what its graph named, and not the others' number."""
        if not isinstance(value, Mapping):
            return value
        length = self.record.get("lengths", {}).get(f"{owner}.{name}")
        if length is None and (owner, name) in self.graph.measured:
            return self.withheld(owner, name)
        named_all = self.record["graph_hash"] == self.flow.graph_hash

        def absent(key: str) -> Any:
            return UNKNOWN if named_all else self.withheld(owner, f"{name}.{key}")

        return _Fields(value, len(value) if length is None else length, absent)

    def withheld(self, owner: str, name: str) -> Any:
        """What stands for a value that the record does not hold; that it was asked for is noted."""
        self.missing.append(f"{owner}.{name}")
        length = self.record.get("lengths", {}).get(f"{owner}.{name}")
        return UNKNOWN if length is None else _Measured(length)

    def _usd(self, *, same: bool) -> float | None:
        """What the path costs: on the same one all that the request cost, also what was called off."""
        ledger = self.record.get("ledger")
        if ledger is None:  # a sub-graph's is part of the ledger around it
            return None
        if same:
            return ledger["usd"]  # type: ignore[no-any-return]
        visited = set(self.walk.states).union(*(self.graph.nodes[name].members for name in self.walk.states))
        costs = [line["usd"] for line in ledger["nodes"] if line["node"].partition("/")[0] in visited]
        return None if None in costs else math.fsum(costs)


@dataclass
class Tally:
    """What replayed requests come to."""

    requests: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Requests that were refused before they walked."""
    other_graph: int = 0
    """Records that another graph made."""
    recorded_answers: Counter[str | None] = field(default_factory=Counter)
    """Nodes that answered then; None where none did."""
    answers: Counter[str | None] = field(default_factory=Counter)
    """Nodes that answer now; None where none does, or that is untold."""
    needs: Counter[str] = field(default_factory=Counter)
    """Nodes that would be needed and did not run then."""
    recorded_usd: float | None = 0.0
    """USD then, over the requests whose path now is told; None where a price was unknown."""
    usd: float | None = 0.0
    """The same now."""

    def add(self, record: Record, replayed: Replayed, graph_hash: str) -> None:
        """Count one request. Raises `InputError` where the record is damaged; then it is not counted."""
        try:
            other_graph, answer, usd = record["graph_hash"] != graph_hash, record["answer"], record["ledger"]["usd"]
            hash(answer)
            recorded_usd = None if usd is None else float(usd)
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(error) from error
        self.requests += 1
        self.other_graph += other_graph
        if not replayed.recorded:
            self.refused += 1
            return
        self.verdicts[replayed.verdict] += 1
        if replayed.needs:
            self.needs[replayed.needs] += 1
        self.recorded_answers[answer] += 1
        self.answers[replayed.answer] += 1
        if replayed.verdict != "untold":
            self.recorded_usd = _sum(self.recorded_usd, recorded_usd)
            self.usd = _sum(self.usd, replayed.usd)

    @property
    def told(self) -> int:
        """Requests whose path now is told."""
        return self.verdicts["same"] + self.verdicts["other"]

    @property
    def walked(self) -> int:
        """Requests that walked then."""
        return self.verdicts.total()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; requests without an answer, or with one that is untold, are under `none`."""
        return {
            "requests": self.requests,
            **{verdict: self.verdicts[verdict] for verdict in ("same", "other", "untold")},
            "refused": self.refused,
            "other_graph": self.other_graph,
            "answers": {
                name or "none": {"then": self.recorded_answers[name], "now": self.answers[name]}
                for name in self.nodes()
            },
            "needs": dict(self.needs.most_common()),
            "usd": {"then": self.recorded_usd, "now": self.usd},
        }

    def nodes(self) -> Iterator[str | None]:
        """Nodes that answer then or now, the one that answers most now first."""
        counts = {
            name: (self.answers[name], self.recorded_answers[name]) for name in self.answers | self.recorded_answers
        }
        yield from sorted(counts, key=lambda name: (counts[name], name or ""), reverse=True)


def _sum(total: float | None, usd: float | None) -> float | None:
    return None if total is None or usd is None else total + usd
