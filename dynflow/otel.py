"""Spans of flows in OpenTelemetry: openinference's LangChain instrumentation, and why each node was gone to.

The flow, each node and each model call is a span, nested as they ran. Nodes carry the decision that led to them and
what they cost; the flow carries its path, outcome, cost and saving. Names of attributes: `dynflow.trace`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from dynflow import trace as names
from dynflow.answers import finite
from dynflow.errors import MissingDependency, failure_kind
from dynflow.ledger import Ledger
from dynflow.recording import observers
from dynflow.trace import Trace
from dynflow.visit import Completed, Visit
from dynflow.walk import Decision

try:
    import wrapt
    from openinference.instrumentation import TraceConfig
    from openinference.instrumentation.langchain import LangChainInstrumentor
    from opentelemetry import trace as opentelemetry
    from opentelemetry.trace import Span, Status, StatusCode, Tracer, TracerProvider
except ModuleNotFoundError as error:
    raise MissingDependency(str(error.name), 'pip install "dynflow[otel]"') from error

_logger = logging.getLogger("dynflow")
_lock = threading.Lock()
_PLAIN = (
    *("dynflow.", "llm.token_count.", "metadata", "openinference.span.kind", "session.id", "tag.tags", "user.id"),
    *("llm.finish_reason", "llm.model_name", "llm.provider", "llm.system", "tool.name"),
)
"""Attributes, by how they begin, that hold no content. All others are left out, also ones that are yet to come."""


def instrument(tracer_provider: TracerProvider | None = None, *, content: bool = False) -> None:
    """Make spans of all LangChain runs of this process, flows among them.

    `tracer_provider` is by default the global one. Without `content` no request, answer, tool argument or message of
    an error is in a span. Raises `RuntimeError` where LangChain is instrumented already, and `MissingDependency`
    where the extra `otel` is not installed.
    """
    with _lock:
        if _decisions in observers:
            raise RuntimeError("flows are instrumented already: call uninstrument() first")
        instrumentor = LangChainInstrumentor()
        if instrumentor.is_instrumented_by_opentelemetry:
            raise RuntimeError(
                "LangChain is instrumented already, and spans would hold content: call "
                "LangChainInstrumentor().uninstrument() first"
            )
        provider = tracer_provider or opentelemetry.get_tracer_provider()
        instrumentor.instrument(tracer_provider=provider if content else _Provider(provider), config=TraceConfig())
        observers.append(_decisions)


def uninstrument() -> None:
    """Make no more spans; those that are open still end."""
    with _lock:
        if _decisions in observers:
            observers.remove(_decisions)
            LangChainInstrumentor().uninstrument()


class _Decisions:
    """Sets our attributes on openinference's spans while these are open."""

    def visit_begun(self, flow: UUID, run: UUID, visit: Visit, decisions: Sequence[Decision]) -> None:
        decision = visit.decision
        told: dict[str, Any] = {names.NODE_TYPE: visit.plan.cls.type}
        if decision is not None:
            told |= {
                names.DECISION_EDGE: f"{decision.source} -> {decision.target}",
                names.DECISION_INDEX: decision.edge,
                names.DECISION_WHEN: decision.when,
                names.DEGRADED: decision.degraded,
                **{names.DECISION_VALUE.format(port): value for port, value in finite(decision.values).items()},
            }
            # An abandoned stream ends the flow's span before we hear of it: so far is better than nothing.
            _set(flow, {names.PATH: ["start", *(each.target for each in decisions)]})
        _set(run, told)

    def visit_ended(self, run: UUID, visit: Visit, done: Completed) -> None:
        _set(
            run,
            {
                names.NODE_OK: done.output is not None,
                names.NODE_ERROR: None if done.error is None else failure_kind(done.error),
                names.NODE_USD: visit.usd,
                names.NODE_ATTEMPTS: len(visit.attempts) or None,
            },
        )

    def request_ended(self, flow: UUID, trace: Trace, ledger: Ledger) -> None:
        _set(
            flow,
            {
                names.GRAPH: trace.graph,
                names.GRAPH_HASH: trace.graph_hash,
                names.PATH: trace.path,
                names.ANSWER: trace.answer,
                names.OUTCOME: trace.outcome,
                names.DEGRADED: trace.degraded,
                names.USD: ledger.usd,
                names.SAVED_USD: ledger.saved_usd,
            },
        )


_decisions = _Decisions()


def _set(run: UUID, attributes: Mapping[str, Any]) -> None:
    """Set attributes on a run's span, if it is open; a request must not fail because of its span."""
    try:
        span = LangChainInstrumentor().get_span(run)
        if span is not None:
            span.set_attributes({name: value for name, value in attributes.items() if value is not None})
    except Exception as error:
        _logger.warning("attributes could not be set on a span: %s", type(error).__name__)


# What keeps content out of spans. openinference can hide inputs and outputs, but not what errors say.


class _Provider(wrapt.ObjectProxy[Any]):
    """A tracer provider whose tracers' spans take no content."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
        return _Tracer(self.__wrapped__.get_tracer(*args, **kwargs))


class _Tracer:
    """No proxy: openinference calls `start_span` of its class, which for a proxy is that of the tracer behind it."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer

    def start_span(self, name: str, *, attributes: Mapping[str, Any] | None = None, **kwargs: Any) -> _Span:
        return _Span(self.tracer.start_span(name, attributes=_plain(attributes or {}), **kwargs))


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if key.startswith(_PLAIN)}


class _Span(wrapt.ObjectProxy[Any]):
    """A span that takes attributes known to hold no content, and of an exception its class alone."""

    def __init__(self, wrapped: Span) -> None:
        super().__init__(wrapped)
        self._self_failure: str | None = None

    def set_attribute(self, key: str, value: Any) -> None:
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        self.__wrapped__.set_attributes(_plain(attributes))

    def record_exception(self, exception: BaseException, *_: Any, **__: Any) -> None:
        self._self_failure = type(exception).__qualname__
        self.add_event("exception", {"exception.type": self._self_failure})

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        kept = {key: value for key, value in (attributes or {}).items() if key == "exception.type"}
        self._self_failure = kept.get("exception.type", self._self_failure)
        self.__wrapped__.add_event(name, kept, timestamp)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        code = status.status_code if isinstance(status, Status) else status
        self.__wrapped__.set_status(Status(code, self._self_failure if code is StatusCode.ERROR else None))
