"""Recorded requests walk again: the same way, another with other params, or no further than the record tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynflow import Flow, InputError, StreamInterrupted, load, loads
from dynflow.replaying import Replayed, Tally, replay
from dynflow.testing import FakeChat
from tests.flow.shapes import Case, Shape
from tests.flow.test_shapes import CASES, config_of, flow_of, let_go
from tests.records import CASCADE, QUESTION, STYLES, cascade, ends, records, traced
from tests.test_trace import COUNTED, COUNTS, counts

NOT_TOLD = {
    "unknown: what failed or did not run",
    "ok and failed of a node that did not run are false",
    "what the request holds",
    "an unknown price is refused while a limit is set",
    "declared inputs",
    "on_failure stands in",
    "two ways by score",
    "kinds of runnable",
}
"""Shapes with requests whose conditions read a text that the graph does not name, or what is no finite number."""


def recorded(flow: Flow, *requests: Any, config: Any = None) -> list[Any]:
    """What the trace file holds of these requests."""
    path = flow.trace_file.path  # type: ignore[union-attr]
    path.unlink(missing_ok=True)
    for request in requests:
        ends("run", flow, request, config)
    return records(path)


def rerun(flow: Flow, request: Any = QUESTION, **params: Any) -> Replayed:
    (record,) = recorded(flow, request)
    return replay(flow, record, {name.replace("__", "/"): value for name, value in params.items()})


@pytest.fixture
def flow(tmp_path: Path) -> Flow:
    return cascade(FakeChat(), FakeChat(), trace=traced(tmp_path / "t"))


def test_the_same_way(flow: Flow) -> None:
    again = rerun(flow)
    assert again.verdict == "same"
    assert again.path == again.recorded == ("start", "local", "check", "cloud", "end")
    assert again.answer == "cloud"
    assert again.usd == pytest.approx(recorded(flow, QUESTION)[0]["ledger"]["usd"])


def test_another_threshold_ends_earlier(flow: Flow) -> None:
    again = rerun(flow, trust_above=0.1)
    assert again.verdict == "other"
    assert again.path == ("start", "local", "check", "end")
    assert again.answer == "local"
    nodes = recorded(flow, QUESTION)[0]["ledger"]["nodes"]
    assert again.usd == pytest.approx(sum(line["usd"] for line in nodes if line["node"] != "cloud"))
    assert again.decisions[-1].values["params.trust_above"] == 0.1


def test_a_node_that_did_not_run(flow: Flow) -> None:
    record = recorded(flow, "hi")[0]
    again = replay(flow, record, {"short_below": 0})
    assert (again.verdict, again.path, again.needs) == ("untold", ("start", "local"), "local")
    assert again.why == "local did not run then"
    assert again.answer is None  # what comes after it hangs on what it would give
    sure = cascade(FakeChat(), FakeChat(), 0.9, trace=flow.trace_file)
    again = rerun(sure, trust_above=1.0)
    assert (again.verdict, again.needs, again.answer) == ("untold", "cloud", "cloud")


def test_failures_replay(tmp_path: Path) -> None:
    trace = traced(tmp_path / "t")
    failing = FakeChat(fail_with=OSError("x"))
    handled = rerun(cascade(failing, FakeChat(), trace=trace))
    assert (handled.verdict, handled.answer) == ("same", "cloud")
    degraded = rerun(cascade(FakeChat(), failing, trace=trace))
    assert (degraded.verdict, degraded.answer) == ("same", "local")
    failed = rerun(cascade(failing, failing, trace=trace))
    assert (failed.verdict, failed.answer) == ("same", None)
    refused = rerun(cascade(failing, failing, trace=trace), "")
    assert (refused.verdict, refused.path) == ("same", ())


def test_a_stream_that_was_left_replays_as_far_as_it_came(flow: Flow) -> None:
    stream = flow.stream(QUESTION)
    next(stream)
    stream.close()
    (record,) = records(flow.trace_file.path)  # type: ignore[union-attr]
    again = replay(flow, record)
    assert (again.verdict, again.answer) == ("same", None)
    assert replay(flow, record, {"trust_above": 0.0}).path == ("start", "local", "check", "end")


def test_an_answer_that_broke_off_is_no_failure_to_step_over(tmp_path: Path) -> None:
    """The edge for the failure was not looked at then: something had been sent."""
    broken = FakeChat(replies=["one two three four"], fail_with=ConnectionError("x"), fail_after=2)
    flow = cascade(FakeChat(), broken, trace=traced(tmp_path / "t"))
    with pytest.raises(StreamInterrupted):
        list(flow.stream(QUESTION))
    (record,) = records(tmp_path / "t")
    again = replay(flow, record)
    assert (again.verdict, again.path, again.answer) == ("same", again.recorded, None)
    assert again.usd == record["ledger"]["usd"]
    other = replay(flow, record, {"trust_above": 0.0})
    assert (other.verdict, other.path, other.answer) == ("other", ("start", "local", "check", "end"), "local")


@pytest.mark.parametrize("key", ["answer", "graph_hash", "ledger"])
def test_a_damaged_record_is_not_counted(flow: Flow, key: str) -> None:
    record = dict(recorded(flow, QUESTION)[0])
    del record[key]
    tally = Tally()
    with pytest.raises(InputError, match=key):
        tally.add(record, replay(flow, record), flow.graph_hash)
    assert tally == Tally()


@pytest.mark.parametrize(("shape", "case"), CASES)
def test_every_shape_replays(shape: Shape, case: Case, tmp_path: Path) -> None:
    """Whatever a graph does, its record leads the same way."""
    flow = flow_of(shape, tmp_path)
    traced_flow = load(flow.path or "", runnables=flow.runnables, models=flow.models, trace=tmp_path / "t")
    ends("run", traced_flow, case.input, config_of(case))
    let_go(flow)
    (record,) = records(tmp_path / "t")
    again = replay(traced_flow, record)
    if again.verdict == "untold":
        assert "which the record does not hold" in (again.why or "")
        assert shape.name in NOT_TOLD, again.why
        return
    assert again.verdict == "same", (again.path, again.recorded)
    assert again.answer == record["answer"]


def test_a_param_that_a_node_reads(tmp_path: Path) -> None:
    text = CASCADE.replace("input: ${local.text}", "input: ${params.trust_above}")
    again = rerun(cascade(FakeChat(), FakeChat(), text=text, trace=traced(tmp_path / "t")), trust_above=0.1)
    assert again.verdict == "untold"
    assert again.why == "check would run with another params.trust_above"


READS = """
version: 1
params: {skip: {default: 5, min: 0, max: 100}}
nodes:
  first: {type: prompt, template: "{input}"}
  second: {type: prompt, template: second}
  last: {type: prompt, role: answer, template: "{x}", with: {x: "${first.text ?? second.text}"}}
edges:
  - {from: start, to: first, when: input.tokens > params.skip}
  - {from: start, to: second}
  - {from: first, to: second}
  - {from: second, to: last}
  - {from: last, to: end}
"""


def test_a_node_that_would_read_something_else(tmp_path: Path) -> None:
    flow = loads(READS, trace=traced(tmp_path / "t"))
    again = rerun(flow, "more than five tokens, that is sure", skip=50)
    assert again.why == "last reads first, which ran before it then"


def test_conditions_over_content(tmp_path: Path) -> None:
    text = CASCADE.replace("check.failed or check.confidence", "check.failed or 'x' in local.text or check.confidence")
    text = text.replace(
        "input.tokens < params.short_below", "len(input.text) < params.short_below or input.text == 'q'"
    )
    flow = cascade(FakeChat(), FakeChat(), text=text, trace=traced(tmp_path / "t"))
    untold = rerun(flow)
    condition = "`len(input.text) < params.short_below or input.text == 'q'`"
    assert untold.why == f"{condition} reads input.text, which the record does not hold"
    sure = replay(flow, records(tmp_path / "t")[0], {"short_below": 100})
    assert sure.path == ("start", "cloud", "end")  # true all the same
    content = cascade(FakeChat(), FakeChat(), text=text, trace=traced(tmp_path / "c", content=True))
    assert rerun(content).verdict == "same"  # `check.confidence < …` is true whatever the text was
    assert rerun(content, trust_above=0.1).why.endswith("reads local.text, which the record does not hold")  # type: ignore[union-attr]


def test_records_of_numbers_are_known_as_far_as_their_graph_named_them(tmp_path: Path) -> None:
    flow = counts(tmp_path / "t")
    flow.invoke(COUNTED)
    (record,) = records(tmp_path / "t")
    assert replay(flow, record).verdict == "same"
    longer = counts(tmp_path / "u", COUNTS.replace("len(count.counts) > 9", "len(count.counts) > 2"))
    assert replay(longer, record).path == ("start", "count", "sorry", "end")
    for unknown in ("count.counts.other > 1", "len(count.by_route) > 2"):
        edited = counts(tmp_path / "u", COUNTS.replace("len(count.counts) > 9", unknown))
        assert "which the record does not hold" in (replay(edited, record).why or "")


def test_budgets_are_known_on_the_recorded_path_alone(tmp_path: Path) -> None:
    text = CASCADE.replace(
        "{from: check, to: end}",
        "{from: check, to: cloud, when: budget.request_left_usd < 0.5}\n  - {from: check, to: end}",
    )
    text = text.replace("{from: start, to: local}", "{from: start, to: gate}\n  - {from: gate, to: local}")
    text = text.replace("nodes:", "nodes:\n  gate: {type: prompt, template: x}").replace(
        "check.failed or check", "check.failed or check.ok and check"
    )
    flow = cascade(FakeChat(), FakeChat(), text=text + "limits: {usd_per_request: 1}\n", trace=traced(tmp_path / "t"))
    assert rerun(flow).verdict == "same"
    again = rerun(flow, trust_above=0.1)
    assert (again.verdict, again.path[-2:]) == ("other", ("check", "end"))  # that edge was not looked at then


def test_subgraphs(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(CASCADE, "utf-8")
    edges = "edges: [{from: start, to: deep}, {from: deep, to: end}]"
    outer = f"version: 1\nnodes: {{deep: {{type: graph, uses: inner.yaml}}}}\n{edges}"
    (tmp_path / "outer.yaml").write_text(outer, "utf-8")
    models = {"deep/small": FakeChat(), "deep/large": FakeChat()}
    runnables = {"check": lambda _: {"confidence": 0.2}}
    flow = load(tmp_path / "outer.yaml", models=models, runnables=runnables, trace=traced(tmp_path / "t"))
    assert rerun(flow).verdict == "same"
    other = rerun(flow, deep__trust_above=0.1)
    assert other.why == "inside deep: it would go start → local → check → end"
    assert rerun(flow, "hi", deep__short_below=0).needs == "deep/local"


def test_an_edited_graph(flow: Flow) -> None:
    record = recorded(flow, QUESTION)[0]
    edited = cascade(FakeChat(), FakeChat(), text=CASCADE.replace("check.confidence <", "check.confidence > 0.1 + "))
    again = replay(edited, record)
    assert again.path == ("start", "local", "check", "end")
    tally = Tally()
    tally.add(record, again, edited.graph_hash)
    assert tally.other_graph == 1


def test_a_tally(flow: Flow) -> None:
    tally = Tally()
    for record in recorded(flow, QUESTION, "hi", ""):
        tally.add(record, replay(flow, record, {"trust_above": 0.1, "short_below": 0}), flow.graph_hash)
    told = tally.as_dict()
    assert (told["requests"], told["same"], told["other"], told["untold"], told["refused"]) == (3, 0, 1, 1, 1)
    assert told["answers"] == {
        "none": {"then": 0, "now": 1},
        "local": {"then": 0, "now": 1},
        "cloud": {"then": 2, "now": 0},
    }
    assert told["needs"] == {"local": 1}
    assert told["usd"]["now"] < told["usd"]["then"]


def test_a_record_that_is_none(flow: Flow) -> None:
    with pytest.raises(InputError, match="no whole decision record"):
        replay(flow, {"record": 1})
    record = json.loads(json.dumps(recorded(flow, QUESTION)[0]))
    record["nodes"][0] = 3
    with pytest.raises(InputError, match="no whole decision record"):
        replay(flow, record)


@pytest.mark.parametrize("style", STYLES)
def test_all_styles_replay(style: str, flow: Flow) -> None:
    STYLES[style](flow, QUESTION, None)
    (record,) = records(flow.trace_file.path)  # type: ignore[union-attr]
    assert replay(flow, record).verdict == "same"
