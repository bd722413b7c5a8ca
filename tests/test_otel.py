"""Spans: the flow, its nodes and their models, nested and ended however a request ends; why, and never content."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate

from dynflow import Flow
from dynflow.testing import FakeChat
from tests.records import CANARY, CASCADE, QUESTION, STYLES, cascade, ends

pytest.importorskip("openinference.instrumentation.langchain")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dynflow.otel import instrument, uninstrument

ECHO = ModelInvalidRequestError(f"the prompt {QUESTION!r} is not allowed")


class Spans(SimpleSpanProcessor):
    """Spans that ended, and how many began."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        super().__init__(self.exporter)
        self.begun = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.begun += 1
        super().on_start(span, parent_context)

    def ended(self) -> dict[str, ReadableSpan]:
        """Spans by name, once all that began have ended; two runs of a model of one name must not be asked for."""
        ends = time.monotonic() + 5
        while len(self.exporter.get_finished_spans()) < self.begun and time.monotonic() < ends:
            time.sleep(0.01)
        found = self.exporter.get_finished_spans()
        assert len(found) == self.begun
        return {span.name: span for span in found}

    def text(self) -> str:
        return "\n".join(span.to_json() for span in self.ended().values())


def provided(*, content: bool = False) -> Iterator[Spans]:
    spans = Spans()
    provider = TracerProvider()
    provider.add_span_processor(spans)
    instrument(provider, content=content)
    try:
        yield spans
    finally:
        uninstrument()


@pytest.fixture
def spans() -> Iterator[Spans]:
    yield from provided()


@pytest.fixture
def spans_with_content() -> Iterator[Spans]:
    yield from provided(content=True)


def flow_of(large: Any = None, small: Any = None) -> Flow:
    final = FakeChat(replies=[f"{CANARY} final"], name="big model")
    return cascade(small or FakeChat(replies=[f"{CANARY} draft"], name="small model"), large or final)


@pytest.mark.parametrize("style", STYLES)
def test_spans_nest_and_say_why(style: str, spans: Spans) -> None:
    flow = flow_of()
    STYLES[style](flow, [HumanMessage(QUESTION)], {"run_name": "asked"})
    found = spans.ended()
    flow_span = found["asked"]
    assert flow_span.parent is None
    for name in ("local", "check", "cloud"):
        assert found[name].parent.span_id == flow_span.context.span_id  # type: ignore[union-attr]
    models = [span for span in found.values() if (span.attributes or {})["openinference.span.kind"] == "LLM"]
    parents = [found["local"].context.span_id, found["cloud"].context.span_id]
    assert [span.parent.span_id for span in models if span.parent] == parents
    about = dict(found["cloud"].attributes or {})
    assert about["dynflow.decision.edge"] == "check -> cloud"
    assert about["dynflow.decision.index"] == 4
    assert about["dynflow.decision.when"] == "check.failed or check.confidence < params.trust_above"
    assert about["dynflow.decision.values.check.confidence"] == 0.2
    assert about["dynflow.decision.values.params.trust_above"] == 0.5
    assert about["dynflow.node.type"] == "chat"
    assert about["dynflow.node.ok"] is True
    assert about["dynflow.node.usd"] > 0
    assert about["openinference.span.kind"] == "CHAIN"
    told = dict(flow_span.attributes or {})
    assert told["dynflow.path"] == ("start", "local", "check", "cloud", "end")
    assert told["dynflow.answer"] == "cloud"
    assert told["dynflow.outcome"] == "ok"
    assert told["dynflow.degraded"] is False
    assert told["dynflow.graph"] == "cascade"
    assert told["dynflow.graph_hash"] == flow.graph_hash
    assert told["dynflow.usd"] - about["dynflow.node.usd"] > 0
    assert told["dynflow.saved_usd"] < 0  # the draft was paid for too
    assert CANARY not in spans.text()


@pytest.mark.parametrize("style", [style for style in STYLES if "run" not in style])
@pytest.mark.parametrize(
    "large",
    [
        FakeChat(fail_with=ECHO),
        FakeChat(replies=[f"{CANARY} x"], fail_with=ValueError(QUESTION), fail_after=1),
        FakeChat(replies=[QUESTION]),
    ],
    ids=["refused", "broken off", "answered"],
)
def test_no_span_holds_content(style: str, large: FakeChat, spans: Spans) -> None:
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | cascade(FakeChat(fail_with=ECHO), large)
    ends(style, chain, {"q": QUESTION})  # type: ignore[arg-type]
    found = spans.ended()
    assert CANARY not in spans.text()
    local = found["local"]
    assert local.status.description == "ModelInvalidRequestError"
    assert dict(local.events[0].attributes or {}) == {"exception.type": "ModelInvalidRequestError"}
    assert (local.attributes or {})["dynflow.node.error"] == "invalid"
    assert (local.attributes or {})["dynflow.node.ok"] is False


def test_a_degraded_path(spans: Spans) -> None:
    flow_of(FakeChat(fail_with=OSError("x"))).invoke(QUESTION)
    told = dict(spans.ended()["cascade"].attributes or {})
    assert told["dynflow.degraded"] is True
    assert told["dynflow.answer"] == "local"


def test_a_failed_request(spans: Spans) -> None:
    ends("run", flow_of(FakeChat(fail_with=ECHO), FakeChat(fail_with=ECHO)), QUESTION)
    told = dict(spans.ended()["cascade"].attributes or {})
    assert told["dynflow.outcome"] == "failed"
    assert "dynflow.answer" not in told


def test_an_abandoned_stream(spans: Spans) -> None:
    stream = flow_of().stream(QUESTION)
    next(stream)
    stream.close()
    found = spans.ended()
    assert (found["cascade"].attributes or {})["dynflow.path"][:4] == ("start", "local", "check", "cloud")  # type: ignore[index]
    assert (found["cloud"].attributes or {})["dynflow.node.usd"] > 0  # type: ignore[operator]


async def test_an_abandoned_stream_async(spans: Spans) -> None:
    stream = flow_of().astream(QUESTION)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    found = spans.ended()
    assert (found["cascade"].attributes or {})["dynflow.path"][:4] == ("start", "local", "check", "cloud")  # type: ignore[index]
    assert CANARY not in spans.text()


@pytest.mark.parametrize("style", ["ainvoke", "abatch"])
async def test_a_cancelled_task(style: str, spans: Spans) -> None:
    large = FakeChat(hang_after=0)
    flow = flow_of(large)
    task = asyncio.ensure_future(flow.ainvoke(QUESTION) if style == "ainvoke" else flow.abatch([QUESTION]))
    while not large.calls:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = spans.ended()
    assert (found["cascade"].attributes or {})["dynflow.outcome"] == "cancelled"


def test_content_where_it_is_asked_for(spans_with_content: Spans) -> None:
    flow_of().invoke(QUESTION)
    assert QUESTION in str((spans_with_content.ended()["cascade"].attributes or {})["input.value"])
    assert (spans_with_content.ended()["cascade"].attributes or {})["dynflow.answer"] == "cloud"


def test_a_subgraph(spans: Spans, tmp_path: Path) -> None:
    from dynflow import load

    (tmp_path / "inner.yaml").write_text(CASCADE, "utf-8")
    edges = "edges: [{from: start, to: deep}, {from: deep, to: end}]"
    (tmp_path / "outer.yaml").write_text(
        f"version: 1\nname: outer\nnodes: {{deep: {{type: graph, uses: inner.yaml}}}}\n{edges}", "utf-8"
    )
    models = {"deep/small": FakeChat(), "deep/large": FakeChat()}
    load(tmp_path / "outer.yaml", models=models, runnables={"check": lambda _: {"confidence": 0.9}}).invoke(QUESTION)
    found = spans.ended()
    assert found["cascade"].parent.span_id == found["deep"].context.span_id  # type: ignore[union-attr]
    assert (found["cascade"].attributes or {})["dynflow.answer"] == "local"
    assert (found["outer"].attributes or {})["dynflow.answer"] == "deep"


def test_it_is_on_once_and_off_again() -> None:
    instrument(TracerProvider())
    with pytest.raises(RuntimeError, match="already"):
        instrument(TracerProvider())
    uninstrument()
    uninstrument()
    flow_of().invoke(QUESTION)
    instrument(TracerProvider())
    uninstrument()


def test_who_instrumented_langchain_is_told() -> None:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument(tracer_provider=TracerProvider())
    try:
        with pytest.raises(RuntimeError, match="LangChain is instrumented already"):
            instrument(TracerProvider())
    finally:
        LangChainInstrumentor().uninstrument()


@pytest.mark.parametrize(
    ("statement", "module"),
    [("import dynflow", "opentelemetry"), ("import dynflow; dynflow.Flow", "openinference")],
    # LangChain's own client for LangSmith loads opentelemetry where it is installed, and flows need LangChain.
)
def test_it_is_loaded_when_it_is_asked_for(statement: str, module: str) -> None:
    code = f"{statement}; import sys; print([name for name in sys.modules if name.startswith({module!r})])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
