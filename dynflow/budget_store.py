"""What each graph spent today and holds reserved, and who took its expensive path: one SQLite file for all processes.

A reservation is a row of its own. Settling replaces it by what was really spent; a process that dies leaves its rows
behind, and they go on counting. Amounts are whole nano-dollars, because floats that are added and taken away again
drift. Days are UTC, written `2026-01-31`.
"""

from __future__ import annotations

import datetime
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from dynflow.errors import BudgetExceeded
from dynflow.state import VARIABLE

if TYPE_CHECKING:
    from sqlite3 import Connection

MOST = 2**60
"""Nano-dollars that stand for any greater amount: sums of a few still fit SQLite's integers."""
_PATIENCE = 1.0
"""Seconds to wait for others; an event loop may be the one that waits."""
_VERSION = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS spent (key TEXT, day TEXT, nano INTEGER NOT NULL, PRIMARY KEY (key, day))",
    "CREATE TABLE IF NOT EXISTS reserved"
    " (id INTEGER PRIMARY KEY, key TEXT, day TEXT, nano INTEGER NOT NULL, pid INTEGER, time REAL)",
    "CREATE INDEX IF NOT EXISTS reserved_on ON reserved (key, day)",
    "CREATE TABLE IF NOT EXISTS callers (key TEXT, day TEXT, caller TEXT, requests INTEGER NOT NULL,"
    " baseline INTEGER NOT NULL, PRIMARY KEY (key, day, caller))",
    f"PRAGMA user_version = {_VERSION}",
)


class BudgetStore:
    """The books of one file, or (None) of this process alone. Threads may share one; a fork leaves it usable.

    Each method is one short transaction, and raises `BudgetExceeded` where the file cannot be read or written, so that
    money that cannot be counted is not spent. What was committed outlives the process; after a power cut the last
    moments may be missing.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._connection: Connection | None = None
        self._inode = 0
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._late: deque[tuple[int, int]] = deque()
        self._pruned = ""
        _stores.add(self)

    # Money

    def reserve(self, key: str, day: str, nano: int, cap: int) -> int | None:
        """Set an amount aside; the reservation's id, or None where the day's cap does not leave so much."""
        with self._transaction() as books:
            self._prune(books, day)
            if nano >= MOST or _taken(books, key, day) + nano > cap:
                return None
            reservation = secrets.randbits(62)  # never used twice: a late settling must not meet another's row
            row = (reservation, key, day, nano, os.getpid(), time.time())
            books.execute("INSERT INTO reserved VALUES (?, ?, ?, ?, ?, ?)", row)
            return reservation

    def settle(self, reservation: int, nano: int) -> None:
        """Replace a reservation by what was spent, on the day it was made; one that is settled stays as it is."""
        if self._holder == threading.get_ident():  # a finaliser that ran in the middle of this thread's transaction
            self._late.append((reservation, nano))
            return
        with self._transaction() as books:
            _settle(books, reservation, nano)

    def spend(self, key: str, day: str, nano: int) -> None:
        """Count an amount that nothing was reserved for."""
        with self._transaction() as books:
            _spend(books, key, day, nano)

    def taken(self, key: str, day: str) -> int:
        """What is spent and reserved on a day."""
        with self._transaction("DEFERRED") as books:
            return _taken(books, key, day)

    # Callers

    def arrive(self, key: str, day: str, caller: str) -> None:
        """Count a caller's request."""
        with self._transaction() as books:
            self._prune(books, day)
            requests, baseline = _visits(books, key, day, caller)
            books.execute("REPLACE INTO callers VALUES (?, ?, ?, ?, ?)", (key, day, caller, requests + 1, baseline))

    def admit(self, key: str, day: str, caller: str, share: float, fewest: int) -> bool:
        """Count a visit of the baseline, if a caller's visits stay within the share of his requests, or of `fewest`."""
        with self._transaction() as books:
            requests, baseline = _visits(books, key, day, caller)
            if baseline + 1 > share * max(requests, fewest) + 1e-9:
                return False
            books.execute("REPLACE INTO callers VALUES (?, ?, ?, ?, ?)", (key, day, caller, requests, baseline + 1))
            return True

    def give_back(self, key: str, day: str, caller: str) -> None:
        """Take back a counted visit of the baseline."""
        with self._transaction() as books:
            requests, baseline = _visits(books, key, day, caller)
            row = (key, day, caller, requests, max(0, baseline - 1))
            books.execute("REPLACE INTO callers VALUES (?, ?, ?, ?, ?)", row)

    def visits(self, key: str, day: str, caller: str) -> tuple[int, int]:
        """A caller's requests, and his visits of the baseline."""
        with self._transaction("DEFERRED") as books:
            return _visits(books, key, day, caller)

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        self.close()

    # Transactions

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[Connection]:
        if not self._lock.acquire(timeout=_PATIENCE):
            raise BudgetExceeded(self._advice("it is busy"))
        try:
            self._holder = threading.get_ident()
            connection = self._connect()
            connection.execute(f"BEGIN {kind}")
            with connection:  # commits, or rolls back
                yield connection
                while self._late and kind == "IMMEDIATE":
                    _settle(connection, *self._late.popleft())
        except Exception as error:
            from sqlite3 import Error

            if not isinstance(error, (OSError, Error)):
                raise
            if self.file is not None:
                with suppress(Error):
                    self.close()
            raise BudgetExceeded(self._advice(str(error))) from None
        finally:
            self._holder = None
            self._lock.release()

    def _connect(self) -> Connection:
        if self._connection is not None and self._inode == _inode(self.file):
            return self._connection
        self.close()  # the file was moved away: what others count in the new one must be seen
        if self.file is not None:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = _opened(self.file)
        self._inode = _inode(self.file)
        return self._connection

    def _prune(self, books: Connection, day: str) -> None:
        """Forget days before yesterday: calls under way at midnight are settled on the day they began."""
        if self._pruned == day:
            return
        yesterday = str(datetime.date.fromisoformat(day) - datetime.timedelta(days=1))
        for table in ("spent", "reserved", "callers"):
            books.execute(f"DELETE FROM {table} WHERE day < ?", (yesterday,))
        self._pruned = day

    def _advice(self, reason: str) -> str:
        return (
            f"today's spending cannot be read or written, so nothing is spent: {reason} ({self.file or 'in memory'}). "
            f"Make that file writable, or set {VARIABLE} to a folder on a local disk; a damaged file may be moved "
            "away, which forgets what was spent today"
        )


def _opened(file: Path | None) -> Connection:
    """A connection to the file, made with its tables if need be. Raises `sqlite3.Error`, `OSError`."""
    import sqlite3

    connection = sqlite3.connect(file or ":memory:", timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"it was made by another version of dynflow (format {version})")
        if version == 0:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                for statement in _TABLES:
                    connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _inode(file: Path | None) -> int:
    if file is None:
        return 0
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return 0


def _switch_to_wal(connection: Connection) -> None:
    """SQLite does not wait by itself while another process makes the same switch."""
    import sqlite3

    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
            time.sleep(0.01)


def _taken(books: Connection, key: str, day: str) -> int:
    (held,) = books.execute("SELECT SUM(nano) FROM reserved WHERE key = ? AND day = ?", (key, day)).fetchone()
    return _spent(books, key, day) + (held or 0)


def _spent(books: Connection, key: str, day: str) -> int:
    row = books.execute("SELECT nano FROM spent WHERE key = ? AND day = ?", (key, day)).fetchone()
    nano: int = row[0] if row else 0
    return nano


def _spend(books: Connection, key: str, day: str, nano: int) -> None:
    total = min(_spent(books, key, day) + nano, MOST)
    books.execute("REPLACE INTO spent VALUES (?, ?, ?)", (key, day, total))


def _settle(books: Connection, reservation: int, nano: int) -> None:
    row = books.execute("SELECT key, day FROM reserved WHERE id = ?", (reservation,)).fetchone()
    if row is not None:
        key, day = row
        books.execute("DELETE FROM reserved WHERE id = ?", (reservation,))
        _spend(books, key, day, nano)


def _visits(books: Connection, key: str, day: str, caller: str) -> tuple[int, int]:
    where = "WHERE key = ? AND day = ? AND caller = ?"
    row = books.execute(f"SELECT requests, baseline FROM callers {where}", (key, day, caller)).fetchone()
    return row or (0, 0)


# A connection must not be carried across a fork: both sides would believe that they hold the file's locks.

_stores: WeakSet[BudgetStore] = WeakSet()
_held: list[BudgetStore] = []


def _before_fork() -> None:
    for store in list(_stores):
        if store._holder != threading.get_ident():  # else a finaliser forks, of all things
            store._lock.acquire()
            _held.append(store)
            if store.file is not None:
                store.close()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
