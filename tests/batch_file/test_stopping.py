"""What stops a batch, what it waits for, and that no row is lost or run twice for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.exceptions import ModelAuthenticationError, ModelPermissionDeniedError

from dynflow import MissingEnvironment, Overloaded, loads
from dynflow.batch_file import file_run
from dynflow.models.failures import CircuitOpen, QuotaExhausted
from dynflow.testing import FakeChat
from tests.batch_file.files import EASY, HARD, TWO_STEPS, Outage, flow


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


@pytest.mark.parametrize(
    "error",
    [ModelAuthenticationError("no such key"), MissingEnvironment("KEY", "model 'large'"), QuotaExhausted("no credit")],
)
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
