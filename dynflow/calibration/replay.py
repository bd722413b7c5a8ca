"""Replay: a graph walks recorded requests with many settings of its params at once, and no model is called.

Signals run for real, once for each request and each different input; what answers and models gave is read from an
outcome file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynflow.calibration.columns import Flags, Floats
from dynflow.calibration.kept import KeptOutputs
from dynflow.calibration.outcomes import Fault, OutcomeFile, outcome_error
from dynflow.calibration.recorded import Bindings, Recorded, recorded
from dynflow.calibration.signals import Progress, Signals
from dynflow.calibration.walked import Params, Walked, joined
from dynflow.calibration.walking import Walking
from dynflow.eligible import closed_nodes
from dynflow.errors import InputError
from dynflow.language.expression import Term
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.flow import Flow

_MOST_CELLS = 4_000_000
"""Settings times rows that are walked at once."""


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
        self.signals = Signals(flow, progress, kept)
        self.closed = self._closed_nodes()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def defaults(self) -> Params:
        """The params as the graph has them."""
        return {name: body.default for name, body in self.flow.params.items() if "/" not in name}

    @property
    def failures(self) -> Mapping[str, int]:
        """How often a signal failed, by node: on different requests, or different values of what it reads."""
        return self.signals.failures

    @property
    def first_failure(self) -> Mapping[str, Exception]:
        """How each signal failed first."""
        return self.signals.first_failure

    @property
    def succeeded(self) -> frozenset[str]:
        """Signals that gave anything at all."""
        return frozenset(self.signals.succeeded)

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
        parts = [Walking(self, whole[start : start + step]).walked() for start in range(0, len(whole), step)]
        return parts[0] if len(parts) == 1 else joined(parts)

    def numbers(self, settings: Sequence[Params], terms: Sequence[Term]) -> list[Floats]:
        """The different values that numeric terms of conditions take, under any of these settings."""
        walk = Walking(self, [{**self.defaults, **setting} for setting in settings])
        walk.walked()
        return [walk.different(term) for term in terms]

    def measured(self, setting: Params) -> dict[str, Floats]:
        """Numbers [of the requests that come by] that signals give and conditions read, by `node.port`."""
        walk = Walking(self, [{**self.defaults, **setting}])
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
