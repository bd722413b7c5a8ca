"""Replay: a graph walks recorded requests with many settings of its params at once, and no model is called.

Signals run for real, once for each request and each different input; what answers and models gave is read from an
outcome file. Then every edge is decided for all settings and rows together, as arrays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dynflow.calibration.columns import Column, Flags, Floats, numbers, truth
from dynflow.calibration.kept import KeptOutputs
from dynflow.calibration.outcomes import Fault, OutcomeFile, outcome_error
from dynflow.calibration.recorded import Bindings, Recorded, recorded
from dynflow.eligible import closed_nodes
from dynflow.errors import InputError, failure_kind
from dynflow.graph import NodePlan
from dynflow.hashes import content_hash
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.expression import Term
from dynflow.language.references import Reference
from dynflow.language.spec import END, START
from dynflow.node import Call, Node, Output
from dynflow.request import Request
from dynflow.walk import State

if TYPE_CHECKING:
    from dynflow.flow import Flow

Params = Mapping[str, Any]
Progress = Callable[[int, int, str], None]
"""`progress(done, total, what)`."""
Index = NDArray[np.int32]
_Pending = tuple[int, tuple[Any, ...], Call]
"""A signal's run that is to come: its place, what tells it from others in this process, and the call."""
_CHUNK = 64
"""Requests that a signal judges in one batch."""
_NOBODY = -1
_PLAIN = (str, int, float, type(None))
_MOST_CELLS = 4_000_000
"""Settings times rows that are walked at once."""


@dataclass(frozen=True)
class Walked:
    """What became of each row [n] under each setting [t]."""

    settings: Sequence[Params]
    quality: Floats
    """[t, n], of the result; 0 where the request failed."""
    usd: Floats
    """[t, n], of all nodes on the path; NaN where a price is unknown."""
    answer: NDArray[np.int16]
    """[t, n]: place of the node that gave the result in `nodes`; -1 where the request failed."""
    nodes: tuple[str, ...]
    called: Mapping[str, Flags]
    """[t, n] for each node: whether the path led to it."""

    def answered(self, node: str) -> Flags:
        """[t, n]: whether the result is this node's."""
        flags: Flags = self.answer == self.nodes.index(node)
        return flags


def _joined(parts: Sequence[Walked]) -> Walked:
    """Walks of the same rows under further settings as one."""
    return Walked(
        [setting for part in parts for setting in part.settings],
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.usd for part in parts]),
        np.concatenate([part.answer for part in parts]),
        parts[0].nodes,
        {name: np.concatenate([part.called[name] for part in parts]) for name in parts[0].nodes},
    )


class _Node:
    """What a node gave: its different states, and which of them holds where ([1 | t, n]; -1: it did not run)."""

    def __init__(self, states: Sequence[State | None], index: Index) -> None:
        self.states = states
        self.index = index
        self.ok = np.array([state is not None and state.ok for state in states], dtype=bool)[index] & (index >= 0)
        self._columns: dict[str, Column] = {}

    def column(self, port: str, reached: Flags) -> Column:
        """A port where the walk has come by; unknown elsewhere."""
        if port == "ok":
            return Column(self.ok & reached, np.array(True))
        if port == "failed":
            return Column(~self.ok & reached, np.array(True))
        if port not in self._columns:
            self._columns[port] = Column.of([_value(state, port) for state in self.states])
        return self._columns[port].at(self.index, reached)

    def usd(self) -> Floats:
        """What it cost; NaN where nobody knows."""
        known = [math.nan if state is None or state.usd is None else state.usd for state in self.states]
        return np.where(self.index >= 0, np.array(known or [0.0], dtype=np.float64)[self.index], 0.0)


class Replay:
    """A graph over an outcome file, ready to walk it with any params."""

    def __init__(
        self,
        flow: Flow,
        file: OutcomeFile,
        bindings: Bindings | None = None,
        progress: Progress = lambda done, total, what: None,
        kept: KeptOutputs | None = None,
    ) -> None:
        """`kept` holds what signals gave in earlier runs, and takes what they give now.

        Raises `OutcomeError` with every row that the graph cannot take, or that lacks an outcome it needs.
        """
        self.flow = flow
        self.graph = flow.checked
        self.file = file
        self.rows = file.rows
        self.requests = _requests(flow, file)
        self.recorded: Recorded = recorded(flow, file, self.requests, bindings or {})
        self.failures: Counter[str] = Counter()
        """How often a signal failed, by node: on different requests, or different values of what it reads."""
        self.succeeded: set[str] = set()
        """Signals that gave anything at all."""
        self.first_failure: dict[str, Exception] = {}
        self.kept = kept
        self._progress = progress
        self._outputs: dict[tuple[Any, ...], State] = {}
        self._closed = self._closed_nodes()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def defaults(self) -> Params:
        """The params as the graph has them."""
        return {name: body.default for name, body in self.flow.params.items() if "/" not in name}

    def outcome_quality(self, node: str) -> Floats:
        """The quality [n] of one node's answers, whoever asks for them; NaN where a row has none."""
        quality = self.recorded.nodes[node].quality
        return np.array([math.nan if value is None else value for value in quality])

    def outcome_usd(self, node: str) -> Floats:
        """The cost [n] of one node's answers; NaN where nobody knows."""
        states = self.recorded.nodes[node].states
        return np.array([math.nan if state is None or state.usd is None else state.usd for state in states])

    def walk(self, settings: Sequence[Params]) -> Walked:
        """Walk every row under every setting; params that a setting leaves out have their defaults.

        Raises `OutcomeError` where the walk comes to a node that a row has no outcome of.
        """
        whole = [{**self.defaults, **setting} for setting in settings]
        step = max(1, _MOST_CELLS // len(self.rows))
        parts = [_Walk(self, whole[start : start + step]).walked() for start in range(0, len(whole), step)]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def numbers(self, settings: Sequence[Params], terms: Sequence[Term]) -> list[Floats]:
        """The different values that numeric terms of conditions take, under any of these settings."""
        walk = _Walk(self, [{**self.defaults, **setting} for setting in settings])
        walk.walked()
        return [walk.different(term) for term in terms]

    def measured(self, setting: Params) -> dict[str, Floats]:
        """Numbers [of the requests that come by] that signals give and conditions read, by `node.port`."""
        walk = _Walk(self, [{**self.defaults, **setting}])
        walk.walked()
        ports = {port for ways in self.graph.ways.values() for way in ways for port in way.reads}
        found: dict[str, Floats] = {}
        for port in ports:
            if port.owner in walk.nodes and port.owner not in self.recorded.nodes and len(port.path) == 1:
                column = walk.nodes[port.owner].column(port.path[0], walk.reached[port.owner])
                if column.numeric:
                    found[f"{port.owner}.{port.path[0]}"] = np.broadcast_to(column.values, column.known.shape)[
                        column.known
                    ]
        return found

    def _closed_nodes(self) -> Mapping[str, Flags]:
        """Nodes that some requests cannot go to, with these requests [n]."""
        closed: dict[str, Flags] = {}
        for row, request in enumerate(self.requests):
            for name in closed_nodes(self.graph, self.flow.resources.known, request):
                closed.setdefault(name, np.zeros(len(self.rows), dtype=bool))[row] = True
        return closed


class _Walk:
    """One walk of all rows under all settings."""

    def __init__(self, replay: Replay, settings: Sequence[Params]) -> None:
        self.replay = replay
        self.graph = replay.graph
        self.settings = settings
        self.shape = (len(settings), len(replay.rows))
        self.reached: dict[str, Flags] = {START: np.ones(self.shape, dtype=bool)}
        self.nodes: dict[str, _Node] = {}
        self.spent = np.zeros(self.shape)
        self.quality = np.zeros(self.shape)
        self.answer = np.full(self.shape, _NOBODY, dtype=np.int16)
        self._params = {name: _setting_column([each[name] for each in settings]) for name in replay.defaults}
        self._inputs: dict[str, Column] = {}

    def walked(self) -> Walked:
        """Every node in topological order, then its ways."""
        names = tuple(self.graph.nodes)
        for name in self.graph.order:
            reached = self.reached.get(name)
            if reached is None or name == END or not reached.any():
                continue
            if name != START:
                self._visit(name, reached)
            self._leave(name, reached)
        finished = self.reached.get(END, np.zeros(self.shape, dtype=bool))
        called = {name: self.reached.get(name, np.zeros(self.shape, dtype=bool)) for name in names}
        answer = np.where(finished, self.answer, _NOBODY).astype(np.int16)
        return Walked(self.settings, np.where(answer >= 0, self.quality, 0.0), self.spent, answer, names, called)

    def different(self, term: Term) -> Floats:
        """The different values of a numeric term."""
        found = numbers(term, self._column)
        if found is None:
            return np.zeros(0)
        shape = np.broadcast_shapes(found[0].shape, found[1].shape)
        return np.unique(np.broadcast_to(found[0], shape)[np.broadcast_to(found[1], shape)])

    def _visit(self, name: str, reached: Flags) -> None:
        plan = self.graph.nodes[name]
        members = [self.graph.nodes[member] for member in plan.members]
        if name in self.replay.recorded.nodes:
            node = self._from_file(name, reached)
        elif members:
            for member in members:
                self.reached[member.id] = reached
                self.nodes[member.id] = self._member(member, reached)
            node = self._group(plan, members)
        else:
            node = self._run(plan, reached)
        self.nodes[name] = node
        self._spend(node, reached)
        if plan.role == "answer" and name in self.graph.answers:
            given = reached & node.ok
            quality = np.array([math.nan if value is None else value for value in self._qualities(name)])
            self.quality = np.where(given, quality, self.quality)
            self.answer[given] = list(self.graph.nodes).index(name)

    def _member(self, plan: NodePlan, reached: Flags) -> _Node:
        node = self._from_file(plan.id, reached) if plan.id in self.replay.recorded.nodes else self._run(plan, reached)
        self._spend(node, reached)
        return node

    def _group(self, plan: NodePlan, members: Sequence[NodePlan]) -> _Node:
        """A group that needs all its members."""
        ok = np.logical_and.reduce([np.broadcast_to(self.nodes[member.id].ok, self.shape) for member in members])
        failed = State(False, error="internal")
        if plan.common.on_failure is not None:
            failed = State(True, plan.common.on_failure, rescued=True)
        return _Node([State(True), failed], np.where(ok, 0, 1).astype(np.int32))

    def _qualities(self, name: str) -> Sequence[float | None]:
        return self.replay.recorded.nodes[name].quality

    def _spend(self, node: _Node, reached: Flags) -> None:
        usd = np.broadcast_to(node.usd(), self.shape)
        self.spent = np.where(reached, self.spent + usd, self.spent)

    # What nodes give

    def _from_file(self, name: str, reached: Flags) -> _Node:
        states = self.replay.recorded.nodes[name].states
        wanted = reached.any(0)
        absent = [row for row in np.flatnonzero(wanted).tolist() if states[row] is None]
        if absent:
            file, missing = self.replay.file, self.replay.recorded.missing[name]
            text = "the walk comes to it with some params"
            raise outcome_error(file.path, [Fault(file.rows[row].line, f"{missing[row]}: {text}") for row in absent])
        return _Node(states, np.where(wanted, np.arange(len(states)), _NOBODY).astype(np.int32)[None, :])

    def _run(self, plan: NodePlan, reached: Flags) -> _Node:
        """Run a signal on each different input that it is given: its request, and what its options refer to."""
        inputs = self._different_inputs(plan)
        if not inputs:
            rows = np.flatnonzero(reached.any(0))
            settings = reached.argmax(0)[rows]  # whichever comes here: all give it the same
            states = self._outputs(plan, list(zip(rows.tolist(), settings.tolist(), strict=True)))
            index = np.full(len(self.replay.rows), _NOBODY, dtype=np.int32)
            index[rows] = np.arange(len(rows))
            return _Node(states, index[None, :])
        settings, rows = np.nonzero(reached)
        codes = np.stack([rows, *(np.broadcast_to(code, self.shape)[settings, rows] for code in inputs)], axis=1)
        _, first, place = np.unique(codes, axis=0, return_index=True, return_inverse=True)
        states = self._outputs(plan, [(int(rows[each]), int(settings[each])) for each in first])
        index = np.full(self.shape, _NOBODY, dtype=np.int32)
        index[settings, rows] = place.ravel()
        return _Node(states, index)

    def _different_inputs(self, plan: NodePlan) -> list[NDArray[Any]]:
        """For each thing that may differ between settings: a number [t | 1, n | 1] for each of its values."""
        codes: list[NDArray[Any]] = []
        for reference in plan.options.references().values():
            for owner, port in reference.targets if isinstance(reference, Reference) else ():
                if owner == "params":
                    values = [each[port] for each in self.settings]
                    distinct = list(dict.fromkeys(values))
                    if len(distinct) > 1:
                        codes.append(np.array([distinct.index(value) for value in values])[:, None])
                elif owner in self.graph.nodes and (len(reference.targets) > 1 or len(self._index(owner)) > 1):
                    codes.append(np.where(self._reached(owner), self._index(owner), _NOBODY))
        return codes

    def _index(self, name: str) -> Index:
        return self.nodes[name].index if name in self.nodes else np.full((1, 1), _NOBODY, dtype=np.int32)

    def _reached(self, name: str) -> Flags:
        return self.reached.get(name, np.zeros((1, 1), dtype=bool))

    def _outputs(self, plan: NodePlan, cells: Sequence[tuple[int, int]]) -> list[State]:
        """The states that a signal ends in for these (row, setting)."""
        node = self.replay.flow.resources.node(plan.id)
        states: list[State | None] = [None] * len(cells)
        pending: list[_Pending] = []
        for place, (row, setting) in enumerate(cells):
            try:
                key, call = self._call(plan, row, setting)
            except Exception as error:
                states[place] = self._state(plan, error)
                continue
            kept = self.replay._outputs.get(key)
            if kept is None:
                pending.append((place, key, call))
            states[place] = kept
        pending = self._without_kept(plan, node, pending, states)
        label = f"{plan.id} on {len(pending):,} requests"
        for start in range(0, len(pending), _CHUNK):
            part = pending[start : start + _CHUNK]
            if not plan.cls.instant:
                self.replay._progress(start, len(pending), label)
            if plan.cls.batches:
                outputs = node.run_batch([call for _, _, call in part])
            else:
                outputs = [_run_one(node, call) for _, _, call in part]
            for (place, key, _), output in zip(part, outputs, strict=True):
                states[place] = state = self._state(plan, output)
                if not plan.cls.instant:
                    self.replay._outputs[key] = state
            self._keep(plan, node, part, states)
        if pending and not plan.cls.instant:
            self.replay._progress(len(pending), len(pending), label)
        return [state for state in states if state is not None]

    def _without_kept(
        self, plan: NodePlan, node: Node, pending: list[_Pending], states: list[State | None]
    ) -> list[_Pending]:
        """What is still to be run, once what earlier runs kept is taken over."""
        if self.replay.kept is None or (fingerprint := node.fingerprint()) is None:
            return pending
        names = [_name(plan, fingerprint, call) for _, _, call in pending]
        found = self.replay.kept.get(names)
        for (place, key, _), name in zip(pending, names, strict=True):
            if name in found:
                self.replay.succeeded.add(plan.id)
                states[place] = self.replay._outputs[key] = State(True, found[name])
        return [each for each, name in zip(pending, names, strict=True) if name not in found]

    def _keep(self, plan: NodePlan, node: Node, part: Sequence[_Pending], states: Sequence[State | None]) -> None:
        """Keep what a signal gave for the runs to come."""
        if self.replay.kept is None or (fingerprint := node.fingerprint()) is None:
            return
        ended = [(_name(plan, fingerprint, call), states[place]) for place, _, call in part]
        self.replay.kept.put((name, state.ports) for name, state in ended if state and state.ok and not state.rescued)

    def _call(self, plan: NodePlan, row: int, setting: int) -> tuple[tuple[Any, ...], Call]:
        """What a signal is given, and what tells it from what it was given otherwise. Raises `InputError`."""
        read: list[Any] = []

        def value(reference: Any) -> Any:
            for owner, port in reference.targets:
                name, _, key = port.partition(".")
                found = self._scalar(owner, name, row, setting)
                if key and isinstance(found, Mapping):
                    found = found.get(key, UNKNOWN)
                if found is not UNKNOWN:
                    read.append(found if isinstance(found, _PLAIN) else content_hash(found))
                    return found
            read.append(None)
            return None

        options = plan.options
        if plan.has_references:
            try:
                options = options.resolve(value)
            except ValidationError as error:
                raise InputError(f"an option of node {plan.id!r}: {error.errors()[0]['msg']}") from None
        call = Call(
            request=self.replay.requests[row],
            options=options,
            config={},
            called_off=lambda: False,
            seconds_left=lambda: math.inf,
            charge=_no_charge,
        )
        return (plan.id, row, *((type(each), each) for each in read)), call

    def _scalar(self, owner: str, port: str, row: int, setting: int) -> Any:
        """One value as a reference reads it."""
        if owner == "params":
            return self.settings[setting][port]
        if owner == "input":
            return self.replay.requests[row].port(port)
        node = self.nodes.get(owner)
        if node is None or not np.broadcast_to(self._reached(owner), self.shape)[setting, row]:
            return UNKNOWN
        place = int(node.index[setting if len(node.index) > 1 else 0, row])
        return UNKNOWN if place < 0 else _value(node.states[place], port)

    def _state(self, plan: NodePlan, output: Output | Exception) -> State:
        if isinstance(output, Output):
            self.replay.succeeded.add(plan.id)
            return State(True, output.ports, rescued=output.degraded)
        if not plan.cls.instant:  # one that only rearranges fails for what params it is tried with, say
            self.replay.failures[plan.id] += 1
            self.replay.first_failure.setdefault(plan.id, output)
        stand_in = plan.common.on_failure
        if stand_in is not None:
            return State(True, stand_in, rescued=True)
        return State(False, error=failure_kind(output))

    # Edges

    def _leave(self, name: str, reached: Flags) -> None:
        """Send every (setting, row) that stands at a node on its way: the first edge whose condition is true."""
        left = reached.copy()
        ok: Flags | bool = True if name == START else np.broadcast_to(self.nodes[name].ok, self.shape)
        for way in self.graph.ways[name]:
            takes = left & ok if way.term is None else left & truth(way.term, self._column).true
            closed = self.replay._closed.get(way.target)
            if closed is not None:
                takes = takes & ~closed[None, :]
            self.reached[way.target] = self.reached[way.target] | takes if way.target in self.reached else takes
            left &= ~takes

    def _column(self, owner: str, port: str) -> Column:
        if owner == "params":
            return self._params[port]
        if owner == "input":
            if port not in self._inputs:
                column = Column.of([request.port(port) for request in self.replay.requests])
                self._inputs[port] = Column(column.values[None, :], column.known[None, :])
            return self._inputs[port]
        if owner == "budget":
            return self._budget(port)
        if owner not in self.nodes:
            flag = port in ("ok", "failed")
            return Column(np.array(False) if flag else np.array(UNKNOWN, dtype=object), np.array(flag))
        return self.nodes[owner].column(port, self.reached[owner])

    def _budget(self, port: str) -> Column:
        """Money left as the walk spends it; nobody else spends of the day's, and no time passes."""
        limits = self.graph.spec.limits
        limit = {
            "request_left_usd": limits.usd_per_request,
            "day_left_usd": limits.usd_per_day,
            "seconds_left": limits.timeout,
        }.get(port)
        if limit is None:
            return Column(np.array(math.inf), np.array(True))
        if port == "seconds_left":
            return Column(np.array(float(limit)), np.array(True))
        return Column(np.maximum(limit - self.spent, 0.0), ~np.isnan(self.spent))


def _value(state: State | None, port: str) -> Any:
    """A port as conditions and references read it (`Walk.lookup`)."""
    if state is None:
        return UNKNOWN
    if port in ("seconds", "usd") and port not in state.ports:
        value = getattr(state, port)
        return UNKNOWN if value is None else value
    if port == "error":
        return state.error
    return state.ports.get(port, UNKNOWN) if state.ok else UNKNOWN


@cache
def _version() -> str:
    return version("dynflow")


def _name(plan: NodePlan, fingerprint: str, call: Call) -> str:
    """What an output is known by between runs: all that it depends on."""
    return content_hash([plan.cls.type, _version(), fingerprint, call.options, call.request.original])


def _setting_column(values: Sequence[Any]) -> Column:
    column = Column.of(values)
    return Column(column.values[:, None], column.known[:, None])


def _requests(flow: Flow, file: OutcomeFile) -> list[Request]:
    """The rows as requests. Raises `OutcomeError` with every one that the graph cannot take."""
    declared = flow.checked.spec.inputs
    requests: list[Request] = []
    faults: list[Fault] = []
    for row in file.rows:
        try:
            requests.append(Request(row.input, declared=declared))
        except InputError as error:
            faults.append(Fault(row.line, str(error)))
    if faults:
        raise outcome_error(file.path, faults)
    return requests


def _run_one(node: Any, call: Call) -> Output | Exception:
    try:
        output: Output = node.run(call)
    except Exception as error:
        return error
    return output


def _no_charge(*_: Any) -> Any:
    raise AssertionError("no model is called in a replay")
