"""Every run yields one record: what happened and why, and never content."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.messages import HumanMessage

from dynflow import DeadlineExceeded, Flow, InputError, ParamError, StreamInterrupted, load, loads
from dynflow.hashes import graph_hash
from dynflow.testing import FakeChat
from dynflow.trace import Failure
from tests.records import CANARY, CASCADE, QUESTION, STYLES, cascade, ends, records, traced

ECHO = ModelInvalidRequestError(f"the prompt {QUESTION!r} is not allowed")


def chat(*words: str, **options: Any) -> FakeChat:
    return FakeChat(replies=[" ".join((CANARY, *words))], **options)


@pytest.mark.parametrize("style", STYLES)
def test_a_record_of_each_way_to_run(style: str, tmp_path: Path) -> None:
    flow = cascade(chat("draft"), chat("final", "answer"), trace=traced(tmp_path / "trace.jsonl"))
    run_id = uuid4()
    STYLES[style](flow, QUESTION, {"run_id": run_id, "configurable": {"trust_above": 0.75}})
    (record,) = records(tmp_path / "trace.jsonl")
    assert record["id"] == str(run_id)
    assert record["graph"] == "cascade"
    assert record["graph_hash"] == flow.graph_hash == graph_hash(flow)
    assert record["outcome"] == "ok"
    assert record["answer"] == "cloud"
    assert record["path"] == ["start", "local", "check", "cloud", "end"]
    assert record["params"] == {"trust_above": 0.75, "short_below": 3}
    assert record["input"]["tokens"] > 3
    decision = record["decisions"][2]
    assert decision["edge"] == 4
    assert decision["when"] == "check.failed or check.confidence < params.trust_above"
    assert decision["values"] == {"check.failed": False, "check.confidence": 0.2, "params.trust_above": 0.75}
    assert [node["node"] for node in record["nodes"]] == ["local", "check", "cloud"]
    assert record["nodes"][2]["usd"] == pytest.approx((record["ledger"]["nodes"][2]["input_tokens"] * 10 + 60) / 1e6)
    assert record["ledger"]["baseline"] == "cloud"
    assert record["seconds"] >= record["nodes"][0]["seconds"]
    assert CANARY not in (tmp_path / "trace.jsonl").read_text("utf-8")


def test_metadata_and_record_are_one_thing(tmp_path: Path) -> None:
    flow = cascade(chat("draft"), chat("final"), trace=str(tmp_path / "trace.jsonl"))
    answer = flow.invoke(QUESTION)
    (record,) = records(tmp_path / "trace.jsonl")
    assert record["record"] == 1
    added = {"record", "input_digest"}
    assert {key: value for key, value in record.items() if key not in added} == answer.response_metadata["dynflow"]


@pytest.mark.parametrize("style", STYLES)
def test_a_failed_request(style: str, tmp_path: Path) -> None:
    flow = cascade(FakeChat(fail_with=ECHO), FakeChat(fail_with=ECHO), trace=traced(tmp_path / "t"))
    with pytest.raises(ModelInvalidRequestError):
        STYLES[style](flow, QUESTION, None)
    (record,) = records(tmp_path / "t")
    assert record["outcome"] == "failed"
    assert record["error"] == "invalid"
    assert record["error_type"] == "ModelInvalidRequestError"
    assert record["answer"] is None
    assert record["path"] == ["start", "local", "cloud"]
    assert [node["error"] for node in record["nodes"]] == ["invalid", "invalid"]
    assert "message" not in record["nodes"][0]
    assert CANARY not in (tmp_path / "t").read_text("utf-8")


@pytest.mark.parametrize("style", ["stream", "astream"])
def test_an_interrupted_stream(style: str, tmp_path: Path) -> None:
    large = chat("final", fail_with=OSError(QUESTION), fail_after=1)
    flow = cascade(chat("draft"), large, trace=traced(tmp_path / "t", content=True))
    with pytest.raises(StreamInterrupted):
        STYLES[style](flow, QUESTION, None)
    (record,) = records(tmp_path / "t")
    assert record["outcome"] == "interrupted"
    assert record["error_type"] == "StreamInterrupted"
    assert record["content"]["answer"]["data"]["content"] == CANARY


def test_an_abandoned_stream(tmp_path: Path) -> None:
    flow = cascade(chat("draft"), chat("final", "answer"), trace=traced(tmp_path / "t"))
    stream = flow.stream(QUESTION)
    next(stream)
    stream.close()
    (record,) = records(tmp_path / "t")
    assert record["outcome"] == "cancelled"
    assert "error" not in record
    assert record["path"] == ["start", "local", "check", "cloud"]
    assert [entry["node"] for entry in record["ledger"]["nodes"]] == ["local", "check", "cloud"]


async def test_an_abandoned_stream_async(tmp_path: Path) -> None:
    flow = cascade(chat("draft"), chat("final", "answer"), trace=traced(tmp_path / "t"))
    stream = flow.astream(QUESTION)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    (record,) = records(tmp_path / "t")
    assert record["outcome"] == "cancelled"
    assert [entry["node"] for entry in record["ledger"]["nodes"]] == ["local", "check", "cloud"]


@pytest.mark.parametrize("style", ["ainvoke", "astream", "abatch"])
async def test_a_cancelled_task(style: str, tmp_path: Path) -> None:
    large = chat("final", hang_after=0)
    flow = cascade(chat("draft"), large, trace=traced(tmp_path / "t"))

    async def stream() -> None:
        async for _ in flow.astream(QUESTION):
            pass

    works = {"ainvoke": lambda: flow.ainvoke(QUESTION), "abatch": lambda: flow.abatch([QUESTION]), "astream": stream}
    task = asyncio.ensure_future(works[style]())
    while not large.calls:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (record,) = records(tmp_path / "t")
    assert record["outcome"] == "cancelled"
    assert record["path"] == ["start", "local", "check", "cloud"]


async def test_a_batch_has_a_record_for_each_as_it_ends(tmp_path: Path) -> None:
    def reply(messages: list[Any]) -> str:
        return "final"

    slow, written = threading.Event(), tmp_path / "t"
    flow = cascade(
        FakeChat(replies=reply),
        FakeChat(replies=lambda messages: str(slow.wait(10)) if "slow" in messages[-1].text else "final"),
        trace=traced(written),
    )
    task = asyncio.ensure_future(
        asyncio.to_thread(flow.batch, [QUESTION, "slow, and a few words more", ""], None, return_exceptions=True)
    )
    while not written.exists() or len(records(written)) < 2:
        await asyncio.sleep(0.005)
    assert {record["outcome"] for record in records(written)} == {"ok", "failed"}
    slow.set()
    await task
    assert [record["outcome"] for record in records(written)].count("ok") == 2


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("value", "config", "error"),
    [("", None, InputError), (QUESTION, {"configurable": {"trust_above": CANARY}}, ParamError)],
)
def test_a_request_that_is_not_taken(style: str, value: Any, config: Any, error: type, tmp_path: Path) -> None:
    flow = cascade(chat(), chat(), trace=traced(tmp_path / "t"))
    with pytest.raises(error):
        STYLES[style](flow, value, config)
    (record,) = records(tmp_path / "t")
    assert (record["outcome"], record["error"], record["path"]) == ("failed", "invalid", [])
    assert CANARY not in (tmp_path / "t").read_text("utf-8")


def test_a_subgraph_is_part_of_the_outer_record(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(CASCADE, "utf-8")
    outer = """
version: 1
name: outer
nodes:
  inner: {type: graph, uses: inner.yaml}
  sorry: {type: prompt, role: answer, template: sorry}
edges:
  - {from: start, to: inner}
  - {from: inner, to: sorry, when: inner.failed}
  - {from: inner, to: end}
  - {from: sorry, to: end}
"""
    (tmp_path / "outer.yaml").write_text(outer, "utf-8")
    models = {"inner/small": chat("draft"), "inner/large": FakeChat(fail_with=ECHO)}
    runnables = {"check": lambda _: {"confidence": 0.1}}
    flow = load(tmp_path / "outer.yaml", models=models, runnables=runnables, trace=tmp_path / "t")
    flow.invoke(QUESTION)
    flow.invoke("hi")
    first, second = records(tmp_path / "t")
    assert first["inner"]["inner"]["path"] == ["start", "local", "check", "cloud", "end"]
    assert first["inner"]["inner"]["degraded"]
    assert first["inner"]["inner"]["outcome"] == "ok"
    assert second["inner"]["inner"]["outcome"] == "failed"
    assert second["outcome"] == "ok"
    assert first["inner"]["inner"]["graph_hash"] not in (None, first["graph_hash"])
    assert CANARY not in (tmp_path / "t").read_text("utf-8")


FAULTS: dict[str, dict[str, Any]] = {
    "success": {},
    "provider repeats the prompt": {"large": FakeChat(fail_with=ECHO)},
    "timeout": {"large": chat("x", hang_after=0), "text": CASCADE + "limits: {timeout: 50ms}\n"},
    "check raises content": {"check": KeyError(QUESTION), "large": FakeChat(fail_with=OSError(QUESTION))},
    "schema not met": {
        "node": "{type: chat, model: large, output: {type: object, properties: {a: {const: 1}}}}",
        "large": FakeChat(replies=[json.dumps({"a": CANARY})]),
    },
    "label not met": {"node": "{type: chat, model: large, labels: [yes, no]}"},
    "broken off": {"large": chat("x", fail_with=ValueError(QUESTION), fail_after=1)},
    "budget": {"text": CASCADE + "limits: {usd_per_request: 0.00000001}\n"},
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_record_holds_content(fault: str, style: str, tmp_path: Path) -> None:
    about = FAULTS[fault]

    def check(_: Any) -> dict[str, Any]:
        if "check" in about:
            raise about["check"]
        return {"confidence": 0.2}

    text = about.get("text", CASCADE)
    if "node" in about:
        text = text.replace("cloud: {type: chat, model: large}", f"cloud: {about['node']}")
    flow = loads(
        text,
        models={"small": chat("draft"), "large": about.get("large") or chat("final")},
        runnables={"check": check},
        trace=traced(tmp_path / "t"),
    )
    ends(style, flow, [HumanMessage(QUESTION)])
    written = (tmp_path / "t").read_text("utf-8")
    assert len(records(tmp_path / "t")) == 1
    assert CANARY not in written


COUNTS = """
version: 1
inputs: {tally: {type: record}}
nodes:
  count: {type: runnable, name: count, role: signal, ports: {counts: record, by_route: record}}
  route: {type: chat, model: m, role: signal, labels: [billing, other]}
  sorry: {type: prompt, role: answer, template: "{x}", with: {x: "${count.counts.shown ?? input.text}"}}
edges:
  - {from: start, to: sorry, when: input.tally.high > 100}
  - {from: start, to: count}
  - {from: count, to: sorry, when: "count.failed or count.counts.total > 100 or len(count.counts) > 9"}
  - {from: count, to: route}
  - {from: route, to: sorry}
  - {from: sorry, to: end}
models: {m: {provider: host}}
"""


COUNTED = {"input": QUESTION, "tally": {CANARY: 1, "high": 2}}


def counts(path: Path, text: str = COUNTS) -> Flow:
    given = {"counts": {CANARY: 1, "total": 2, "shown": 3}, "by_route": {"billing": 0.5, "sorry": 0.2, CANARY: 0.3}}
    models = {"m": FakeChat(replies=["billing"])}
    return loads(text, models=models, runnables={"count": lambda _: given}, trace=traced(path))


def test_no_record_holds_content_as_a_key(tmp_path: Path) -> None:
    flow = counts(tmp_path / "t")
    flow.invoke(COUNTED)
    (record,) = records(tmp_path / "t")
    assert CANARY not in (tmp_path / "t").read_text("utf-8")
    assert record["nodes"][0]["values"] == {
        "counts": {"total": 2, "shown": 3},
        "by_route": {"billing": 0.5, "sorry": 0.2},
    }
    assert record["input"]["tally"] == {"high": 2}
    assert record["lengths"] == {"count.counts": 3}


def test_content_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    flow = cascade(FakeChat(fail_with=ECHO), chat("final"), trace=traced(tmp_path / "t", content=True))
    flow.invoke([HumanMessage(QUESTION)])
    (record,) = records(tmp_path / "t")
    assert record["content"]["request"][0]["data"]["content"] == QUESTION
    assert record["content"]["answer"]["data"]["content"] == f"{CANARY} final"
    assert "dynflow" not in record["content"]["answer"]["data"]["response_metadata"]
    assert QUESTION in record["nodes"][0]["message"]


def test_what_conditions_may_read_is_recorded_where_it_is_a_number() -> None:
    text = """
version: 1
inputs: {age: {type: integer, default: 3}, note: {type: string, default: none}}
nodes:
  one: {type: prompt, role: answer, template: "{input}"}
  two: {type: prompt, role: answer, template: two}
edges:
  - {from: start, to: two, when: input.age > 100 and len(input.text) > 2 or input.note == 'x' or input.turns > 9}
  - {from: start, to: one}
  - {from: one, to: end, when: "one.ok and (len(one.text) > 3 or budget.seconds_left < 1)"}
  - {from: one, to: end, when: one.ok and budget.request_left_usd > 1}
  - {from: one, to: end}
  - {from: two, to: end}
limits: {usd_per_request: 2}
"""
    trace = loads(text).run({"input": "four"}).trace
    assert trace.input == {"age": 3, "tokens": 1, "turns": 1}
    assert trace.lengths == {"input.text": 4, "one.text": 4}
    assert trace.decisions[1].values["budget.request_left_usd"] == 2  # of an edge that was not looked at


def test_nodes_closed_for_a_request_are_named() -> None:
    text = CASCADE.replace("name: cascade", "name: c").replace("large: {", "large: {capabilities: {context: 5}, ")
    flow = cascade(chat("draft"), chat("final"), 0.9, text=text)
    assert flow.run("a question of more than five tokens").trace.closed == ("cloud",)


def test_the_id_is_the_runs() -> None:
    result = cascade(chat(), chat()).run(QUESTION)
    assert UUID(result.trace.id or "").version
    assert result.trace.started.tzinfo is not None


def test_a_message_is_one_short_line() -> None:
    failure = Failure.of(ValueError("a" * 500 + "\nb"))
    assert len(failure.message) == 200 + len("ValueError: ")
    assert failure.message.endswith("…")
    assert Failure.of(DeadlineExceeded("node 'a' did not finish")).as_dict(content=False) == {
        "error": "deadline",
        "error_type": "DeadlineExceeded",
        "message": "node 'a' did not finish",
    }
