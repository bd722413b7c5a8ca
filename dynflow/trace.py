"""What happened and why. The one module that holds names of events and attributes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

from dynflow.ledger import Ledger
from dynflow.walk import Decision

DECISION_EVENT = "dynflow.decision"
"""Name of the custom event sent for each edge taken."""
METADATA_KEY = "dynflow"
"""Key of `response_metadata` that holds an answer's record."""
NODE_TAG = "graph:node:{}"
"""Tag of each node's run."""
HELD_TAG = "nostream"
"""Tag of runs whose tokens must not leave the flow; LangGraph's message stream honours it."""

HIDDEN_TAG = "langsmith:hidden"
"""Tag of runs that LangGraph must not take for one of its own nodes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a model: how long it took, how it failed (None: it did not), and what came before it."""

    model: str
    seconds: float
    error: str | None = None
    """The kind of failure, as a node's `error` port has it."""
    waited: float = 0.0
    """Seconds waited before it."""
    breaker: str = "closed"
    """The model's circuit breaker as the attempt was made: `closed`, `half_open`, or `open` (it was not sent)."""


@dataclass(frozen=True, slots=True)
class Visited:
    """One node's run."""

    node: str
    type: str
    ok: bool
    seconds: float
    usd: float | None
    values: Mapping[str, Any]
    """Its numbers and labels; never content."""
    error: str | None = None
    message: str | None = None
    notes: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()


@dataclass
class Trace:
    """The record of one request's walk."""

    graph: str
    visits: list[Visited] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    degraded: bool = False
    answer: str | None = None
    """The node that gave the result."""
    inner: dict[str, Trace] = field(default_factory=dict)
    """Records of the sub-graphs walked, by the node that did."""

    @property
    def path(self) -> list[str]:
        """Nodes in the order walked, from `start` to `end`."""
        return ["start", *(decision.target for decision in self.decisions)] if self.decisions else []

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for metadata and JSON."""
        return {
            "graph": self.graph,
            "answer": self.answer,
            "path": self.path,
            "degraded": self.degraded,
            "decisions": [decision_as_dict(decision) for decision in self.decisions],
            "nodes": [
                {
                    "node": visit.node,
                    "type": visit.type,
                    "ok": visit.ok,
                    "seconds": round(visit.seconds, 6),
                    "usd": visit.usd,
                    "values": _plain(visit.values),
                    **({"error": visit.error, "message": visit.message} if visit.error else {}),
                    **({"notes": list(visit.notes)} if visit.notes else {}),
                    **({"attempts": [asdict(attempt) for attempt in visit.attempts]} if visit.attempts else {}),
                }
                for visit in self.visits
            ],
            **({"inner": {node: trace.as_dict() for node, trace in self.inner.items()}} if self.inner else {}),
        }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values fit for JSON, which has no word for infinity: a budget without a limit is null."""
    return {
        name: _plain(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for name, value in values.items()
    }


def decision_as_dict(decision: Decision) -> dict[str, Any]:
    """The payload of a `dynflow.decision` event."""
    return {
        "from": decision.source,
        "to": decision.target,
        "edge": decision.edge,
        "when": decision.when,
        "values": _plain(decision.values),
        "degraded": decision.degraded,
    }


@dataclass(frozen=True)
class FlowResult(Generic[T]):
    """What `Flow.run` gives: the answer, how it came about, and what it cost."""

    value: T
    trace: Trace
    ledger: Ledger
    ports: Mapping[str, Any] = field(default_factory=dict)
    """Ports of the node that gave the answer."""

    def metadata(self) -> dict[str, Any]:
        """Trace and ledger as plain values: what `response_metadata["dynflow"]` holds."""
        return {**self.trace.as_dict(), "ledger": self.ledger.as_dict()}
