"""What a replayed walk makes of every row under every setting, and what each node gave on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.columns import Column, Flags, Floats
from dynflow.language.evaluate import UNKNOWN
from dynflow.walk import State

Params = Mapping[str, Any]
Index = NDArray[np.int32]


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


def joined(parts: Sequence[Walked]) -> Walked:
    """Walks of the same rows under further settings as one."""
    return Walked(
        [setting for part in parts for setting in part.settings],
        np.concatenate([part.quality for part in parts]),
        np.concatenate([part.usd for part in parts]),
        np.concatenate([part.answer for part in parts]),
        parts[0].nodes,
        {name: np.concatenate([part.called[name] for part in parts]) for name in parts[0].nodes},
    )


class Given(Protocol):
    """What a node gave, in every place [1 | t, n] of a walk."""

    ok: Flags
    rescued: Flags
    """Where it failed and `on_failure` stood in, or its own path was degraded."""

    @property
    def index(self) -> Index:
        """Tells different outputs from each other, for each row."""
        ...

    def column(self, port: str, reached: Flags) -> Column:
        """A port where the walk has come by; unknown elsewhere."""
        ...

    def value(self, setting: int, row: int, port: str) -> Any:
        """A port in one place where the walk has come by."""
        ...

    def usd(self) -> Floats:
        """What it cost; NaN where nobody knows."""
        ...


class NodeStates:
    """What a node gave: its different states, and which of them holds where ([1 | t, n]; -1: it did not run)."""

    def __init__(self, states: Sequence[State | None], index: Index) -> None:
        self.states = states
        self.index = index
        self.ok: Flags = self._flags([state is not None and state.ok for state in states])
        self.rescued: Flags = self._flags([state is not None and state.rescued for state in states])
        self._columns: dict[str, Column] = {}

    def column(self, port: str, reached: Flags) -> Column:
        """A port where the walk has come by; unknown elsewhere."""
        if port == "ok":
            return Column(self.ok & reached, np.array(True))
        if port == "failed":
            return Column(~self.ok & reached, np.array(True))
        if port not in self._columns:
            self._columns[port] = Column.of([port_value(state, port) for state in self.states])
        return self._columns[port].at(self.index, reached)

    def value(self, setting: int, row: int, port: str) -> Any:
        """A port in one place where the walk has come by."""
        place = int(self.index[setting if len(self.index) > 1 else 0, row])
        return UNKNOWN if place < 0 else port_value(self.states[place], port)

    def usd(self) -> Floats:
        """What it cost; NaN where nobody knows."""
        known = [math.nan if state is None or state.usd is None else state.usd for state in self.states]
        return np.where(self.index >= 0, np.array(known or [0.0], dtype=np.float64)[self.index], 0.0)

    def _flags(self, states: Sequence[bool]) -> Flags:
        flags: Flags = np.array(states, dtype=bool)[self.index] & (self.index >= 0)
        return flags


def port_value(state: State | None, port: str) -> Any:
    """A port as conditions and references read it (`Walk.lookup`)."""
    if state is None:
        return UNKNOWN
    if port in ("seconds", "usd") and port not in state.ports:
        value = getattr(state, port)
        return UNKNOWN if value is None else value
    if port == "error":
        return state.error
    return state.ports.get(port, UNKNOWN) if state.ok else UNKNOWN
