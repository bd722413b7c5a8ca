"""Rows of a file share the batches of nodes that have one, and stay rows of their own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dynflow import Flow, loads
from dynflow.batch_file import BatchRun
from dynflow.gathering import gathered
from tests.flow.recorder import Recorder

GRAPH = """
version: 1
nodes:
  measure: {type: lengths}
  short: {type: prompt, role: answer, template: short}
  long: {type: prompt, role: answer, template: long}
edges:
  - {from: start, to: measure}
  - {from: measure, to: long, when: measure.length > 6}
  - {from: measure, to: short}
  - {from: short, to: end}
  - {from: long, to: end}
"""
ROWS = 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "in.jsonl"
    rows = [{"id": number, "input": "x" * (number % 12 + 1)} for number in range(ROWS)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def results(source: Path) -> dict[int, dict[str, Any]]:
    rows = [json.loads(line) for line in source.with_name("out.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


async def run(flow: Flow, source: Path, **options: Any) -> Any:
    with BatchRun(flow, source, source.with_name("out.jsonl"), **options) as batch:
        return await batch.run()


async def test_rows_that_are_at_a_node_together_go_together(batching: Any, source: Path) -> None:
    report = await run(loads(GRAPH), source, concurrency=8)
    assert (report.finished, report.failed) == (ROWS, 0)
    for number, row in results(source).items():
        assert row["output"] == ("long" if number % 12 >= 6 else "short")
    sizes = [len(batch) for batch in batching.batches_seen]
    assert max(sizes) == 8, "no more than are under way"
    assert len(sizes) <= ROWS / 4


async def test_a_row_fails_by_itself_and_is_tried_again(batching: Any, source: Path) -> None:
    batching.fails = "one"  # the first of each batch
    flow = loads(GRAPH)
    report = await run(flow, source, concurrency=8)
    failed = {number for number, row in results(source).items() if row["error"]}
    assert len(failed) == report.failed == len(batching.batches_seen)
    batching.fails = False
    again = await run(flow, source, retry_failed=True)
    assert (again.finished, again.failed, again.earlier) == (ROWS, 0, ROWS - len(failed))
    assert sorted(results(source)) == list(range(ROWS))


async def test_a_batch_that_is_stopped_leaves_no_row_half_done(
    batching: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, wait, called_off = asyncio.Event(), threading.Event(), threading.Event()
    loop, real = asyncio.get_running_loop(), batching.run_batch

    def slow(self: Any, calls: Any) -> Any:
        if len(batching.batches_seen) == 2:
            loop.call_soon_threadsafe(begun.set)
            while not all(call.called_off() for call in calls):
                wait.wait(0.01)
            called_off.set()
        return real(self, calls)

    monkeypatch.setattr(batching, "run_batch", slow)
    flow, before = loads(GRAPH), asyncio.all_tasks()
    running = asyncio.create_task(run(flow, source, concurrency=8))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before
    assert await asyncio.to_thread(called_off.wait, 10), "the node hears of it"
    finished = len(results(source))
    assert finished <= sum(map(len, batching.batches_seen[:2]))
    monkeypatch.setattr(batching, "run_batch", real)
    report = await run(flow, source)
    assert (report.finished, report.earlier) == (ROWS, finished)
    assert sorted(results(source)) == list(range(ROWS))


async def test_outside_a_file_a_request_runs_at_once(batching: Any) -> None:
    recorder = Recorder()
    flow = loads(GRAPH)
    await asyncio.gather(*(flow.ainvoke("x", {"callbacks": [recorder]}) for _ in range(4)))
    assert batching.batches_seen == []
    assert recorder.unfinished == []


async def test_one_node_of_many_requests_is_gathered_too(batching: Any) -> None:
    flow = loads(GRAPH)
    async with gathered():
        found = await asyncio.gather(*(flow.arun_node("measure", "x" * length) for length in range(1, 9)))
    assert [each.output.ports["length"] for each in found if each.output] == [*range(1, 9)]
    assert max(map(len, batching.batches_seen)) > 1


def slow_lengths(batching: Any, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    real = batching.run_batch

    def slow(self: Any, calls: Any) -> Any:
        time.sleep(seconds)
        return real(self, calls)

    monkeypatch.setattr(batching, "run_batch", slow)


async def test_a_request_that_is_cancelled_leaves_the_others_their_batch(
    batching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_lengths(batching, monkeypatch, 0.1)
    flow = loads(GRAPH)
    async with gathered():
        seated = [asyncio.create_task(flow.ainvoke("x" * length)) for length in range(1, 5)]
        await asyncio.sleep(0.05)  # their batch is under way
        waiting = [asyncio.create_task(flow.ainvoke("x" * length)) for length in range(5, 8)]
        await asyncio.sleep(0.01)
        seated[1].cancel()
        waiting[1].cancel()
        ends = await asyncio.gather(*seated, *waiting, return_exceptions=True)
    assert [isinstance(end, asyncio.CancelledError) for end in ends] == [False, True, False, False, False, True, False]
    assert [str(end.text) for end in (ends[0], ends[2], ends[3], ends[4], ends[6])] == [*["short"] * 4, "long"]  # type: ignore[union-attr]


async def test_a_batch_that_nobody_is_left_of_is_called_off_and_the_next_one_runs(
    batching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_lengths(batching, monkeypatch, 0.1)
    flow, before = loads(GRAPH), asyncio.all_tasks()
    async with gathered():
        seated = [asyncio.create_task(flow.ainvoke("x" * length)) for length in range(1, 4)]
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(flow.ainvoke("x" * length)) for length in range(6, 8)]
        await asyncio.sleep(0.01)
        for task in seated:
            task.cancel()
        ends = await asyncio.wait_for(asyncio.gather(*seated, *waiting, return_exceptions=True), 10)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends[:3])
    assert [str(end.text) for end in ends[3:]] == ["short", "long"]  # type: ignore[union-attr]
    assert asyncio.all_tasks() == before


OUTER = """
version: 1
nodes:
  ask: {type: runnable, name: ask, role: answer}
edges:
  - {from: start, to: ask}
  - {from: ask, to: end}
"""


@pytest.mark.parametrize("own_loop", [False, True])
async def test_what_a_node_runs_is_no_row_of_the_file(
    own_loop: bool, batching: Any, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one row's own time limit would end others, and a flow on another event loop would wait for this one."""
    inner = loads(GRAPH)

    def on_its_own_loop(text: str) -> str:
        return str(asyncio.run(inner.ainvoke(text)).text)

    async def hurried(text: str) -> str:
        try:
            return str((await asyncio.wait_for(inner.ainvoke(text), 0.05 if text == "x" else 30)).text)
        except TimeoutError:
            return "late"

    slow_lengths(batching, monkeypatch, 0.1)
    flow = loads(OUTER, runnables={"ask": on_its_own_loop if own_loop else hurried})
    report = await asyncio.wait_for(run(flow, source, concurrency=4), 60)
    assert (report.finished, report.failed) == (ROWS, 0)
    assert batching.batches_seen == []
