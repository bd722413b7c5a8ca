"""Budgets: what is reserved and settled, by many at once, over crashes, forks, days, and files that cannot be used."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dynflow import BudgetExceeded
from dynflow.budget_store import MOST, BudgetStore
from dynflow.budgets import BaselineShare, Books, Budget, DayAllowance, Reservation, nano_dollars
from dynflow.language.spec import Limits
from dynflow.models.settings import Price
from dynflow.prompt_size import PromptSize

DAY = "2026-03-01"
PRICE = Price(output=1.0)
"""A dollar for a million tokens: a token is a millionth."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budgets.sqlite3"


@pytest.fixture(params=["file", "memory"])
def books(request: pytest.FixtureRequest, file: Path) -> Iterator[Books]:
    store = BudgetStore(file if request.param == "file" else None)
    yield Books(store, "graph")
    store.close()


def day_of(books: Books, usd: float = 1.0) -> DayAllowance:
    return DayAllowance(usd, books, today=lambda: DAY)


def budget(books: Books, usd: float = 1.0, **limits: Any) -> Budget:
    return Budget(Limits(**limits), day_of(books, usd))


def prompt(most: int) -> PromptSize:
    size = PromptSize([])
    size.__dict__["most"] = most  # takes the place of the cached value
    return size


def reserve(budget: Budget, usd: float) -> Reservation:
    return budget.reserve("m", PRICE, prompt(0), round(usd * 1e6))[1]


def test_a_reservation_counts_until_it_is_settled(books: Books) -> None:
    money = budget(books)
    held = reserve(money, 0.75)
    assert money.day_left == 0.25
    with pytest.raises(BudgetExceeded, match=r"could cost \$0.50000000.*limits leave \$0.25"):
        reserve(budget(books), 0.5)
    held.settle(0.1)
    assert money.day_left == pytest.approx(0.9)


def test_a_reservation_is_settled_once(books: Books) -> None:
    money = budget(books, usd_per_request=1.0)
    held = reserve(money, 0.5)
    other = reserve(money, 0.25)
    for usd in (0.1, 0.0, 0.5):
        held.settle(usd)
    assert money.day_left == pytest.approx(0.65)
    assert money.request_left == pytest.approx(0.65)
    other.settle(0.0)
    assert money.day_left == pytest.approx(0.9)


def test_what_a_call_cost_beyond_its_reservation_counts_in_full(books: Books) -> None:
    reserve(budget(books), 0.9).settle(1.2)
    assert budget(books).day_left == 0
    with pytest.raises(BudgetExceeded):
        reserve(budget(books), 0.000001)


def test_all_allowances_or_none(books: Books) -> None:
    outer = budget(books, 1.0, usd_per_request=0.3)
    inner = Budget(Limits(usd_per_request=0.2), day_of(Books(books.store, "inner"), 0.5), outer)
    with pytest.raises(BudgetExceeded):
        reserve(inner, 0.25)  # the inner request refuses
    reserve(outer, 0.2)
    with pytest.raises(BudgetExceeded):
        reserve(inner, 0.15)  # the outer request refuses, after the inner ones agreed
    assert (inner.request_left, inner.day_left) == pytest.approx((0.1, 0.5))
    held = reserve(inner, 0.1)
    assert (inner.request_left, outer.request_left, inner.day_left) == pytest.approx((0.0, 0.0, 0.4))
    held.settle(0.04)
    assert (inner.request_left, outer.day_left) == pytest.approx((0.06, 0.76))


@pytest.mark.parametrize("max_tokens", [900_000, None])
@pytest.mark.parametrize("refusing", ["usd_per_request", "usd_per_day"])
def test_a_refusal_names_the_limit_that_refused(
    books: Books, refusing: str, max_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever others reserve or release right afterwards."""
    by_day = refusing == "usd_per_day"
    money = budget(books, 0.8 if by_day else 1.0, usd_per_request=0.95 if by_day else 0.5)
    seen = iter([money.day_left] if max_tokens is None else [])
    monkeypatch.setattr(DayAllowance, "left", property(lambda _: next(seen, 1.0 if by_day else 0.0)))
    with pytest.raises(BudgetExceeded) as refused:
        money.reserve("m", Price(input=1.0, output=1.0), prompt(0 if max_tokens else 900_000), max_tokens)
    assert refused.value.limit == refusing


def test_a_call_counts_on_the_day_it_began(books: Books) -> None:
    today = [DAY]
    day = DayAllowance(1.0, books, today=lambda: today[0])
    yesterdays = reserve(Budget(Limits(), day), 0.5)
    today[0] = "2026-03-02"
    assert day.left == 1
    reserve(Budget(Limits(), day), 0.9)
    yesterdays.settle(0.2)
    assert day.left == pytest.approx(0.1)
    assert books.store.taken("graph", DAY) == nano_dollars(0.2)


def test_days_gone_by_are_forgotten(books: Books) -> None:
    books.store.reserve("graph", "2026-03-01", 5, 10)
    books.store.arrive("graph", "2026-03-01", "somebody")
    books.store.reserve("graph", "2026-03-02", 5, 10)
    assert books.store.taken("graph", "2026-03-01") == 5
    books.store.reserve("graph", "2026-03-03", 5, 10)
    assert books.store.taken("graph", "2026-03-01") == 0
    assert books.store.visits("graph", "2026-03-01", "somebody") == (0, 0)


def test_a_new_cap_applies_to_what_is_spent(books: Books) -> None:
    reserve(budget(books, 1.0), 0.75)
    assert budget(books, 0.5).day_left == 0
    assert budget(books, 2.0).day_left == 1.25


def test_limits_that_afford_exactly_so_many_calls(books: Books) -> None:
    for _ in range(10):
        reserve(budget(books), 0.1)
    assert budget(books).day_left == 0


def test_amounts_beyond_all_measure(books: Books) -> None:
    money = Budget(Limits(), DayAllowance(1e300, books, today=lambda: DAY))
    with pytest.raises(BudgetExceeded):
        money.reserve("m", Price(output=1e300), prompt(0), 10)
    for _ in range(3):
        money.spend(1e300)
    assert books.store.taken("graph", DAY) == MOST


def test_free_calls_open_no_file(file: Path) -> None:
    money = budget(Books(BudgetStore(file), "graph"))
    money.reserve("m", Price(), prompt(100), 100)[1].settle(0.0)
    assert not file.parent.exists()


def test_compute_is_reserved_where_its_time_has_an_end(books: Books) -> None:
    money, price = budget(books), Price(second=0.01)
    _, held = money.reserve("m", price, prompt(10), None, seconds=60.0)
    assert money.day_left == pytest.approx(0.4)
    with pytest.raises(BudgetExceeded, match="60 s of compute"):
        money.reserve("m", price, prompt(10), None, seconds=60.0)
    held.settle(0.0123)
    money.reserve("m", price, prompt(10), None)[1].settle(5.0)  # no end was known: it counts afterwards
    assert money.day_left == 0
    with pytest.raises(BudgetExceeded):
        money.reserve("m", price, prompt(10), None)


def test_the_dearest_rates_that_a_prompt_can_reach_are_reserved(books: Books) -> None:
    price = Price.model_validate(
        {"input": 1.0, "output": 2.0, "cache_write": 1.25, "tiers": [{"above": 1000, "input": 3.0, "output": 4.0}]}
    )
    assert budget(books).reserve("m", price, prompt(1000), 10)[1].usd == pytest.approx((1250 + 20) / 1e6)
    assert budget(books).reserve("m", price, prompt(1001), 10)[1].usd == pytest.approx((3003 + 40) / 1e6)


# Many at once


def test_threads_share_one_budget(books: Books) -> None:
    def one(_: int) -> bool:
        try:
            reserve(budget(books), 0.1)
        except BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(one, range(100))) == 10
    assert budget(books).day_left == 0


PROCESS = """
import sys
from pathlib import Path
from dynflow import BudgetExceeded
from dynflow.budget_store import BudgetStore
store = BudgetStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
won = sum(store.reserve("graph", "2026-03-01", 10, 105) is not None for _ in range(25))
print(won, flush=True)
sys.stdin.readline()
"""


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert said(process) == "ready"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_share_one_budget_and_their_deaths_free_nothing(file: Path) -> None:
    processes = [started(PROCESS, file) for _ in range(4)]
    for process in processes:
        tell(process)
    assert sum(int(said(process)) for process in processes) == 10
    for process in processes:
        process.kill()
        process.communicate()
    store = BudgetStore(file)
    assert store.taken("graph", DAY) == 100
    assert store.reserve("graph", DAY, 10, 105) is None
    store.close()


# Forks, and finalisers at bad moments


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_child_shares_the_file_and_settles_nothing_of_its_parents(file: Path) -> None:
    books = Books(BudgetStore(file), "graph")
    held = reserve(budget(books), 0.5)

    def child() -> None:
        held.settle(0.0)
        reserve(budget(books), 0.25)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(20)
    assert process.exitcode == 0
    assert budget(books).day_left == 0.25
    held.settle(0.5)
    assert budget(books).day_left == 0.25
    books.store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_while_others_reserve_blocks_nobody(file: Path) -> None:
    books = Books(BudgetStore(file), "graph")
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            books.store.reserve("graph", DAY, 1, 10**9)
            time.sleep(0.001)

    worker = threading.Thread(target=busy)
    worker.start()
    for _ in range(5):
        process = multiprocessing.get_context("fork").Process(target=books.store.reserve, args=("f", DAY, 1, 100))
        process.start()
        process.join(20)
        assert process.exitcode == 0
    stop.set()
    worker.join()
    assert books.store.taken("f", DAY) == 5
    books.store.close()


def test_a_finaliser_may_settle_in_the_middle_of_a_transaction(books: Books) -> None:
    money = budget(books)
    held = reserve(money, 0.5)
    with books.store._transaction():
        held.settle(0.125)  # as the garbage collector would have it, in this very thread
    assert money.day_left == 0.875


def test_what_is_open_at_exit_stays_counted(file: Path) -> None:
    program = """
import sys
from pathlib import Path
from dynflow.budget_store import BudgetStore
from dynflow.budgets import Books, Budget, DayAllowance
from dynflow.language.spec import Limits
from dynflow.models.settings import Price
from dynflow.prompt_size import PromptSize
budget = Budget(Limits(), DayAllowance(1.0, Books(BudgetStore(Path(sys.argv[1])), "graph"), lambda: "2026-03-01"))
_, held = budget.reserve("m", Price(output=1), PromptSize([]), 500_000)
class AtExit:
    def __init__(self, held): self.held, self.cycle = held, self
    def __del__(self): self.held.settle(0.0)
sys.modules["kept"] = AtExit(held)
"""
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    store = BudgetStore(file)
    assert store.taken("graph", DAY) == nano_dollars(0.5)
    store.close()


# Files that cannot be used: nothing is spent


def refused(books: Books) -> str:
    with pytest.raises(BudgetExceeded) as refusal:
        reserve(budget(books), 0.1)
    assert budget(books).day_left == 0
    text = str(refusal.value)
    assert "nothing is spent" in text
    assert "DYNFLOW_STATE" in text
    assert str(books.store.file) in text
    return text


def test_a_damaged_file(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"no database at all, whatever its name says" * 100)
    assert "not a database" in refused(Books(BudgetStore(file), "graph"))


def test_a_file_of_another_version(file: Path) -> None:
    file.parent.mkdir()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "another version" in refused(Books(BudgetStore(file), "graph"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, where a folder should be")
    refused(Books(BudgetStore(tmp_path / "state" / "budgets.sqlite3"), "graph"))


def test_a_full_disk(file: Path) -> None:
    books = Books(BudgetStore(file), "graph")
    reserve(budget(books), 0.1)
    assert books.store._connection is not None
    (pages,) = books.store._connection.execute("PRAGMA page_count").fetchone()
    books.store._connection.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for number in range(10_000):
            books.store.arrive("graph", DAY, f"caller {number}")

    with pytest.raises(BudgetExceeded, match="full"):
        fill()
    reserve(budget(books), 0.1)  # the disk has room again
    books.store.close()


def test_a_file_that_another_process_holds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynflow.budget_store._PATIENCE", 0.05)
    books = Books(BudgetStore(file), "graph")
    held = reserve(budget(books), 0.5)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BudgetExceeded, match="locked"):
        reserve(budget(books), 0.1)
    held.settle(0.0)  # cannot be told: it stays counted
    other.execute("ROLLBACK")
    other.close()
    assert budget(books).day_left == 0.5
    books.store.close()


def test_a_store_that_a_thread_holds_for_long(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynflow.budget_store._PATIENCE", 0.05)
    books.store._lock.acquire()
    with pytest.raises(BudgetExceeded, match="busy"):
        reserve(budget(books), 0.1)
    books.store._lock.release()
    reserve(budget(books), 0.1)


def test_a_settling_that_cannot_be_written_is_logged(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    books = Books(BudgetStore(file), "graph")
    held = reserve(budget(books), 0.5)
    books.store.close()
    file.write_bytes(b"damaged" * 1000)
    with caplog.at_level(logging.WARNING, "dynflow"):
        held.settle(0.1)
        budget(books).spend(0.1)
    assert len(caplog.records) == 2


def test_a_file_that_is_moved_away_is_made_anew(file: Path) -> None:
    books = Books(BudgetStore(file), "graph")
    held = reserve(budget(books), 0.75)
    for each in file.parent.iterdir():
        each.unlink()
    reserve(budget(books), 0.5)
    held.settle(0.0)  # is no part of the new file
    assert budget(books).day_left == 0.5
    books.store.close()


def test_no_home_and_no_folder_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DYNFLOW_STATE")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(BudgetExceeded, match="set DYNFLOW_STATE"):
        Books.of(Path("graph.yaml"))


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"XDG_STATE_HOME": "/x"}, "/x/dynflow"),
        ("linux", {}, "/home/me/.local/state/dynflow"),
        ("darwin", {}, "/home/me/Library/Application Support/dynflow"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/dynflow"),
        ("win32", {}, "/home/me/AppData/Local/dynflow"),
        ("linux", {"DYNFLOW_STATE": "/given", "XDG_STATE_HOME": "/x"}, "/given"),
    ],
)
def test_where_the_file_lies(
    platform: str, variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DYNFLOW_STATE", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    monkeypatch.setattr(sys, "platform", platform)
    books = Books.of(Path("some/graph.yaml"))
    assert books.store.file == Path(folder) / "budgets.sqlite3"
    assert books.key == str(Path("some/graph.yaml").resolve())
    assert Books.of(Path("other.yaml")).store is books.store


# Callers' shares of the baseline


def share_of(books: Books, share: float) -> BaselineShare:
    return BaselineShare(share, books, today=lambda: DAY)


def admitted(share: BaselineShare, caller: str = "") -> bool:
    left = share.left(caller)
    try:
        share.admit(caller)
    except BudgetExceeded:
        assert left == 0
        return False
    assert share.left(caller) == left - 1
    return True


def test_a_fresh_caller_counts_as_if_he_had_asked_twenty_times(books: Books) -> None:
    share = share_of(books, 0.2)
    assert [admitted(share) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [admitted(share, "another") for _ in range(6)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(("share", "allowed"), [(0.0, 0), (0.1, 10), (0.07, 7), (1.0, 100)])
def test_the_share_is_never_passed(share: float, allowed: int, books: Books) -> None:
    limit = share_of(books, share)
    visits = 0
    for requests in range(1, 101):
        limit.arrive("somebody")
        visits += admitted(limit, "somebody")
        assert visits <= share * max(requests, 20)
    assert visits == allowed


def test_callers_names_are_not_kept(file: Path) -> None:
    books = Books(BudgetStore(file), "graph")
    share_of(books, 1.0).arrive("alice@example.org")
    books.store.close()
    assert b"alice" not in file.read_bytes()


def test_a_share_that_cannot_be_counted_is_none(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"damaged" * 1000)
    share = share_of(Books(BudgetStore(file), "graph"), 1.0)
    share.arrive("somebody")
    assert not admitted(share, "somebody")


def test_a_flow_that_is_gone_leaves_no_store_open(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNFLOW_STATE", str(file.parent))
    books = Books.of(Path("graph.yaml"))
    reserve(budget(books), 0.1)
    connection = books.store._connection
    assert connection is not None
    del books
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_process_killed_with_reservations_leaves_them_counted(file: Path) -> None:
    program = """
import sys
from pathlib import Path
from dynflow.budget_store import BudgetStore
store = BudgetStore(Path(sys.argv[1]))
settled = store.reserve("graph", "2026-03-01", 30, 1000)
store.settle(settled, 7)
for _ in range(3):
    store.reserve("graph", "2026-03-01", 30, 1000)
print("ready", flush=True)
sys.stdin.readline()
"""
    process = started(program, file)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store = BudgetStore(file)
    assert store.taken("graph", DAY) == 97
    store.close()
