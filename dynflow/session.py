"""One request on its way: the walk's bookkeeping (time, money, record) around each visit of a node."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from pydantic import ValidationError

from dynflow.account import Account
from dynflow.billing import Charge
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


class Deadline:
    """When a request's time is up: it runs from the first look at it, not while a batch queues."""

    def __init__(self, timeout: float | None, latest: float, clock: Callable[[], float]) -> None:
        """`timeout` in seconds; `latest` is when the request around this one ends, by the same clock."""
        self._timeout = timeout
        self._latest = latest
        self._clock = clock
        self._at: float | None = None

    def at(self, now: float) -> float:
        """When the time is up, by the clock; infinite without a limit."""
        if self._at is None:
            self._at = self._latest if self._timeout is None else min(now + self._timeout, self._latest)
        return self._at

    def left(self) -> float:
        """Seconds left."""
        now = self._clock()
        return self.at(now) - now


@dataclass(frozen=True, slots=True)
class _Outside:
    """What conditions read besides the nodes' ports.

    It knows no session: that would be a cycle, and every request would wait for the garbage collector.
    """

    params: Mapping[str, Any]
    request: Request
    deadline: Deadline
    account: Account

    def __call__(self, owner: str, name: str) -> Any:
        if owner == "params":
            return self.params[name]
        if owner == "input":
            return self.request.port(name)
        return self.deadline.left() if name == "seconds_left" else self.account.left(name)


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
        self.enclosing = enclosing
        self.configurable = configurable
        self.clock = clock
        self.deadline = Deadline(limits.timeout, enclosing.deadline if enclosing is not None else math.inf, clock)
        if limits.max_input_tokens is not None and request.tokens > limits.max_input_tokens:
            raise InputError(
                f"the request has about {request.tokens:,} tokens; "
                f"limits.max_input_tokens is {limits.max_input_tokens:,}"
            )
        self.closed = closed_nodes(graph, flow.known, request)
        caller = caller_of(configurable) if share is not None else ""
        self.account = Account(graph, flow.known, budget, share, caller)
        self.ledger = self.account.ledger
        self.walk = Walk(graph, _Outside(params, request, self.deadline, self.account), self.closed)
        self.trace = Trace(graph.name) if trace is None else trace
        self.trace.params, self.trace.closed = params, tuple(sorted(self.closed))
        self._values: dict[str, Any] = {}
        self._errors: dict[str, Exception] = {}
        self._running: dict[int, tuple[Visit, float]] = {}
        """Visits begun and not taken down yet, with when they began."""
        self._began: float | None = None
        if enclosing is not None:
            enclosing.sessions.append(self)

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

    def begin(self, visit: Visit) -> None:
        """Give a visit its time, as it starts to run."""
        plan, around, now = visit.plan, visit.around, self.clock()
        ends = self.deadline.at(now)
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
        self.account.admit(visit)
        options = visit.plan.options
        try:
            if visit.plan.has_references:
                options = options.resolve(self._read)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            option = ".".join(map(str, first["loc"]))
            raise InputError(f"option {option!r} of node {visit.node_id!r}: {first['msg']}") from None

        def charge(model: str, prompt: PromptSize, max_tokens: int | None) -> Charge:
            return self.account.charge(visit, model, prompt, max_tokens, visit.ends - self.clock())

        def nest() -> Enclosing:
            if visit.settled:  # its bill is made out: whoever still runs for it must begin nothing
                raise Cancelled
            enclosing = Enclosing(visit, self.deadline.at(self.clock()), self.account.budget)
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
            closed=self.closed,
            call_options={} if signal else self.request.call_options,
            nest=nest,
            interruptible=visit.interruptible,
            id=self.trace.id,
        )

    def complete(self, visit: Visit, done: Completed) -> None:
        """Take down how a visit went; an output that is not what the node's ports declare is a failure.

        Raises `Cancelled` where nobody waits for this request any more: it goes no further.
        """
        if isinstance(done.error, Cancelled) or id(visit) not in self._running:
            self.forget(visit)
            raise Cancelled
        del self._running[id(visit)]
        plan = visit.plan
        fault = port_fault(plan.cls.type, plan.ports, done.output.ports) if done.output is not None else None
        if done.output is not None and fault is not None:
            done = Completed(done.seconds, None, NodeFailed(fault, usage=done.output.usage))
        output = done.output
        error = failure_kind(done.error) if done.error is not None else None
        self.settle(visit, done)
        usd = self.account.enter(visit, done.seconds)
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
        self.trace.visits.append(
            Visited(
                visit.node_id,
                plan.cls.type,
                done.error is None,
                done.seconds,
                usd,
                plain_ports(state.ports, plan.ports, self.graph.words, self.graph.keys),
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
        self.account.enter(visit, seconds)

    def uncount(self, node_id: str) -> None:
        """A node that ran counts as not run after all; its cost stays in the ledger."""
        self.walk.states.pop(node_id, None)
        self.trace.visits[:] = [visited for visited in self.trace.visits if visited.node != node_id]

    def settle(self, visit: Visit, done: Completed) -> None:
        """Bill a visit that ended, or (neither output nor error) was called off; once. `visit` then holds the bill."""
        self.account.bill(visit, done, lambda: self._take_over(visit))

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

    def result(self) -> FlowResult[Any]:
        """The answer with its record. The walk must have reached `end`."""
        answer = self.walk.result()
        if answer is None:
            raise NoEligibleAnswer("the walk reached `end` without an answer that succeeded")
        self.trace.answer = answer
        self.account.compare(answer, self.walk.states.get(self.graph.spec.baseline or ""), self.request.tokens)
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
        trace.input = plain_ports(read, {}, self.graph.words, self.graph.keys)
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
