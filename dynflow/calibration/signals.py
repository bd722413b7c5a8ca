"""Signals on many recorded requests: run for real, in batches, once for each different thing that they are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dynflow.batch import miscounted
from dynflow.calibration.kept import KeptOutputs
from dynflow.errors import NodeFailed, failure_kind
from dynflow.graph import NodePlan
from dynflow.hashes import content_hash
from dynflow.node import Call, Node, Output
from dynflow.ports import port_fault
from dynflow.walk import State

if TYPE_CHECKING:
    from dynflow.flow import Flow

Progress = Callable[[int, int, str], None]
"""`progress(done, total, what)`."""
Key = tuple[Any, ...]
"""What tells a run from others in this process."""
_Pending = tuple[int, Key, Call]
"""A run that is to come: its place, its key, and the call."""
_CHUNK = 64
"""Requests that a signal judges in one batch."""


class Signals:
    """The signals of one graph, and what they gave so far."""

    def __init__(self, flow: Flow, progress: Progress, kept: KeptOutputs | None) -> None:
        """`kept` holds what signals gave in earlier runs, and takes what they give now."""
        self.failures: Counter[str] = Counter()
        """How often a signal failed, by node: on different requests, or different values of what it reads."""
        self.succeeded: set[str] = set()
        """Signals that gave anything at all."""
        self.first_failure: dict[str, Exception] = {}
        self._flow = flow
        self._progress = progress
        self._kept = kept
        self._outputs: dict[Key, State] = {}

    def states(self, plan: NodePlan, calls: Sequence[tuple[Key, Call] | Exception]) -> list[State]:
        """The states that a signal ends in for these calls; an exception stands for one that could not be made."""
        node = self._flow.resources.node(plan.id)
        states: list[State | None] = [None] * len(calls)
        pending: list[_Pending] = []
        for place, each in enumerate(calls):
            if isinstance(each, Exception):
                states[place] = self._state(plan, each)
                continue
            states[place] = self._outputs.get(each[0])
            if states[place] is None:
                pending.append((place, *each))
        self._run(plan, node, self._without_kept(plan, node, pending, states), states)
        return [state for state in states if state is not None]

    def _run(self, plan: NodePlan, node: Node, pending: Sequence[_Pending], states: list[State | None]) -> None:
        if plan.cls.batches:  # texts of like length together: less padding
            pending = sorted(pending, key=lambda each: len(each[2].request.text))
        label = f"{plan.id} on {len(pending):,} requests"
        for start in range(0, len(pending), _CHUNK):
            part = pending[start : start + _CHUNK]
            if not plan.cls.instant:
                self._progress(start, len(pending), label)
            calls = [call for _, _, call in part]
            outputs = _run_batch(node, calls) if plan.cls.batches else [_run_one(node, call) for call in calls]
            for (place, key, _), output in zip(part, outputs, strict=True):
                states[place] = state = self._state(plan, output)
                if not plan.cls.instant:
                    self._outputs[key] = state
            self._keep(plan, node, part, states)
        if pending and not plan.cls.instant:
            self._progress(len(pending), len(pending), label)

    def _without_kept(
        self, plan: NodePlan, node: Node, pending: list[_Pending], states: list[State | None]
    ) -> list[_Pending]:
        """What is still to be run, once what earlier runs kept is taken over."""
        if self._kept is None or (fingerprint := node.fingerprint()) is None:
            return pending
        names = [_name(plan, fingerprint, call) for _, _, call in pending]
        found = self._kept.get(names)
        for (place, key, _), name in zip(pending, names, strict=True):
            if name in found:
                self.succeeded.add(plan.id)
                states[place] = self._outputs[key] = State(True, found[name])
        return [each for each, name in zip(pending, names, strict=True) if name not in found]

    def _keep(self, plan: NodePlan, node: Node, part: Sequence[_Pending], states: Sequence[State | None]) -> None:
        """Keep what a signal gave for the runs to come."""
        if self._kept is None or (fingerprint := node.fingerprint()) is None:
            return
        ended = [(_name(plan, fingerprint, call), states[place]) for place, _, call in part]
        self._kept.put((name, state.ports) for name, state in ended if state and state.ok and not state.rescued)

    def _state(self, plan: NodePlan, output: Output | Exception) -> State:
        if isinstance(output, Output) and (fault := port_fault(plan.cls.type, plan.ports, output.ports)) is not None:
            output = NodeFailed(fault)
        if isinstance(output, Output):
            self.succeeded.add(plan.id)
            return State(True, output.ports, rescued=output.degraded)
        if not plan.cls.instant:  # one that only rearranges fails for what params it is tried with, say
            self.failures[plan.id] += 1
            self.first_failure.setdefault(plan.id, output)
        stand_in = plan.common.on_failure
        if stand_in is not None:
            return State(True, stand_in, rescued=True)
        return State(False, error=failure_kind(output))


def _run_one(node: Node, call: Call) -> Output | Exception:
    try:
        return node.run(call)
    except Exception as error:
        return error


def _run_batch(node: Node, calls: Sequence[Call]) -> Sequence[Output | Exception]:
    try:
        outputs = node.run_batch(calls)
    except Exception as error:
        return [error] * len(calls)
    return outputs if len(outputs) == len(calls) else [miscounted(len(outputs), len(calls))] * len(calls)


@cache
def _version() -> str:
    return version("dynflow")


def _name(plan: NodePlan, fingerprint: str, call: Call) -> str:
    """What an output is known by between runs: all that it depends on."""
    parts = [plan.cls.type, _version(), fingerprint, call.options, call.request.original]
    return content_hash(parts if call.remembered is None else [*parts, call.remembered])
