"""Signals under every setting at once; those that remember a conversation (`Node.remembers`) turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dynflow.calibration import orders
from dynflow.calibration.columns import Flags
from dynflow.calibration.orders import Codes
from dynflow.calibration.outcomes import OutcomeFile
from dynflow.calibration.walked import NodeStates
from dynflow.node import Memory
from dynflow.walk import State

Cell = tuple[np.integer[Any], np.integer[Any], Any]
"""A row, a setting, and what the node remembers there; None: nothing."""
_NOTHING = 0


def in_turns(
    file: OutcomeFile,
    memory: Memory | None,
    reached: Flags,
    inputs: Sequence[Codes],
    run: Callable[[Sequence[Cell]], Sequence[State]],
) -> NodeStates:
    """What a node gives where the walk has `reached` it [t, n], once for each different thing that it is given there.

    `inputs` number what it is given beside request and memory, [t | 1, n | 1] each. What it remembers is its own, under
    each setting: turns that did not come to it change nothing, and no more does one that failed.
    """
    draws, turns = np.array(file.draws), np.array(file.turns)
    if memory is None:
        turns[:] = 0
    kept = np.full((len(reached), int(draws.max()) + 1), _NOTHING)
    places: dict[Any, int] = {None: _NOTHING}
    states: list[State] = []
    index = np.full(reached.shape, -1, dtype=np.int32)
    for turn in range(int(turns.max()) + 1):
        now = np.flatnonzero(turns == turn)
        settings, column = np.nonzero(reached[:, now])
        rows = now[column]
        if not len(rows):
            continue
        held = kept[settings, draws[rows]]
        given = [np.broadcast_to(code, reached.shape)[settings, rows] for code in inputs]
        _, first, place = np.unique(orders.joined([rows, held, *given]), return_index=True, return_inverse=True)
        remembered = list(places)
        found = run([(rows[each], settings[each], remembered[held[each]]) for each in first])
        left = np.array(
            [_left(state, memory, places, int(held[each])) for state, each in zip(found, first, strict=True)]
        )
        index[settings, rows] = len(states) + place.ravel()
        kept[settings, draws[rows]] = left[place.ravel()]
        states += found
    return NodeStates(states, index)


def _left(state: State, memory: Memory | None, places: dict[Any, int], held: int) -> int:
    """The place of what is remembered after a turn."""
    if memory is None or not state.ok or state.rescued:
        return held
    return places.setdefault(state.ports[memory.port], len(places))
