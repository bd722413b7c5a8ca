"""Threads, processes, forks, finalisers and crashes: all share one budget, and nothing that was held is freed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dynflow import BudgetExceeded
from dynflow.budget_store import BudgetStore
from dynflow.budgets import Books, nano_dollars
from tests.budgets.spending import DAY, budget, reserve, said, started, tell


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
