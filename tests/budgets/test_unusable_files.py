"""Files that cannot be used: nothing is spent. Where the file lies, and when it is closed."""

from __future__ import annotations

import gc
import logging
import sqlite3
import sys
from pathlib import Path

import pytest

from dynflow import BudgetExceeded
from dynflow.budget_store import BudgetStore
from dynflow.budgets import Books
from tests.budgets.spending import DAY, budget, reserve


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
