"""Where signals that stop early would stop in a replay: one whole run of each request tells it for every threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration.columns import Floats
from dynflow.calibration.orders import Codes
from dynflow.calibration.rules import StopRule
from dynflow.calibration.signals import Progress
from dynflow.calibration.trajectories import Trajectories
from dynflow.graph import NodePlan
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.flow import Flow


class Stops:
    """Whole runs of a graph's signals on all requests of a replay, each made once."""

    def __init__(self, flow: Flow, requests: Sequence[Request], params: Mapping[str, Any], progress: Progress) -> None:
        """`params` are the values of the graph's."""
        self._flow = flow
        self._requests = requests
        self._params = params
        self._progress = progress
        self._runs: dict[str, tuple[Trajectories, list[int]] | None] = {}

    def rule(self, plan: NodePlan, param: str) -> StopRule | None:
        """How a param decides where a signal stops; None where it does not, or anything else decides what it gives."""
        if len(plan.options.references()) != 1:
            return None
        rule = self._flow.resources.cold_node(plan.id).stop_rule(self._params)
        return rule if rule is not None and rule.param == param and rule.text is not None else None

    def codes(self, plan: NodePlan, param: str, values: Floats) -> Codes | None:
        """A number [t, n] for each place where the requests stop under these values [t] of a param; None: `rule` is."""
        rule = self.rule(plan, param)
        found = None if rule is None else self._whole_runs(plan, rule)
        if rule is None or found is None:
            return None
        trajectories, rows = found
        codes = np.zeros((len(values), len(self._requests)), dtype=np.int64)  # what cannot be read fails anywhere
        codes[:, rows] = trajectories.stops(-values if rule.falling else values)
        return codes

    def scores(self, plan: NodePlan, param: str) -> Floats:
        """The different numbers that a param is compared with."""
        rule = self.rule(plan, param)
        found = None if rule is None else self._whole_runs(plan, rule)
        if rule is None or found is None:
            return np.zeros(0)
        scores = found[0].score[:, :-1].astype(np.float64)
        return np.unique((-scores if rule.falling else scores)[np.isfinite(scores)])

    def _whole_runs(self, plan: NodePlan, rule: StopRule) -> tuple[Trajectories, list[int]] | None:
        """The whole runs, and the requests that they are of; None where none can be read."""
        if plan.id not in self._runs:
            assert rule.text is not None
            texts = [rule.text(request) for request in self._requests]
            rows = [row for row, text in enumerate(texts) if rule.fault(text) is None]
            self._runs[plan.id] = None
            if rows:
                runs = rule.runs([texts[row] for row in rows], self._progress, False)
                self._runs[plan.id] = runs.against(runs.whole), rows
        return self._runs[plan.id]
