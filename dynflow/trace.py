"""What happened and why: the record of a request. The one module that holds the names of events and attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from dynflow.answers import finite
from dynflow.errors import (
    BudgetExceeded,
    DeadlineExceeded,
    DynflowError,
    MissingDependency,
    MissingEnvironment,
    MissingModel,
    NodeTimeout,
    Overloaded,
    StreamInterrupted,
    failure_kind,
)
from dynflow.ledger import Ledger
from dynflow.node import Cancelled
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

# Attributes of spans: of a node's first, then of the flow's.
DECISION_EDGE = "dynflow.decision.edge"
"""The edge that led to the node, as `from -> to`."""
DECISION_INDEX = "dynflow.decision.index"
"""Its place in the file's list of edges."""
DECISION_WHEN = "dynflow.decision.when"
"""Its condition; absent on a default edge."""
DECISION_VALUE = "dynflow.decision.values.{}"
"""A value that conditions read on the way to the decision, by port."""
NODE_TYPE = "dynflow.node.type"
NODE_OK = "dynflow.node.ok"
NODE_ERROR = "dynflow.node.error"
"""The kind of failure, as the node's `error` port has it."""
NODE_USD = "dynflow.node.usd"
"""What the node cost, USD; absent where a price is unknown."""
NODE_ATTEMPTS = "dynflow.node.attempts"
"""Attempts at its model."""
DEGRADED = "dynflow.degraded"
"""Of a flow: its path left a failed node. Of a node: the edge to it did."""
GRAPH = "dynflow.graph"
GRAPH_HASH = "dynflow.graph_hash"
PATH = "dynflow.path"
"""Nodes in the order walked."""
ANSWER = "dynflow.answer"
"""The node that gave the result."""
OUTCOME = "dynflow.outcome"
USD = "dynflow.usd"
SAVED_USD = "dynflow.saved_usd"

T = TypeVar("T")
Outcome = Literal["ok", "failed", "cancelled", "interrupted"]
"""How a request ended. `cancelled`: nobody waited any more, also where a stream was abandoned; `interrupted`: the
answer broke off after its first token."""

_OWN_WORDS = frozenset(
    {
        BudgetExceeded,
        DeadlineExceeded,
        MissingDependency,
        MissingEnvironment,
        MissingModel,
        NodeTimeout,
        Overloaded,
    }
)
"""Errors whose words are all ours: names and numbers of the graph. What any other says may repeat the request."""
_LONGEST_MESSAGE = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """How a node or a request failed."""

    kind: str
    """As a node's `error` port has it."""
    type: str
    """The exception's class."""
    message: str
    """The first line of what it says; it may repeat the request or the answer, unless `harmless`."""
    harmless: bool

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is."""
        return cls(failure_kind(error), type(error).__name__, first_line(error), type(error) in _OWN_WORDS)

    def as_dict(self, *, content: bool) -> dict[str, Any]:
        """Plain values, for metadata and JSON."""
        told = {"message": self.message} if content or self.harmless else {}
        return {"error": self.kind, "error_type": self.type, **told}


def first_line(error: BaseException) -> str:
    """What an error says, in one line; errors that are not ours are named by their class."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    if len(line) > _LONGEST_MESSAGE:
        line = f"{line[: _LONGEST_MESSAGE - 1]}…"
    return line if isinstance(error, DynflowError) else f"{type(error).__name__}: {line}"


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
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()

    @property
    def error(self) -> str | None:
        """The kind of failure; None where it succeeded."""
        return self.failure.kind if self.failure else None

    @property
    def message(self) -> str | None:
        """What the error said, in one line."""
        return self.failure.message if self.failure else None

    def as_dict(self, *, content: bool = True) -> dict[str, Any]:
        """Plain values, for metadata and JSON."""
        return {
            "node": self.node,
            "type": self.type,
            "ok": self.ok,
            "seconds": round(self.seconds, 6),
            "usd": self.usd,
            "values": finite(self.values),
            **(self.failure.as_dict(content=content) if self.failure else {}),
            **({"notes": list(self.notes)} if self.notes else {}),
            **({"attempts": [asdict(attempt) for attempt in self.attempts]} if self.attempts else {}),
        }


@dataclass
class Trace:
    """The record of one request's walk: numbers and names, never content."""

    graph: str
    graph_hash: str | None = None
    """What the graph is known by (`dynflow.hashes.graph_hash`)."""
    id: str | None = None
    """The flow's LangChain run id."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    """From the first node's start to the end."""
    outcome: Outcome | None = None
    """None while the request is under way."""
    failure: Failure | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    """Params as they were used."""
    input: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and flags of the request: its tokens, and what conditions of the graph may read."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Lengths of texts and lists that conditions of the graph may ask for, by port."""
    closed: tuple[str, ...] = ()
    """Nodes that the request could not go to."""
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

    def end(self, error: BaseException | None, seconds: float) -> None:
        """Say how the request ended, and after how long."""
        self.seconds = seconds
        self.outcome = outcome_of(error)
        self.failure = Failure.of(error) if error is not None and self.outcome != "cancelled" else None

    def as_dict(self, *, content: bool = True) -> dict[str, Any]:
        """Plain values, for metadata and JSON; without `content`, no words of an error that may repeat the request."""
        return {
            "id": self.id,
            "graph": self.graph,
            "graph_hash": self.graph_hash,
            "started": self.started.isoformat(timespec="milliseconds"),
            "seconds": round(self.seconds, 6),
            "outcome": self.outcome,
            **(self.failure.as_dict(content=content) if self.failure else {}),
            "answer": self.answer,
            "path": self.path,
            "degraded": self.degraded,
            "params": dict(self.params),
            "input": finite(self.input),
            **({"lengths": dict(self.lengths)} if self.lengths else {}),
            **({"closed": list(self.closed)} if self.closed else {}),
            "decisions": [decision_as_dict(decision) for decision in self.decisions],
            "nodes": [visit.as_dict(content=content) for visit in self.visits],
            **(
                {"inner": {node: trace.as_dict(content=content) for node, trace in self.inner.items()}}
                if self.inner
                else {}
            ),
        }


def outcome_of(error: BaseException | None) -> Outcome:
    """How a request ended that ended with this error, or with none."""
    if error is None:
        return "ok"
    if isinstance(error, StreamInterrupted):
        return "interrupted"
    return "failed" if isinstance(error, Exception) and not isinstance(error, Cancelled) else "cancelled"


def record_of(trace: Trace, ledger: Ledger, *, content: bool = True) -> dict[str, Any]:
    """A request's record as plain values: its trace, with the ledger in it."""
    return {**trace.as_dict(content=content), "ledger": ledger.as_dict()}


def decision_as_dict(decision: Decision) -> dict[str, Any]:
    """The payload of a `dynflow.decision` event."""
    return {
        "from": decision.source,
        "to": decision.target,
        "edge": decision.edge,
        "when": decision.when,
        "values": finite(decision.values),
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
        """The record as plain values: what `response_metadata["dynflow"]` holds."""
        return record_of(self.trace, self.ledger)
