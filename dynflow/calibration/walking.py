"""The walk of all rows under all settings at once: every edge is decided for them together, as arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from dynflow.calibration import orders
from dynflow.calibration.columns import Column, Flags, Floats, numbers, truth
from dynflow.calibration.independence import memory_of
from dynflow.calibration.inside import InsideStates
from dynflow.calibration.orders import Codes
from dynflow.calibration.outcomes import Fault, outcome_error
from dynflow.calibration.signals import Key
from dynflow.calibration.turns import Cell, in_turns
from dynflow.calibration.walked import Given, Index, NodeStates, Params
from dynflow.errors import InputError
from dynflow.graph import NodePlan
from dynflow.hashes import content_hash
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.expression import Term
from dynflow.language.references import Reference
from dynflow.language.spec import END, START
from dynflow.node import Call, Shifted
from dynflow.walk import State

if TYPE_CHECKING:
    from dynflow.calibration.replay import Replay

Objects = NDArray[Any]
"""Values of any kind, as an array of objects."""
UNSAID = "unsaid/"
"""Stands for a param of a sub-graph that a setting leaves as it is; no param's value: see `settings_columns`."""
_MONEY = ("request_left_usd", "day_left_usd", "seconds_left")
_NOBODY = -1
_PLAIN = (str, int, float, type(None))


class Walking:
    """One walk of all rows under all settings."""

    def __init__(
        self,
        replay: Replay,
        params: Mapping[str, Objects],
        start: Flags,
        left: Mapping[str, Floats] | None = None,
    ) -> None:
        """`params` [t | 1, n | 1] by name, and as `node/param` those of sub-graphs that settings say something of.

        `start` [t, n]: where it begins; `left`: what the graph around this one lets it spend, by port of `budget`.
        """
        self.replay = replay
        self.graph = replay.graph
        self.names = replay.names
        self.shape = start.shape
        self.reached: dict[str, Flags] = {START: start}
        self.nodes: dict[str, Given] = {}
        self.inside: dict[str, Walking] = {}
        """The walks of sub-graphs."""
        self.spent = np.zeros(self.shape)
        self.quality = np.zeros(self.shape)
        self.answer = np.full(self.shape, _NOBODY, dtype=np.int16)
        self.degraded = np.zeros(self.shape, dtype=bool)
        self.stuck: dict[str, Flags] = {}
        """Where nothing led on from a node."""
        self.params = params
        self._left = left or {}
        self._params: dict[str, Column] = {}
        self._inputs: dict[str, Column] = {}
        self._walk()

    def _walk(self) -> None:
        """Every node in topological order, then its ways."""
        for name in self.graph.order:
            reached = self.reached.get(name)
            if reached is None or name == END or not reached.any():
                continue
            if name != START:
                self._visit(name, reached)
            self._leave(name, reached)
        finished = self.reached.get(END, np.zeros(self.shape, dtype=bool))
        self.answer = np.where(finished, self.answer, _NOBODY).astype(np.int16)
        self.quality = np.where(self.answer >= 0, self.quality, 0.0)

    def called(self, name: str) -> Flags:
        """[t, n]: whether the path led to a node; those of sub-graphs as `node/inner`."""
        node, _, rest = name.partition("/")
        if not rest:
            return self.reached.get(name, np.zeros(self.shape, dtype=bool))
        return self.inside[node].called(rest) if node in self.inside else np.zeros(self.shape, dtype=bool)

    def different(self, term: Term) -> Floats:
        """The different values of a numeric term."""
        found = numbers(term, self.column)
        if found is None:
            return np.zeros(0)
        shape = np.broadcast_shapes(found[0].shape, found[1].shape)
        different = np.unique(np.broadcast_to(found[0], shape)[np.broadcast_to(found[1], shape)])
        return different[np.isfinite(different)]

    def beside(self, param: str) -> list[Floats]:
        """The different numbers that nodes which ran here compare a param with."""
        ran = [name for name in self.nodes if name not in self.replay.recorded.nodes and name not in self.inside]
        pairs = [pair for name in ran for each in self._compared(name).values() for pair in each]
        others = [
            values - shift
            for left, right in pairs
            for own, other in ((left, right), (right, left))
            for own, shift in [(own.number, own.by) if isinstance(own, Shifted) else (own, 0.0)]
            if isinstance(own, Reference) and ("params", param) in own.targets
            if (values := self._numbers(other)) is not None
        ]
        scores = [self.replay.stops.scores(self.graph.nodes[name], param) for name in ran if name in self.graph.nodes]
        return [*scores, *(np.unique(values[np.isfinite(values)]) for values in others)]

    def _compared(self, name: str) -> Mapping[str, Sequence[tuple[Any, Any]]]:
        return self.replay.flow.resources.node(name).compared()

    def _numbers(self, value: Any) -> Floats | None:
        return orders.numbers(value, self.column, self.replay.requests)

    def _visit(self, name: str, reached: Flags) -> None:
        plan = self.graph.nodes[name]
        members = [self.graph.nodes[member] for member in plan.members]
        node: Given
        if name in self.replay.recorded.nodes:
            node = self._from_file(name, reached)
        elif name in self.replay.inside:
            node = self._inside(plan, reached)
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
            if name in self.inside:
                inner = self.inside[name]
                place = np.array([self.names.index(f"{name}/{each}") for each in inner.names])
                self.quality = np.where(given, inner.quality, self.quality)
                self.answer[given] = np.where(inner.answer >= 0, place[inner.answer], self.names.index(name))[given]
            else:
                quality = self.replay.outcome_quality(name)
                self.quality = np.where(given, quality, self.quality)
                self.answer[given] = self.names.index(name)

    def _member(self, plan: NodePlan, reached: Flags) -> Given:
        if plan.id in self.replay.inside:
            node: Given = self._inside(plan, reached)
        elif plan.id in self.replay.recorded.nodes:
            node = self._from_file(plan.id, reached)
        else:
            node = self._run(plan, reached)
        self._spend(node, reached)
        return node

    def _group(self, plan: NodePlan, members: Sequence[NodePlan]) -> NodeStates:
        """A group that needs all its members."""
        ok = np.logical_and.reduce([np.broadcast_to(self.nodes[member.id].ok, self.shape) for member in members])
        failed = State(False, error="internal")
        if plan.common.on_failure is not None:
            failed = State(True, plan.common.on_failure, rescued=True)
        return NodeStates([State(True), failed], np.where(ok, 0, 1).astype(np.int32))

    def _spend(self, node: Given, reached: Flags) -> None:
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

    def _inside(self, plan: NodePlan, reached: Flags) -> InsideStates:
        """Walk a sub-graph, for the rows and settings that come to it."""
        replay = self.replay.inside[plan.id]
        prefix = f"{plan.id}/"
        said = {name.removeprefix(prefix): each for name, each in self.params.items() if name.startswith(prefix)}
        params: dict[str, Objects] = {name: each for name, each in said.items() if "/" in name}
        for name, default in replay.defaults.items():
            handed = self._handed(self.replay.handed[plan.id].get(name, default))
            params[name] = np.where(said[name] == UNSAID, handed, said[name]) if name in said else handed
        left = {port: column.values for port in _MONEY if (column := self._budget(port))}
        walking = Walking(replay, params, reached, left)
        self.inside[plan.id] = walking
        return InsideStates(plan, walking)

    def _handed(self, value: Any) -> Objects:
        """What a node hands its inner graph as a param, in every place [t | 1, n | 1]."""
        if not isinstance(value, Reference):
            return _objects([value])[:, None]
        columns = [self.column(owner, port).objects() for owner, port in value.targets]
        found = np.full((1, 1), UNKNOWN, dtype=object)
        for column in columns:  # the first that is known
            found = np.where(found == UNKNOWN, column, found)
        return np.atleast_2d(found)

    def _run(self, plan: NodePlan, reached: Flags) -> NodeStates:
        """Run a signal on each different input that it is given: its request, what its options refer to, and what it
        remembers of the conversation."""
        inputs = self._different_inputs(plan)
        memory = memory_of(self.replay.flow, plan.id)
        if memory is None and not inputs:
            rows = np.flatnonzero(reached.any(0))
            settings = reached.argmax(0)[rows]  # whichever comes here: all give it the same
            states = self._outputs(plan, [(row, setting, None) for row, setting in zip(rows, settings, strict=True)])
            index = np.full(len(self.replay.rows), _NOBODY, dtype=np.int32)
            index[rows] = np.arange(len(rows))
            return NodeStates(states, index[None, :])
        return in_turns(self.replay.file, memory, reached, inputs, partial(self._outputs, plan))

    def _different_inputs(self, plan: NodePlan) -> list[Codes]:
        """For each thing that may differ between settings: a number [t | 1, n | 1] for each of its values."""
        compared = self._orders(plan)
        codes = [code for each in compared.values() for code in each if len(code) > 1]
        for path, reference in plan.options.references().items():
            if path[0] in compared:
                continue
            for owner, port in reference.targets if isinstance(reference, Reference) else ():
                if owner == "params":
                    values = self.params[port]
                    stops = self._stops(plan, port, values)
                    if stops is not None:
                        codes.append(stops)
                        continue
                    place = {value: code for code, value in enumerate(dict.fromkeys(values.ravel()))}
                    if len(place) > 1:
                        codes.append(np.array([place[value] for value in values.ravel()]).reshape(values.shape))
                elif owner in self.graph.nodes and (len(reference.targets) > 1 or len(self._index(owner)) > 1):
                    codes.append(np.where(self._reached(owner), self._index(owner) + 1, 0))
        return codes

    def _stops(self, plan: NodePlan, param: str, values: Objects) -> Codes | None:
        """Where a signal that stops early by this param does so; None where that is not all that it decides."""
        if len(values) < 2 or values.shape[1] > 1 or not all(isinstance(value, int | float) for value in values[:, 0]):
            return None
        return self.replay.stops.codes(plan, param, values[:, 0].astype(np.float64))

    def _orders(self, plan: NodePlan) -> dict[str, list[Codes]]:
        """The options of which only an order matters and is plain to see, with this order."""
        found: dict[str, list[Codes]] = {}
        for option, pairs in self._compared(plan.id).items():
            sides = [(self._numbers(left), self._numbers(right)) for left, right in pairs]
            codes = [orders.order(left, right) for left, right in sides if left is not None and right is not None]
            if len(codes) == len(pairs):
                found[option] = codes
        return found

    def _index(self, name: str) -> Index:
        return self.nodes[name].index if name in self.nodes else np.full((1, 1), _NOBODY, dtype=np.int32)

    def _reached(self, name: str) -> Flags:
        return self.reached.get(name, np.zeros((1, 1), dtype=bool))

    def _outputs(self, plan: NodePlan, cells: Iterable[Cell]) -> list[State]:
        """The states that a signal ends in for these (row, setting, what it remembers)."""
        calls: list[tuple[Key, Call] | Exception] = []
        for row, setting, remembered in cells:
            try:
                calls.append(self._call(plan, int(row), int(setting), remembered))
            except Exception as error:
                calls.append(error)
        return self.replay.signals.states(plan, calls)

    def _call(self, plan: NodePlan, row: int, setting: int, remembered: Any) -> tuple[Key, Call]:
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
            remembered=remembered,
        )
        return (plan.id, row, *((type(each), each) for each in (*read, remembered))), call

    def _scalar(self, owner: str, port: str, row: int, setting: int) -> Any:
        """One value as a reference reads it."""
        if owner == "params":
            values = self.params[port]
            return values[setting if values.shape[0] > 1 else 0, row if values.shape[1] > 1 else 0]
        if owner == "input":
            return self.replay.requests[row].port(port)
        node = self.nodes.get(owner)
        if node is None or not np.broadcast_to(self._reached(owner), self.shape)[setting, row]:
            return UNKNOWN
        return node.value(setting, row, port)

    # Edges

    def _leave(self, name: str, reached: Flags) -> None:
        """Send every (setting, row) that stands at a node on its way: the first edge whose condition is true."""
        left = reached.copy()
        ok: Flags = np.array(True) if name == START else np.broadcast_to(self.nodes[name].ok, self.shape)
        for way in self.graph.ways[name]:
            takes = left & ok if way.term is None else left & truth(way.term, self.column).true
            closed = self.replay.closed.get(way.target)
            if closed is not None:
                takes = takes & ~closed[None, :]
            self.reached[way.target] = self.reached[way.target] | takes if way.target in self.reached else takes
            left &= ~takes
        if left.any():
            self.stuck[name] = left
        if name != START:
            self.degraded |= reached & ~left & (~ok | self.nodes[name].rescued)

    def column(self, owner: str, port: str) -> Column:
        if owner == "params":
            if port not in self._params:
                self._params[port] = Column.of_array(self.params[port])
            return self._params[port]
        if owner == "input":
            if port not in self._inputs:
                column = Column.of([request.port(port) for request in self.replay.requests])
                self._inputs[port] = Column(column.values[None, :], column.known[None, :], column.table)
            return self._inputs[port]
        if owner == "budget":
            return self._budget(port)
        if owner not in self.nodes:
            flag = port in ("ok", "failed")
            return Column(np.array(False), np.array(flag))
        return self.nodes[owner].column(port, self.reached[owner])

    def _budget(self, port: str) -> Column:
        """Money left as the walk spends it; nobody else spends of the day's, and no time passes."""
        limits = self.graph.spec.limits
        own = {
            "request_left_usd": limits.usd_per_request,
            "day_left_usd": limits.usd_per_day,
            "seconds_left": limits.timeout,
        }.get(port)
        limit = np.minimum(math.inf if own is None else own, self._left.get(port, np.array(math.inf)))
        if port == "seconds_left":
            return Column(limit, np.array(True))
        return Column(np.where(limit < math.inf, np.maximum(limit - self.spent, 0.0), math.inf), self._told(limit))

    def _told(self, limit: Floats) -> Flags:
        """Where what is left of a limit is known: without one it is, whatever was spent."""
        told: Flags = (limit == math.inf) | ~np.isnan(self.spent)
        return told


def settings_columns(settings: Sequence[Params], defaults: Params) -> dict[str, Objects]:
    """The params of each setting [t, 1]; those of sub-graphs only where any setting has them, else `UNSAID`."""
    names = dict.fromkeys([*defaults, *(name for setting in settings for name in setting)])
    return {
        name: _objects([setting.get(name, defaults.get(name, UNSAID)) for setting in settings])[:, None]
        for name in names
    }


def _objects(values: Sequence[Any]) -> Objects:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _no_charge(*_: Any) -> Any:
    raise AssertionError("no model is called in a replay")
