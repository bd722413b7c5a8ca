"""The rows of a batch's input file: checked before anything runs, indexed on disk, read one at a time."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from dynflow.errors import BatchFileError
from dynflow.hashes import content_hash
from dynflow.language.source import did_you_mean

_MOST_FAULTS = 10
_BOM = b"\xef\xbb\xbf"
_KEY_LENGTH = 32
State = Literal["waiting", "done", "failed"]
"""How far a row is: it has no result, an answer, or an error."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a batch."""

    line: int
    id: str | int
    input: Any
    key: str
    """What its result is addressed by: the hash of the graph, its params and the input."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the row that were asked for, as far as it has them; `key` covers them too."""


class Rows:
    """An input file of JSON lines `{"id", "input"}`, and how far each of its rows is.

    The index is a temporary database of sqlite, so that memory does not grow with the file. Raises `BatchFileError`
    with the first faults of the file, each with its line.
    """

    def __init__(
        self,
        path: Path,
        work: str,
        *,
        also: Collection[str] = (),
        together: str = "",
        check: Callable[[Row], str | None] = lambda row: None,
    ) -> None:
        """`work` is the hash of what is done to each input; `also` names further keys that the result depends on. Rows
        that have the same under the one named `together` are drawn as one.

        `check` says what else is wrong with a row, in words.
        """
        self.path = path
        self._work = work
        self._also = also
        self._together = together
        self._check = check
        self._order = "line"
        self._file = _open(path)
        self._index = sqlite3.connect("", isolation_level=None)  # a file without a name, gone when it is closed
        self._index.execute("PRAGMA journal_mode = OFF")
        self._index.execute("PRAGMA cache_size = -16384")
        self._index.execute(
            "CREATE TABLE rows (line INTEGER PRIMARY KEY, start INTEGER NOT NULL, id TEXT NOT NULL UNIQUE,"
            " key TEXT NOT NULL, shared TEXT, lot BLOB, state TEXT NOT NULL DEFAULT 'waiting',"
            " changed INTEGER NOT NULL DEFAULT 0)"
        )
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file and the index."""
        self._file.close()
        self._index.close()

    @property
    def count(self) -> int:
        """How many rows there are."""
        return int(self._index.execute("SELECT count(*) FROM rows").fetchone()[0])

    def draw(self, sample: int | None, seed: int) -> None:
        """Put the rows in an order that chance and `seed` decide, and keep the first so many (None: all).

        Rows that are drawn `together` stay so, which may make the sample a few rows larger.
        The sample of a size is part of that of any larger one, and what is finished of it at any time is one too.
        """

        def lot(name: str) -> bytes:
            return hashlib.sha256(f"{seed} {name}".encode()).digest()

        self._index.create_function("lot", 1, lot, deterministic=True)
        self._index.execute("UPDATE rows SET lot = lot(coalesce(shared, id))")
        if sample is not None:
            first = "SELECT lot FROM rows ORDER BY lot, line LIMIT ?"
            self._index.execute(f"DELETE FROM rows WHERE lot NOT IN ({first})", (sample,))
        self._order = "lot, line"

    def changed(self) -> tuple[int, str]:
        """How many rows have a result, not to be redone, made of something else; and the first one's id, as JSON."""
        found = self._index.execute(
            "SELECT count(*), id, min(line) FROM rows WHERE changed AND state <> 'waiting'"
        ).fetchone()
        return found[0], str(found[1])

    def state(self, id: Any) -> State | None:
        """The state of a row; None where the file has no row of that id."""
        found = self._index.execute("SELECT state FROM rows WHERE id = ?", (json.dumps(id),)).fetchone()
        return found[0] if found else None

    def mark(self, id: Any, key: str, state: State) -> bool:
        """Note that a row has a result, addressed by `key`. False where it has one already, or there is no such row."""
        marked = self._index.execute(
            "UPDATE rows SET state = ?, changed = (key <> ?) WHERE id = ? AND state = 'waiting'",
            (state, key, json.dumps(id)),
        )
        return marked.rowcount == 1

    def redo(self, *, failed: bool, changed: bool) -> int:
        """Let rows wait again: those that failed, those whose result was made of something else. How many."""
        redone = self._index.execute(
            "UPDATE rows SET state = 'waiting' WHERE (? AND state = 'failed') OR (? AND changed)", (failed, changed)
        )
        return redone.rowcount

    def waiting(self) -> Iterator[Row]:
        """The rows that have no result yet, in the file's order, or as they were drawn.

        Raises `BatchFileError` where the file has changed.
        """
        for line, start, key in self._index.execute(
            f"SELECT line, start, key FROM rows WHERE state = 'waiting' ORDER BY {self._order}"
        ):
            self._file.seek(start)
            row = self._row(line, self._file.readline())
            if isinstance(row, str) or row.key != key:
                raise BatchFileError(f"{self.path}:{line}: the file was changed while the batch ran: start it again")
            yield row

    def _read(self) -> None:
        faults: list[str] = []
        self._index.execute("BEGIN")
        start = 0
        for line, data in enumerate(self._file, 1):
            if data.strip():
                row = self._row(line, data)
                fault = row if isinstance(row, str) else self._check(row) or self._add(row, start)
                if fault is not None:
                    faults.append(f"{self.path}:{line}: {fault}")
                if len(faults) == _MOST_FAULTS:
                    break
            start += len(data)
        self._index.execute("COMMIT")
        if faults:
            raise BatchFileError("\n".join([*faults, 'nothing was run; each line is one row, {"id": …, "input": …}']))

    def _add(self, row: Row, start: int) -> str | None:
        """Put a row into the index; what is wrong with it, in words."""
        id, shared = json.dumps(row.id), row.more.get(self._together)
        try:
            self._index.execute(
                "INSERT INTO rows (line, start, id, key, shared) VALUES (?, ?, ?, ?, ?)",
                (row.line, start, id, row.key, None if shared is None else f"{self._together} {shared}"),
            )
        except sqlite3.IntegrityError:
            earlier = self._index.execute("SELECT line FROM rows WHERE id = ?", (id,)).fetchone()[0]
            return f"the id {id} stands in line {earlier} already: give each row its own"
        return None

    def _row(self, line: int, data: bytes) -> Row | str:
        """The row of a line, or what is wrong with it, in words."""
        try:
            read = json.loads(data.removeprefix(_BOM) if line == 1 else data)
        except UnicodeDecodeError as error:
            return f"no UTF-8 text: {error.reason} at byte {error.start}"
        except json.JSONDecodeError as error:
            return f"no JSON: {error.msg} at column {error.colno}"
        except (ValueError, RecursionError) as error:
            return f"no JSON that can be read: {error}"
        if not isinstance(read, Mapping):
            return f"a row is an object, not {_kind(read)}"
        for name in ("id", "input"):
            if name not in read:
                return f"the row has no {name!r} (it has {', '.join(map(repr, read)) or 'nothing'})"
        id, input = read["id"], read["input"]
        if isinstance(id, bool) or not isinstance(id, str | int):
            return f"an id is a text or a whole number, not {_kind(id)}"
        if not isinstance(input, str | list | dict):
            return f"an input is a text, a list of messages, or an object, not {_kind(input)}"
        more = {name: read[name] for name in self._also if name in read}
        done_to = [self._work, input, more] if self._also else [self._work, input]
        return Row(line, id, input, content_hash(done_to)[:_KEY_LENGTH], more)


def _open(path: Path) -> BinaryIO:
    if not path.is_file() and path.exists():
        raise BatchFileError(f"{path} is no file: the rows are read twice, so a pipe or a folder will not do")
    try:
        return path.open("rb")
    except FileNotFoundError:
        siblings = [item.name for item in path.parent.glob("*.json*")] if path.parent.is_dir() else []
        raise BatchFileError(f"there is no file {path}{did_you_mean(path.name, siblings)}") from None
    except OSError as error:
        raise BatchFileError(f"{path} cannot be read: {error.strerror}") from None


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    return {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )
