"""What a sub-graph gives where a replay walks inside it, as the graph around it reads that."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration.columns import Column, Flags, Floats
from dynflow.calibration.walked import Index
from dynflow.errors import NoEligibleAnswer, failure_kind
from dynflow.graph import NodePlan
from dynflow.language.evaluate import UNKNOWN

if TYPE_CHECKING:
    from dynflow.calibration.walking import Walking

UNTOLD = frozenset({"seconds", "tokens"})
"""Ports that a replay cannot tell of a sub-graph."""


class InsideStates:
    """The ports of a sub-graph are those of the answer that its walk ended with (`Given`)."""

    def __init__(self, plan: NodePlan, walking: Walking) -> None:
        self.walking = walking
        self._stand_in = plan.common.on_failure
        answered: Flags = walking.answer >= 0
        self.ok: Flags = answered if self._stand_in is None else np.ones_like(answered)
        self.rescued: Flags = walking.degraded | ~answered

    @cached_property
    def index(self) -> Index:
        """Another number for each answer and each different output of it."""
        codes = np.full(self.walking.shape, -1, dtype=np.int32)
        size = 0
        for place, name in enumerate(self.walking.names):
            if (ended := self.walking.answer == place).any():
                inner = self._answer(name)
                codes[ended] = size + np.broadcast_to(inner.index, codes.shape)[ended]
                size += int(inner.index.max(initial=0)) + 1
        return codes

    def column(self, port: str, reached: Flags) -> Column:
        """A port where the walk has come by; unknown elsewhere."""
        always = np.array(True)
        if port == "ok":
            return Column(self.ok & reached, always)
        if port == "failed":
            return Column(~self.ok & reached, always)
        if port == "usd":
            return Column(self.walking.spent, reached & ~np.isnan(self.walking.spent))
        if port == "error":
            return Column.of_array(self._errors()).where(reached)
        values = np.full(self.walking.shape, UNKNOWN, dtype=object)
        for place, name in enumerate(self.walking.names):
            if (ended := self.walking.answer == place).any():
                values[ended] = self._answer(name).column(port, ended).objects()[ended]
        if port == "degraded":
            values = self.walking.degraded.astype(object)
            values[self.walking.answer < 0] = UNKNOWN
        if self._stand_in is not None:
            values[self.walking.answer < 0] = self._stand_in.get(port, UNKNOWN)
        return Column.of_array(values).where(reached)

    def value(self, setting: int, row: int, port: str) -> Any:
        """A port in one place where the walk has come by."""
        place = int(self.walking.answer[setting, row])
        if place < 0:
            return UNKNOWN if self._stand_in is None else self._stand_in.get(port, UNKNOWN)
        if port == "usd":
            return float(self.walking.spent[setting, row])
        if port == "degraded":
            return bool(self.walking.degraded[setting, row])
        return self._answer(self.walking.names[place]).value(setting, row, port)

    def usd(self) -> Floats:
        """What it cost; NaN where nobody knows."""
        return self.walking.spent

    def _answer(self, name: str) -> Any:
        """What an answer of the sub-graph gave, or of a graph inside that."""
        return self.walking.nodes[name.partition("/")[0]]

    def _errors(self) -> Any:
        """How the walk inside failed: as the node did that no edge leads on from."""
        errors = np.full(self.walking.shape, None, dtype=object)
        if self._stand_in is None:
            errors[self.walking.answer < 0] = failure_kind(NoEligibleAnswer(""))
            for name, stuck in self.walking.stuck.items():
                failed = stuck & np.broadcast_to(~self.walking.nodes[name].ok, stuck.shape)
                errors[failed] = self.walking.nodes[name].column("error", failed).objects()[failed]
        return errors
