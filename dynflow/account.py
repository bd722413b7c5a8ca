"""One request's money: what its visits reserve, cost and leave, and what the baseline would have cost."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from dynflow.billing import Charge, settle, surely_unbilled
from dynflow.budgets import BaselineShare, Budget
from dynflow.graph import CheckedGraph
from dynflow.ledger import Entry, Ledger, Usage, cost
from dynflow.models.known import Known
from dynflow.node import Cancelled
from dynflow.prompt_size import PromptSize
from dynflow.visit import Completed, Visit
from dynflow.walk import State


class Account:
    """Charges the visits of one request, bills each once, and keeps the ledger."""

    def __init__(
        self,
        graph: CheckedGraph,
        known: Callable[[str], Known],
        budget: Budget,
        share: BaselineShare | None = None,
        caller: str = "",
    ) -> None:
        self.graph = graph
        self.known = known
        self.budget = budget
        self.ledger = Ledger(baseline=graph.spec.baseline)
        self._share = share
        self._caller = caller
        self._settling = threading.Lock()
        if share is not None:
            share.arrive(caller)

    def left(self, port: str) -> float:
        """What a condition reads of `budget`: USD of the request, USD of the day, or visits of the baseline."""
        if port == "baseline_left":
            return math.inf if self._share is None else self._share.left(self._caller)
        return self.budget.request_left if port == "request_left_usd" else self.budget.day_left

    def admit(self, visit: Visit) -> None:
        """Count a visit of the baseline where callers have a share of it. Raises `BudgetExceeded`."""
        if self._share is not None and visit.node_id == self.graph.spec.baseline:
            visit.admitted = self._share.admit(self._caller)

    def charge(
        self, visit: Visit, model: str, prompt: PromptSize, max_tokens: int | None, seconds_left: float
    ) -> Charge:
        """Reserve what one attempt at a model can cost at most. Raises `BudgetExceeded`; `Cancelled` after the bill."""
        limit = self.graph.spec.limits.max_tokens
        wanted = min((value for value in (max_tokens, limit) if value is not None), default=None)
        about = self.known(model)
        context = about.capabilities.context
        allowed, reservation = self.budget.reserve(model, about.price, prompt, wanted, context, seconds_left)
        if allowed != wanted:
            note = f"max_tokens is {allowed}: the limits afford no more"
            visit.notes[:] = [*(each for each in visit.notes if not each.startswith("max_tokens is ")), note]
        with self._settling:
            if not visit.settled:
                visit.charges.append(Charge(model, about.price, prompt, allowed, reservation))
                return visit.charges[-1]
        reservation.settle(0.0)  # a thread that came too late
        raise Cancelled

    def bill(self, visit: Visit, done: Completed, inner: Callable[[], float | None]) -> None:
        """Bill a visit that ended, or (neither output nor error) was called off; once. `visit` then holds the bill.

        `inner` takes over what the sub-graphs of the visit cost. A node that made no charge tells its usage alone.
        """
        with self._settling:
            if visit.settled:
                return
            visit.settled = True
            if visit.inner:
                visit.usd = inner()
                return
            usage = done.output.usage if done.output is not None else getattr(done.error, "usage", None)
            if visit.charges:
                visit.usage, visit.usd = settle(visit.charges, usage, done.error, done.seconds)
            else:
                visit.usage = usage
                visit.usd = 0.0 if usage is None else cost(self.known(usage.model).price, usage, done.seconds)
                self.budget.spend(visit.usd or 0.0)
        self._give_back(visit, done.error)

    def _give_back(self, visit: Visit, error: Exception | None) -> None:
        """What surely cost nothing (the breaker was open, say) takes nothing of the caller's share."""
        if self._share is None or visit.admitted is None or error is None:
            return
        if surely_unbilled(error) and all(charge.usage is None for charge in visit.charges):
            self._share.give_back(self._caller, visit.admitted)

    def enter(self, visit: Visit, seconds: float) -> float | None:
        """Write a billed visit's line; what its `usd` port says.

        A sub-graph's cost stands in its nodes' own lines, and a group's in its members', those of losers too.
        """
        if not visit.inner:
            first = visit.charges[-1].first_token_seconds if visit.charges else None
            self.ledger.entries.append(Entry(visit.node_id, seconds, visit.usd, visit.usage, first))
        if not visit.plan.members:
            return visit.usd
        costs = [entry.usd for entry in self.ledger.entries if entry.node.partition("/")[0] in visit.plan.members]
        return None if None in costs else math.fsum(usd for usd in costs if usd is not None)

    def compare(self, answer: str, baseline: State | None, request_tokens: int) -> None:
        """What the baseline did cost, or would have: its price for the answer's tokens."""
        name = self.graph.spec.baseline
        if name is None:
            return
        if baseline is not None and baseline.ok:
            self.ledger.baseline_usd = baseline.usd
            return
        entries = {entry.node: entry for entry in self.ledger.entries}
        model = self.graph.nodes[name].model
        usage = entries[answer].usage if answer in entries else None
        if model is None or usage is None:
            return
        same = Usage(model, usage.input_tokens or request_tokens, usage.output_tokens, estimated=True)
        self.ledger.baseline_usd = cost(self.known(model).price, same)
