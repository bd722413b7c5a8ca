"""The walk of all rows under all settings at once: every edge is decided for them together, as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dynflow.calibration.columns import Column, Flags, Floats, numbers, truth
from dynflow.calibration.outcomes import Fault, outcome_error
from dynflow.calibration.signals import Key
from dynflow.calibration.walked import Index, NodeStates, Params, Walked, port_value
from dynflow.errors import InputError
from dynflow.graph import NodePlan
from dynflow.hashes import content_hash
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.expression import Term
from dynflow.language.references import Reference
from dynflow.language.spec import END, START
from dynflow.node import Call
from dynflow.walk import State

if TYPE_CHECKING:
    from dynflow.calibration.replay import Replay

_NOBODY = -1
_PLAIN = (str, int, float, type(None))


class Walking:
    """One walk of all rows under all settings."""

    def __init__(self, replay: Replay, settings: Sequence[Params]) -> None:
        self.replay = replay
        self.graph = replay.graph
        self.settings = settings
        self.shape = (len(settings), len(replay.rows))
        self.reached: dict[str, Flags] = {START: np.ones(self.shape, dtype=bool)}
        self.nodes: dict[str, NodeStates] = {}
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

    def _member(self, plan: NodePlan, reached: Flags) -> NodeStates:
        node = self._from_file(plan.id, reached) if plan.id in self.replay.recorded.nodes else self._run(plan, reached)
        self._spend(node, reached)
        return node

    def _group(self, plan: NodePlan, members: Sequence[NodePlan]) -> NodeStates:
        """A group that needs all its members."""
        ok = np.logical_and.reduce([np.broadcast_to(self.nodes[member.id].ok, self.shape) for member in members])
        failed = State(False, error="internal")
        if plan.common.on_failure is not None:
            failed = State(True, plan.common.on_failure, rescued=True)
        return NodeStates([State(True), failed], np.where(ok, 0, 1).astype(np.int32))

    def _qualities(self, name: str) -> Sequence[float | None]:
        return self.replay.recorded.nodes[name].quality

    def _spend(self, node: NodeStates, reached: Flags) -> None:
        usd = np.broadcast_to(node.usd(), self.shape)
        self.spent = np.where(reached, self.spent + usd, self.spent)

    # What nodes give

    def _from_file(self, name: str, reached: Flags) -> NodeStates:
        states = self.replay.recorded.nodes[name].states
        wanted = reached.any(0)
        absent = [row for row in np.flatnonzero(wanted).tolist() if states[row] is None]
        if absent:
            file, missing = self.replay.file, self.replay.recorded.missing[name]
            text = "the walk comes to it with some params"
            raise outcome_error(file.path, [Fault(file.rows[row].line, f"{missing[row]}: {text}") for row in absent])
        return NodeStates(states, np.where(wanted, np.arange(len(states)), _NOBODY).astype(np.int32)[None, :])

    def _run(self, plan: NodePlan, reached: Flags) -> NodeStates:
        """Run a signal on each different input that it is given: its request, and what its options refer to."""
        inputs = self._different_inputs(plan)
        if not inputs:
            rows = np.flatnonzero(reached.any(0))
            settings = reached.argmax(0)[rows]  # whichever comes here: all give it the same
            states = self._outputs(plan, list(zip(rows.tolist(), settings.tolist(), strict=True)))
            index = np.full(len(self.replay.rows), _NOBODY, dtype=np.int32)
            index[rows] = np.arange(len(rows))
            return NodeStates(states, index[None, :])
        settings, rows = np.nonzero(reached)
        codes = np.stack([rows, *(np.broadcast_to(code, self.shape)[settings, rows] for code in inputs)], axis=1)
        _, first, place = np.unique(codes, axis=0, return_index=True, return_inverse=True)
        states = self._outputs(plan, [(int(rows[each]), int(settings[each])) for each in first])
        index = np.full(self.shape, _NOBODY, dtype=np.int32)
        index[settings, rows] = place.ravel()
        return NodeStates(states, index)

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

    def _outputs(self, plan: NodePlan, cells: Iterable[tuple[int, int]]) -> list[State]:
        """The states that a signal ends in for these (row, setting)."""
        calls: list[tuple[Key, Call] | Exception] = []
        for row, setting in cells:
            try:
                calls.append(self._call(plan, row, setting))
            except Exception as error:
                calls.append(error)
        return self.replay.signals.states(plan, calls)

    def _call(self, plan: NodePlan, row: int, setting: int) -> tuple[Key, Call]:
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
            closed=frozenset(name for name, rows in self.replay.closed.items() if rows[row]),
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
        return UNKNOWN if place < 0 else port_value(node.states[place], port)

    # Edges

    def _leave(self, name: str, reached: Flags) -> None:
        """Send every (setting, row) that stands at a node on its way: the first edge whose condition is true."""
        left = reached.copy()
        ok: Flags | bool = True if name == START else np.broadcast_to(self.nodes[name].ok, self.shape)
        for way in self.graph.ways[name]:
            takes = left & ok if way.term is None else left & truth(way.term, self._column).true
            closed = self.replay.closed.get(way.target)
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


def _setting_column(values: Sequence[Any]) -> Column:
    column = Column.of(values)
    return Column(column.values[:, None], column.known[:, None])


def _no_charge(*_: Any) -> Any:
    raise AssertionError("no model is called in a replay")
