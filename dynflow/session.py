"""One request on its way: the walk's bookkeeping (time, money, record) around each visit of a node."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from pydantic import ValidationError

from dynflow.billing import Charge, settle, surely_unbilled
from dynflow.budgets import BaselineShare, Budget, caller_of
from dynflow.eligible import closed_nodes, lack
from dynflow.errors import (
    DeadlineExceeded,
    InputError,
    NodeFailed,
    NodeTimeout,
    NoEligibleAnswer,
    failure_kind,
)
from dynflow.graph import CheckedGraph
from dynflow.language.evaluate import UNKNOWN
from dynflow.language.references import AnyReference, Reference
from dynflow.ledger import Entry, Ledger, Usage, cost
from dynflow.models.known import Known
from dynflow.node import Call, Cancelled, Member, Node
from dynflow.ports import plain_ports, port_fault
from dynflow.prompt_size import PromptSize
from dynflow.request import Request
from dynflow.trace import METADATA_KEY, Failure, FlowResult, Trace, Visited, first_line
from dynflow.visit import Completed, Enclosing, Visit
from dynflow.walk import Decision, State, Walk


class FlowParts(Protocol):
    """What a session needs of its flow."""

    graph: CheckedGraph

    def node(self, name: str) -> Node:
        """The node, ready to run."""
        ...

    def is_warm(self, name: str) -> bool:
        """Whether the node is warmed up, so that `node` returns at once."""
        ...

    def known(self, model: str) -> Known:
        """Price and capabilities of an entry of `models:`."""
        ...


class Session:
    """Walks one request: `next` says what to run, `complete` takes how it went, `result` ends it."""

    def __init__(
        self,
        flow: FlowParts,
        request: Request,
        params: Mapping[str, Any],
        budget: Budget,
        configurable: Mapping[str, Any],
        enclosing: Enclosing | None = None,
        clock: Callable[[], float] = time.monotonic,
        share: BaselineShare | None = None,
        trace: Trace | None = None,
    ) -> None:
        graph = flow.graph
        limits = graph.spec.limits
        self.flow = flow
        self.graph = graph
        self.request = request
        self.params = params
        self.budget = budget
        self.enclosing = enclosing
        self.configurable = configurable
        self.clock = clock
        self.deadline: float | None = None
        """When the request's time is up; it runs from the first visit, not while a batch queues."""
        if limits.max_input_tokens is not None and request.tokens > limits.max_input_tokens:
            raise InputError(
                f"the request has about {request.tokens:,} tokens; "
                f"limits.max_input_tokens is {limits.max_input_tokens:,}"
            )
        self.closed = closed_nodes(graph, flow.known, request)
        self.walk = Walk(graph, self._outside, self.closed)
        self.trace = Trace(graph.name) if trace is None else trace
        self.trace.params, self.trace.closed = params, tuple(sorted(self.closed))
        self.ledger = Ledger(baseline=graph.spec.baseline)
        self._values: dict[str, Any] = {}
        self._errors: dict[str, Exception] = {}
        self._running: dict[int, tuple[Visit, float]] = {}
        """Visits begun and not taken down yet, with when they began."""
        self._began: float | None = None
        self._settling = threading.Lock()
        if enclosing is not None:
            enclosing.sessions.append(self)
        self._share = share
        self._caller = caller_of(configurable) if share is not None else ""
        if share is not None:
            share.arrive(self._caller)

    # What conditions and references read

    def _outside(self, owner: str, name: str) -> Any:
        if owner == "params":
            return self.params[name]
        if owner == "input":
            return self.request.port(name)
        if name == "seconds_left":
            return self.seconds_left()
        if name == "baseline_left":
            return math.inf if self._share is None else self._share.left(self._caller)
        return self.budget.request_left if name == "request_left_usd" else self.budget.day_left

    def _read(self, reference: AnyReference) -> Any:
        assert isinstance(reference, Reference)
        for owner, port in reference.targets:
            name, _, key = port.partition(".")
            value = self.walk.lookup(owner, name)
            if key and isinstance(value, Mapping):
                value = value.get(key, UNKNOWN)
            if value is not UNKNOWN:
                return value
        return None

    # The way

    def next(self) -> Visit | None:
        """The next node to run, or None at the end.

        Raises the error of a failed node that no edge handles, and `NoEligibleAnswer`.
        """
        failed_at = self.walk.at
        try:
            decision = self.walk.advance()
        except NoEligibleAnswer as closed:
            cause = self._errors.get(failed_at)
            failed = f"{failed_at!r} failed ({first_line(cause)}); " if cause is not None else ""
            lacking = (
                lack(model, self.flow.known(model).capabilities, self.request) for model in self.graph.spec.models
            )
            why = "; ".join(filter(None, lacking))
            raise NoEligibleAnswer(f"{failed}{closed}{f' ({why})' if why else ''}") from cause
        if decision is None:
            error = self._errors[failed_at]
            if not any("in node" in note for note in getattr(error, "__notes__", ())):
                error.add_note(f"in node {failed_at!r} of graph {self.trace.graph!r}; no edge handles its failure")
            raise error
        return None if self.walk.finished else self.visit(decision.target, decision)

    def visit(self, node_id: str, decision: Decision | None = None, group: Visit | None = None) -> Visit:
        """A visit of a node: the walk's next one, or that of a group's member."""
        plan = self.graph.nodes[node_id]
        live = decision is not None and node_id in self.graph.live
        if self.enclosing is not None:
            live = live and self.enclosing.visit.live
        around = group if group is not None or self.enclosing is None else self.enclosing.visit
        return Visit(node_id, plan, live, decision, around, interruptible=group is not None)

    def seconds_left(self) -> float:
        """Seconds until the request's deadline; the first look at it starts its time."""
        now = self.clock()
        return self._deadline(now) - now

    def _deadline(self, now: float) -> float:
        if self.deadline is None:
            timeout = self.graph.spec.limits.timeout
            self.deadline = now + timeout if timeout is not None else math.inf
            if self.enclosing is not None:
                self.deadline = min(self.deadline, self.enclosing.deadline)
        return self.deadline

    def begin(self, visit: Visit) -> None:
        """Give a visit its time, as it starts to run."""
        plan, around, now = visit.plan, visit.around, self.clock()
        ends = self._deadline(now)
        if self._began is None:  # a request of a batch may have waited until here
            self._began, self.trace.started = now, datetime.now(UTC)
        if plan.cls.instant:
            ends = math.inf  # a canned reply may still go out when the time is up
        self._running[id(visit)] = (visit, now)
        visit.expiry = DeadlineExceeded
        if plan.common.timeout is not None and now + plan.common.timeout <= ends:
            ends, visit.expiry = now + plan.common.timeout, NodeTimeout
        visit.ends = ends
        # Two watchers of one deadline would race for who reports it: the outer one does.
        watched = around is not None and around.ends <= ends and now < ends
        visit.time_limit = math.inf if watched else ends - now
        if ends < math.inf or (around is not None and around.interruptible):
            visit.interruptible = True

    def call(self, visit: Visit, config: RunnableConfig, members: Mapping[str, Member]) -> Call:
        """What the node gets to see. Raises where its options do not resolve, its time is up, or nobody waits."""
        if visit.called_off:
            raise Cancelled
        if visit.time_limit <= 0:
            raise visit.expired()
        if visit.node_id in self.closed:  # a group's member; the walk goes to no such node
            raise NoEligibleAnswer(f"the model of {visit.node_id!r} cannot take what this request holds")
        if self._share is not None and visit.node_id == self.graph.spec.baseline:
            visit.admitted = self._share.admit(self._caller)
        options = visit.plan.options
        try:
            if visit.plan.has_references:
                options = options.resolve(self._read)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            option = ".".join(map(str, first["loc"]))
            raise InputError(f"option {option!r} of node {visit.node_id!r}: {first['msg']}") from None

        def charge(model: str, prompt: PromptSize, max_tokens: int | None) -> Charge:
            return self._charge(visit, model, prompt, max_tokens)

        def nest() -> Enclosing:
            if visit.settled:  # its bill is made out: whoever still runs for it must begin nothing
                raise Cancelled
            enclosing = Enclosing(visit, self._deadline(self.clock()), self.budget)
            visit.inner.append(enclosing)
            return enclosing

        signal = "signal" in (visit.plan.role, visit.group.plan.role if visit.group else None)

        return Call(
            request=self.request,
            options=options,
            config=config,
            called_off=lambda: visit.called_off,
            seconds_left=lambda: visit.ends - self.clock(),
            charge=charge,
            attempts=visit.attempts,
            members=members,
            configurable=self.configurable,
            call_options={} if signal else self.request.call_options,
            nest=nest,
            interruptible=visit.interruptible,
        )

    def complete(self, visit: Visit, done: Completed) -> None:
        """Take down how a visit went; an output that is not what the node's ports declare is a failure.

        Raises `Cancelled` where nobody waits for this request any more: it goes no further.
        """
        if isinstance(done.error, Cancelled) or id(visit) not in self._running:
            self.forget(visit)
            raise Cancelled
        del self._running[id(visit)]
        fault = port_fault(visit.plan.ports, done.output.ports) if done.output is not None else None
        if done.output is not None and fault is not None:
            text = f"the node type {visit.plan.cls.type!r} broke its own word: {fault}"
            done = Completed(done.seconds, None, NodeFailed(text, usage=done.output.usage))
        output, plan = done.output, visit.plan
        error = failure_kind(done.error) if done.error is not None else None
        self.settle(visit, done)
        usage, usd = visit.usage, self._of_members(visit) if plan.members else visit.usd
        if self._share is not None and visit.admitted and done.error is not None and surely_unbilled(done.error):
            # The breaker was open, say: what cost nothing takes nothing of the caller's share.
            if all(charge.usage is None for charge in visit.charges):
                self._share.give_back(self._caller, visit.admitted)
        on_failure = plan.common.on_failure if done.error is not None else None
        if output is not None:
            state = State(True, output.ports, None, done.seconds, usd, rescued=output.degraded)
            self._values[visit.node_id] = output.value
        else:
            assert done.error is not None
            self._errors[visit.node_id] = done.error
            rescued = on_failure is not None
            state = State(rescued, on_failure or {}, None if rescued else error, done.seconds, usd, rescued)
        self.walk.states[visit.node_id] = state
        if not visit.inner:  # a sub-graph's cost stands in its nodes' own lines
            first = visit.charges[-1].first_token_seconds if visit.charges else None
            self.ledger.entries.append(Entry(visit.node_id, done.seconds, visit.usd, usage, first))
        self.trace.visits.append(
            Visited(
                visit.node_id,
                plan.cls.type,
                done.error is None,
                done.seconds,
                usd,
                plain_ports(state.ports, plan.ports, self.graph.words),
                Failure.of(done.error) if done.error is not None else None,
                (*visit.notes, *(output.notes if output is not None else ())),
                tuple(visit.attempts),
            )
        )

    def forget(self, visit: Visit) -> None:
        """Take down a visit that was called off: it counts as not run, but what it may have cost is billed. Once."""
        _, began = self._running.pop(id(visit), (None, None))
        if began is None:
            return
        seconds = self.clock() - began
        self.settle(visit, Completed(seconds))
        if not visit.inner:
            self.ledger.entries.append(Entry(visit.node_id, seconds, visit.usd, visit.usage))

    def uncount(self, node_id: str) -> None:
        """A node that ran counts as not run after all; its cost stays in the ledger."""
        self.walk.states.pop(node_id, None)
        self.trace.visits[:] = [visited for visited in self.trace.visits if visited.node != node_id]

    def settle(self, visit: Visit, done: Completed) -> None:
        """Bill a visit that ended, or (neither output nor error) was called off; once. `visit` then holds the bill."""
        with self._settling:
            if visit.settled:
                return
            visit.settled = True
            if visit.inner:
                visit.usd = self._take_over(visit)
                return
            output = done.output
            usage = output.usage if output is not None else getattr(done.error, "usage", None)
            visit.usage, visit.usd = self._settle(visit, usage, done.error, done.seconds)

    def _charge(self, visit: Visit, model: str, prompt: PromptSize, max_tokens: int | None) -> Charge:
        """Reserve what one attempt at a model can cost at most. Raises `BudgetExceeded`."""
        limit = self.graph.spec.limits.max_tokens
        wanted = min((value for value in (max_tokens, limit) if value is not None), default=None)
        about = self.flow.known(model)
        seconds = visit.ends - self.clock()
        allowed, reservation = self.budget.reserve(
            model, about.price, prompt, wanted, about.capabilities.context, seconds
        )
        if allowed != wanted:
            note = f"max_tokens is {allowed}: the limits afford no more"
            visit.notes[:] = [*(each for each in visit.notes if not each.startswith("max_tokens is ")), note]
        with self._settling:
            if not visit.settled:
                visit.charges.append(Charge(model, about.price, prompt, allowed, reservation))
                return visit.charges[-1]
        reservation.settle(0.0)  # a thread that came too late: its visit has been called off and billed
        raise Cancelled

    def _settle(
        self, visit: Visit, usage: Usage | None, error: Exception | None, seconds: float
    ) -> tuple[Usage | None, float | None]:
        """What a visit used and cost; the budget is told. A node that made no charge tells its usage alone."""
        if visit.charges:
            return settle(visit.charges, usage, error, seconds)
        usd = 0.0 if usage is None else cost(self.flow.known(usage.model).price, usage, seconds)
        self.budget.spend(usd or 0.0)
        return usage, usd

    def _take_over(self, visit: Visit) -> float | None:
        """Take over the lines and records of the sub-graph that a visit walked; its cost in USD."""
        costs: list[float | None] = []
        sessions = [session for enclosing in visit.inner for session in enclosing.sessions]
        for number, session in enumerate(sessions, 1):
            session.end(Cancelled())  # if it has not ended, it was called off with the visit around it
            costs.append(session.ledger.usd)
            for entry in session.ledger.entries:
                self.ledger.entries.append(replace(entry, node=f"{visit.node_id}/{entry.node}"))
            # A node's code may call a flow as its tool several times.
            self.trace.inner[visit.node_id if number == 1 else f"{visit.node_id}#{number}"] = session.trace
        return None if None in costs else math.fsum(cost for cost in costs if cost is not None)

    def _of_members(self, group: Visit) -> float | None:
        """What a group's members cost together. It stands in their own lines of the ledger, those of losers too."""
        costs = [entry.usd for entry in self.ledger.entries if entry.node.partition("/")[0] in group.plan.members]
        return None if None in costs else math.fsum(usd for usd in costs if usd is not None)

    def result(self) -> FlowResult[Any]:
        """The answer with its record. The walk must have reached `end`."""
        answer = self.walk.result()
        if answer is None:
            raise NoEligibleAnswer("the walk reached `end` without an answer that succeeded")
        self.trace.answer = answer
        self._compare_with_baseline(answer)
        self.end()
        ports = self.walk.states[answer].ports
        result = FlowResult(self._values[answer], self.trace, self.ledger, ports)
        if self.enclosing is not None:
            self.enclosing.results.append(result)
            return result
        if isinstance(result.value, AIMessage):
            message = result.value
            metadata = {**message.response_metadata, METADATA_KEY: result.metadata()}
            return replace(result, value=message.model_copy(update={"response_metadata": metadata}))
        return result

    def end(self, error: BaseException | None = None) -> None:
        """Close the record: the request has ended, so. The first word counts; visits under way are called off."""
        trace = self.trace
        if trace.outcome is not None:
            return
        for visit, _ in list(self._running.values()):
            self.forget(visit)
        trace.decisions = self.walk.decisions
        trace.degraded = self.walk.degraded
        read = {name: self.request.port(name) for name in sorted(self.graph.input_read - {"text", "messages"})}
        trace.input = plain_ports(read, {}, self.graph.words)
        lengths = {(owner, port): self.walk.lookup(owner, port) for owner, port in self.graph.measured}
        trace.lengths = {
            f"{owner}.{port}": len(value)
            for (owner, port), value in lengths.items()
            if isinstance(value, (str, list, tuple, dict))
        }
        trace.end(error, 0.0 if self._began is None else self.clock() - self._began)

    @property
    def value(self) -> Any:
        """The result; None until there is one."""
        return self._values.get(self.trace.answer or "")

    def _compare_with_baseline(self, answer: str) -> None:
        """What the baseline did cost, or would have: its price for the answer's tokens."""
        name = self.graph.spec.baseline
        if name is None:
            return
        state = self.walk.states.get(name)
        if state is not None and state.ok:
            self.ledger.baseline_usd = state.usd
            return
        entries = {entry.node: entry for entry in self.ledger.entries}
        model = self.graph.nodes[name].model
        usage = entries[answer].usage if answer in entries else None
        if model is None or usage is None:
            return
        same = Usage(model, usage.input_tokens or self.request.tokens, usage.output_tokens, estimated=True)
        self.ledger.baseline_usd = cost(self.flow.known(model).price, same)
