"""A batch from file to file: each row once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from langchain_core.exceptions import ModelRateLimitError

from dynflow import load, loads
from dynflow.batch_file import BatchRun, Report, runner
from dynflow.errors import BatchFileError
from dynflow.recording import observers
from dynflow.testing import FakeChat
from tests.batch_file.files import EASY, HARD, TWO_STEPS, calls, flow
from tests.effort import EFFORT


async def test_a_row_for_each_row(files):
    files.write([EASY, [{"role": "user", "content": HARD}], {"input": EASY}])
    report = await files.run(flow())
    rows = sorted(files.rows(), key=lambda row: row["id"])
    for row in rows:
        assert row.pop("seconds") >= 0
        assert len(row.pop("key")) == 32
    one = {"degraded": False, "error": None}
    local = {"output": "short", "answer": "local", "path": ["start", "local", "end"], **one}
    cloud = {"output": "long long", "answer": "cloud", "path": ["start", "cloud", "end"], **one}
    assert rows == [
        {"id": 0, **local, "usd": 0.0, "saved_usd": pytest.approx(0.1)},
        {"id": 1, **cloud, "usd": pytest.approx(0.2), "saved_usd": pytest.approx(0.0)},
        {"id": 2, **local, "usd": 0.0, "saved_usd": pytest.approx(0.1)},
    ]
    assert list(files.rows()[0]) == [
        *("id", "key", "output", "answer", "path", "degraded", "usd", "saved_usd", "seconds", "error"),
    ]
    assert (report.rows, report.finished, report.failed, report.left) == (3, 3, 0, 0)
    assert (report.usd, report.saved_usd, report.saved_share) == (
        pytest.approx(0.2),
        pytest.approx(0.2),
        pytest.approx(0.5),
    )
    assert report.as_dict()["paths"][0] == {"path": ["start", "local", "end"], "rows": 2, "share": 2 / 3}


async def test_answers_that_are_no_text(files):
    graph = """
version: 1
models: {m: {provider: host}}
nodes:
  label: {type: chat, model: m, labels: [ja, nein]}
  object: {type: chat, model: m, output: {type: object, properties: {n: {type: integer}}}}
edges:
  - {from: start, to: object, when: input.text == "n"}
  - {from: start, to: label}
  - {from: label, to: end}
  - {from: object, to: end}
"""
    asked = FakeChat(replies=lambda messages: '{"n": 7}' if messages[-1].text.startswith("n") else "ja")
    files.write(["yes", "n"])
    await files.run(loads(graph, models={"m": asked}), concurrency=1)
    assert [row["output"] for row in files.rows()] == [
        {"label": "ja", "confidence": None, "probabilities": None},
        {"n": 7},
    ]


async def test_a_second_run_does_only_what_is_left(files):
    files.write([EASY] * 5)
    await files.run(flow())
    files.write([EASY] * 8)
    second = flow()
    report = await files.run(second)
    assert files.ids() == list(range(8))
    assert calls(second) == 3
    assert (report.rows, report.earlier, report.finished) == (8, 5, 8)
    assert report.saved_usd == pytest.approx(0.8)
    files.write([EASY] * 3, first=100)  # another part, into the same file: what is there stays
    report = await files.run(flow())
    assert files.ids() == [*range(8), 100, 101, 102]
    assert (report.rows, report.earlier, report.finished) == (3, 0, 3)


async def test_rows_that_fail_are_written_and_run_again_on_demand(files):
    def reply(messages: list[Any]) -> str:
        if "bad" in messages[-1].text:
            raise ModelRateLimitError("slow down")
        return "fine"

    files.write([EASY, "bad", "", {"inputs": "x"}])
    report = await files.run(flow(small=FakeChat(replies=reply)))
    errors = {row["id"]: row["error"] for row in files.rows()}
    assert errors[0] is None
    assert errors[1]["kind"] == "rate_limit"
    assert "slow down" in errors[1]["message"]
    assert "in node 'local'" in errors[1]["message"]
    assert errors[2] == {"kind": "invalid", "message": "the request is empty: give a question, or messages with one"}
    assert errors[3]["kind"] == "invalid"
    found = {row["id"]: row for row in files.rows()}
    assert (found[1]["path"], found[1]["answer"], found[1]["usd"]) == (["start", "local"], None, 0.0)
    assert (found[2]["path"], found[2]["output"], found[2]["usd"]) == ([], None, 0.0)
    assert report.errors == {"invalid": 2, "rate_limit": 1}
    assert report.stopped is None

    untouched = flow()
    report = await files.run(untouched)
    assert calls(untouched) == 0
    assert (report.earlier, report.failed) == (4, 3)

    report = await files.run(flow(), retry_failed=True)
    assert files.ids() == [0, 1, 2, 3]
    assert report.errors == {"invalid": 2}
    assert (report.earlier, report.finished) == (1, 4)


@pytest.mark.parametrize("other", ["graph", "params", "inputs"])
async def test_results_of_other_work_are_noticed(files, other):
    files.write([EASY] * 4)
    await files.run(flow(), params={"easy_below": 5})
    changed, params = flow(), {"easy_below": 5}
    if other == "graph":
        text = changed.graph.replace("{type: chat, model: small}", "{type: chat, model: small, system: Be brief.}")
        changed = loads(text, models=changed.models)
    elif other == "params":
        params = {"easy_below": 4}
    else:
        files.write([EASY, "mild", EASY, "nice"])
    before = files.target.read_bytes()
    number, first = ("2", "1") if other == "inputs" else ("4", "0")
    with pytest.raises(BatchFileError, match=rf"other inputs \({number}; the first is that of id {first}\)"):
        await files.run(changed, params=params)
    assert files.target.read_bytes() == before
    await files.run(changed, params=params, changed="keep")
    assert files.target.read_bytes() == before
    assert calls(changed) == 0
    report = await files.run(changed, params=params, changed="redo")
    assert calls(changed) == int(number)
    assert files.ids() == [0, 1, 2, 3]
    assert report.finished == 4
    again = await files.run(changed, params=params)
    assert again.earlier == 4


async def test_a_larger_budget_is_no_other_graph(files):
    files.write([EASY] * 2)
    await files.run(flow("limits: {usd_per_day: 1.0}"))
    report = await files.run(flow("limits: {usd_per_day: 2.0, timeout: 9s}"))
    assert report.earlier == 2


async def test_two_results_of_one_row(files):
    files.write([EASY])
    await files.run(flow())
    files.target.write_bytes(files.target.read_bytes() * 2)
    with pytest.raises(BatchFileError, match="the id 0 has two results: remove one"):
        await files.run(flow())


async def test_a_faulty_input_leaves_no_output(files):
    files.source.write_text("{}\n")
    with pytest.raises(BatchFileError):
        await files.run(flow())
    assert not files.target.exists()


async def test_the_input_is_not_taken_for_the_output(files):
    files.write([EASY])
    before = files.source.read_bytes()
    files.target.symlink_to(files.source)
    with pytest.raises(BatchFileError, match="is the input: give another --output"):
        await files.run(flow())
    assert files.source.read_bytes() == before


async def test_no_more_than_so_many_at_once_and_a_slow_one_blocks_nobody(files):
    running, most = 0, 0
    slow = asyncio.Event()

    class Counting(FakeChat):
        async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if "slow" in messages[-1].text:
                await slow.wait()
            await asyncio.sleep(0.001)
            running -= 1
            return await super()._agenerate(messages, *args, **kwargs)

    files.write(["slow", *[EASY] * 50])
    with BatchRun(flow(small=Counting()), files.source, files.target, concurrency=4) as batch:

        def told(report: Report) -> None:
            if report.finished == 50:  # all but the slow one
                slow.set()

        report = await asyncio.wait_for(batch.run(told), 60)
    assert report.finished == 51
    assert files.rows()[-1]["id"] == 0
    assert most == 4


async def test_a_row_of_a_sub_graph_is_charged_once(files, tmp_path):
    (tmp_path / "inner.yaml").write_text(TWO_STEPS)
    outer = """
version: 1
nodes: {sub: {type: graph, uses: inner.yaml}}
edges:
  - {from: start, to: sub}
  - {from: sub, to: end}
"""
    models = {"sub/small": FakeChat(replies=["draft"]), "sub/large": FakeChat(replies=["long"])}
    files.write([HARD] * 4)
    with BatchRun(loads(outer, base=tmp_path, models=models), files.source, files.target) as batch:
        report = await batch.run()
        assert not batch._records.of
    assert report.usd == pytest.approx(0.008)
    assert files.rows()[0]["path"] == ["start", "sub", "end"]
    assert observers == []


def test_batches_at_once_keep_to_their_own_records():
    first, second = runner._Records(), runner._Records()
    with runner._observing(first):
        with runner._observing(second):
            pass
        assert observers[0] is first
    assert observers == []


async def test_a_calibration_makes_other_work(files, tmp_path):
    path = tmp_path / "canned.yaml"
    path.write_text(
        """
version: 1
params: {long_from: {default: 3, min: 0, max: 9, tune: true}}
nodes:
  long: {type: prompt, role: answer, template: "long"}
  short: {type: prompt, role: answer, template: "short"}
edges:
  - {from: start, to: long, when: input.tokens >= params.long_from}
  - {from: start, to: short}
  - {from: long, to: end}
  - {from: short, to: end}
"""
    )
    files.write([EASY])
    await files.run(load(path))
    calibrated = load(path)
    calibrated._engine.defaults["long_from"] = 0  # as a calibration file does it
    with pytest.raises(BatchFileError, match="holds results of another graph"):
        await files.run(calibrated)


CANNED = """
version: 1
nodes: {reply: {type: prompt, role: answer, template: "{input}"}}
edges:
  - {from: start, to: reply}
  - {from: reply, to: end}
"""


async def test_memory_does_not_grow_with_the_rows(files):
    canned = loads(CANNED)

    async def peak(rows: int) -> int:
        files.target.unlink(missing_ok=True)
        files.write(f"question {number}" for number in range(rows))
        tracemalloc.start()
        try:
            report = await files.run(canned, concurrency=16)
            assert report.finished == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await peak(500)  # caches fill
    few = await peak(500)
    assert await peak(3_000 * EFFORT) < few + 200_000
    assert Counter(row["error"] for row in files.rows()) == {None: 3_000 * EFFORT}
