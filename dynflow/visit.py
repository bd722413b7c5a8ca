"""A visit: one node that one request runs, from the decision that led there to how it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynflow.billing import Charge
from dynflow.budgets import Budget
from dynflow.errors import DeadlineExceeded, NodeTimeout
from dynflow.graph import NodePlan
from dynflow.ledger import Usage
from dynflow.node import Output
from dynflow.trace import Attempt, FlowResult
from dynflow.walk import Decision

if TYPE_CHECKING:
    from dynflow.session import Session


@dataclass(frozen=True)
class Enclosing:
    """What a request inside a sub-graph shares with the request around it; `results` takes its outcome."""

    visit: Visit
    """The visit that walks the sub-graph: calling it off calls off what runs inside."""
    deadline: float
    budget: Budget
    results: list[FlowResult[Any]] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    """The inner requests, so that their cost and record are kept also where they failed."""


@dataclass(slots=True)
class Visit:
    """One node that is to be run for this request. `live`: its chunks go out as they come."""

    node_id: str
    plan: NodePlan
    live: bool
    decision: Decision | None
    """The edge that led here; None for a member of a group."""
    around: Visit | None = None
    """The visit that this one is part of: its group's, or the one that walks its sub-graph."""
    ends: float = math.inf
    """When its time is up, by the session's clock."""
    time_limit: float = math.inf
    """Seconds after which the runner ends it; infinite where the visit around it ends it in time."""
    expiry: type[NodeTimeout | DeadlineExceeded] = NodeTimeout
    """Which error it is to take longer than that."""
    interruptible: bool = False
    charges: list[Charge] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    admitted: str | None = None
    """The day on which it counts as its caller's visit of the baseline, where such visits are limited."""
    settled: bool = False
    usage: Usage | None = None
    usd: float | None = 0.0
    """What it used and cost, once it is settled; None where a price is unknown."""
    inner: list[Enclosing] = field(default_factory=list)
    """What was handed to sub-graphs."""
    run: Any = None
    """Its LangChain run; None where nobody looks."""
    _called_off: bool = False

    @property
    def group(self) -> Visit | None:
        """The visit of the group that this one is a member of."""
        return self.around if self.decision is None else None

    @property
    def called_off(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._called_off or (self.around is not None and self.around.called_off)

    def call_off(self) -> None:
        """Nobody waits for this visit any more, nor for those that are part of it."""
        self._called_off = True

    def expired(self) -> NodeTimeout | DeadlineExceeded:
        """The error of a visit that took too long."""
        limit = "limits.timeout" if self.expiry is DeadlineExceeded else "its timeout"
        return self.expiry(f"node {self.node_id!r} did not finish within {limit}")


@dataclass(frozen=True, slots=True)
class Completed:
    """How a visit ended: with an output or an error, after so many seconds."""

    seconds: float
    output: Output | None = None
    error: Exception | None = None
