"""A batch from file to file: each row once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import ModelAuthenticationError, ModelPermissionDeniedError, ModelRateLimitError

from dynflow import Flow, MissingEnvironment, Overloaded, load, loads
from dynflow.batch_file import BatchRun, Report, file_run, runner
from dynflow.errors import BatchFileError
from dynflow.models.failures import CircuitOpen
from dynflow.recording import observers
from dynflow.testing import FakeChat
from tests.effort import EFFORT

GRAPH = """
version: 1
params: {easy_below: 3}
models:
  small: {provider: host, price: {input: 0, output: 0}}
  large: {provider: host, max_tokens: 10, price: {input: 0, output: 100000}}
nodes:
  local: {type: chat, model: small}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: local, when: input.tokens < params.easy_below}
  - {from: start, to: cloud}
  - {from: local, to: end}
  - {from: cloud, to: end}
baseline: cloud
LIMITS
"""
EASY, HARD = "easy", "a hard question"


def flow(limits: str = "", **models: Any) -> Flow:
    fakes = {"small": FakeChat(replies=["short"]), "large": FakeChat(replies=["long long"])}
    return loads(GRAPH.replace("LIMITS", limits), models={**fakes, **models})


def calls(flow: Flow) -> int:
    return sum(len(flow.models[name].calls) for name in ("small", "large"))


class Files:
    """An input and an output."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "in.jsonl"
        self.target = folder / "out.jsonl"

    def write(self, inputs: Iterable[Any], first: int = 0) -> None:
        with self.source.open("w", encoding="utf-8") as file:
            for number, input in enumerate(inputs, first):
                file.write(f"{json.dumps({'id': number, 'input': input})}\n")

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.target.read_text("utf-8").splitlines()]

    def ids(self) -> list[Any]:
        return sorted(row["id"] for row in self.rows())

    async def run(self, flow: Flow, **options: Any) -> Report:
        with BatchRun(flow, self.source, self.target, **options) as batch:
            return await batch.run()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


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


async def test_the_days_budget_stops_the_batch_and_burns_no_row(files):
    # A call costs 0.2 and may cost 1: four at once hold all of it, one alone can still go on.
    files.write([HARD] * 30)
    limits = "limits: {usd_per_day: 4.0}"
    spending = flow(limits)
    report = await files.run(spending, concurrency=8)
    assert report.failed == 0
    assert report.stopped is not None
    assert "limits leave $" in report.stopped
    # 16 calls of 0.2 leave 0.8, which the next could pass.
    assert report.finished == len(files.rows()) == 16
    assert report.left == 14
    report = await files.run(flow("limits: {usd_per_day: 40.0}"))
    assert report.stopped is None
    assert files.ids() == list(range(30))


async def test_after_a_refusal_by_the_day_rows_run_side_by_side_again(files):
    # A call costs 0.1 and may cost 1: of the first eight rows four are refused.
    under_way = 0
    company: list[bool] = []

    class Counting(FakeChat):
        async def _astream(self, *arguments: Any, **options: Any) -> Any:
            nonlocal under_way
            company.append(under_way > 0)
            under_way += 1
            async for chunk in super()._astream(*arguments, **options):
                yield chunk
            under_way -= 1

    files.write([HARD] * 24)
    report = await files.run(flow("limits: {usd_per_day: 4.0}", large=Counting(replies=["long"], delay=0.1)))
    assert (report.finished, report.failed, report.stopped) == (24, 0, None)
    assert sum(company[:4]) == 3
    assert any(company[4:])


async def test_a_row_that_is_too_dear_for_a_request_is_a_failure_of_its_own(files):
    files.write([EASY, HARD, EASY])
    report = await files.run(flow("limits: {usd_per_request: 0.5, usd_per_day: 9.0, max_tokens: 10}"))
    assert report.stopped is None
    assert report.errors == {"budget": 1}
    assert files.ids() == [0, 1, 2]


@pytest.mark.parametrize("error", [ModelAuthenticationError("no such key"), MissingEnvironment("KEY", "model 'large'")])
async def test_what_every_row_would_fail_of_stops_the_batch(files, error):
    files.write([EASY, HARD, *[EASY] * 5, *[HARD] * 20])
    report = await files.run(flow(large=FakeChat(fail_with=error)), concurrency=2)
    assert report.stopped is not None
    assert str(error) in report.stopped
    assert report.failed == 0
    assert all(row["error"] is None for row in files.rows())
    report = await files.run(flow())
    assert report.stopped is None
    assert files.ids() == list(range(27))


async def test_a_refusal_of_one_row_does_not_stop_the_others(files):
    """Some services answer 403 to a text that they do not like."""
    files.write([EASY, HARD, EASY])
    report = await files.run(flow(large=FakeChat(fail_with=ModelPermissionDeniedError("flagged"))))
    assert report.errors == {"auth": 1}
    assert report.finished == 3


class Outage(FakeChat):
    """Out of service for so many calls."""

    calls_left: int = 0
    error: Any = CircuitOpen("large", 0.01)

    async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        if self.calls_left > 0:
            self.calls_left -= 1
            raise self.error
        return await super()._agenerate(messages, *args, **kwargs)


TWO_STEPS = """
version: 1
models:
  small: {provider: host, price: {input: 0, output: 1000}}
  large: {provider: host, price: {input: 0, output: 1000}}
nodes:
  draft: {type: chat, model: small, role: signal}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: draft}
  - {from: draft, to: cloud}
  - {from: cloud, to: end}
"""


@pytest.mark.parametrize("error", [CircuitOpen("large", 0.01), Overloaded("its queue is full")])
async def test_a_model_that_is_out_of_service_is_waited_for(files, monkeypatch, error):
    monkeypatch.setattr(file_run, "_SHORTEST_WAIT", 0.01)
    files.write([HARD] * 4)
    models = {"small": FakeChat(replies=["draft"]), "large": Outage(replies=["long"], calls_left=6, error=error)}
    report = await files.run(loads(TWO_STEPS, models=models), concurrency=2)
    assert (report.finished, report.failed, report.stopped) == (4, 0, None)
    # Each try paid for a draft: six came to nothing.
    assert len(models["small"].calls) == 10
    assert sum(row["usd"] for row in files.rows()) == pytest.approx(0.014)


async def test_but_not_for_ever(files, monkeypatch):
    monkeypatch.setattr(file_run, "_SHORTEST_WAIT", 0.01)
    monkeypatch.setattr(file_run, "_PATIENCE", 0.2)
    files.write([HARD] * 20)
    down = {"small": FakeChat(), "large": Outage(calls_left=10**9)}
    report = await asyncio.wait_for(files.run(loads(TWO_STEPS, models=down), concurrency=2), 60)
    assert report.stopped is not None
    assert "the model 'large' is not called: its last calls failed" in report.stopped
    assert (report.finished, report.failed, files.rows()) == (0, 0, [])


async def test_who_waits_hears_that_the_batch_has_stopped(files):
    key = ModelAuthenticationError("no such key")
    files.write([EASY, HARD, HARD])
    stopping = flow(small=Outage(calls_left=10**9), large=FakeChat(fail_with=key))
    report = await asyncio.wait_for(files.run(stopping, concurrency=2), 60)
    assert report.stopped is not None
    assert "no such key" in report.stopped


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


async def test_cancelled_rows_leave_no_trace(files):
    files.write([EASY] * 3 + ["hang"] * 3 + [EASY] * 10)
    begun = asyncio.Semaphore(0)

    class Hanging(FakeChat):
        async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            if "hang" in messages[-1].text:
                begun.release()
                await asyncio.sleep(3600)
            return await super()._agenerate(messages, *args, **kwargs)

    task = asyncio.create_task(files.run(flow(small=Hanging()), concurrency=3))
    for _ in range(3):
        await asyncio.wait_for(begun.acquire(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files.ids() == [0, 1, 2]
    assert len(asyncio.all_tasks()) == 1
    report = await files.run(flow())
    assert report.earlier == 3
    assert files.ids() == list(range(16))


async def test_a_disk_that_is_full_stops_the_batch(files, monkeypatch):
    from dynflow.batch_file.output import OutputFile

    real = OutputFile.append

    def append(self: OutputFile, row: Any) -> None:
        if row["id"] == 5:
            raise OSError(28, "No space left on device", str(self.path))
        real(self, row)

    monkeypatch.setattr(OutputFile, "append", append)
    files.write([EASY] * 50)
    with pytest.raises(OSError, match="No space left"):
        await files.run(flow(), concurrency=1)
    assert files.ids() == [0, 1, 2, 3, 4]
    monkeypatch.undo()
    await files.run(flow())
    assert files.ids() == list(range(50))


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
