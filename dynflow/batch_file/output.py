"""A batch's output file: one JSON line for each finished row, and the only truth about what is finished."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from dynflow.errors import BatchFileError

_BEGINNING = b'{"id": '
"""How each line begins that a batch wrote."""
_KEYS = frozenset({"id", "key", "path", "degraded", "usd", "saved_usd", "error"})
"""What is read of a line when a batch is taken up again."""
_BLOCK = 1 << 16
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)


def is_result(row: Mapping[str, Any]) -> bool:
    """Whether a line's object is a row that a batch wrote, rather than somebody else's."""
    return row.keys() >= _KEYS and (row["error"] is None or (isinstance(row["error"], dict) and "kind" in row["error"]))


class OutputFile:
    """An output file, held by one process at a time.

    A row goes out as one append of one line: a process that is killed leaves it whole, absent, or (the last line)
    half; a half line is cut off when the file is opened again. What a killed process wrote is safe with the kernel; a
    machine that loses its power may lose what was written since the last `sync`.
    """

    def __init__(self, path: Path, is_row: Callable[[Mapping[str, Any]], bool] = is_result) -> None:
        """Open or make the file; `is_row` tells whether a line's object is one of its rows.

        Raises `BatchFileError` where that cannot be, or another process holds it.
        """
        self.path = path
        self._is_row = is_row
        self._descriptor = _open_alone(path)
        self._syncing = threading.Lock()
        self._anew = path.with_name(f".{path.name}.redo")
        """Where `remove` writes; only who holds the file does, so what is there now is of a process that was killed."""
        with suppress(OSError):
            self._anew.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; not while a thread still syncs it, for that would keep it locked."""
        with self._syncing:
            os.close(self._descriptor)

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Every finished row. Raises `BatchFileError` at a whole line that is none."""
        for _, row in self._lines():
            yield row

    def mend(self) -> None:
        """Cut off the half line of a process that was killed. Raises `BatchFileError` where a batch wrote no such line.

        Read `rows` first: nothing must be cut off a file that is no batch's.
        """
        size = os.fstat(self._descriptor).st_size
        end = size
        with self.path.open("rb") as file:
            tail = b""
            while end > 0 and b"\n" not in tail:
                start = max(0, end - _BLOCK)
                file.seek(start)
                tail = file.read(end - start)
                end = start
            whole = end + tail.rfind(b"\n") + 1
            file.seek(whole)
            half = file.read(len(_BEGINNING))
        lost_power = not half.strip(b"\0")
        if whole < size and not lost_power and not _BEGINNING.startswith(half):
            raise BatchFileError(f"{self.path}: its last line is no row that a batch wrote: give another --output")
        os.ftruncate(self._descriptor, whole)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, whole or not at all. Raises `OSError`."""
        line = _line(row)
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
            while written < len(line):  # a disk that is full takes a part, then tells
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> None:
        """Have the disk keep what was written; in whatever thread, while the file is open."""
        with self._syncing:
            os.fsync(self._descriptor)

    def remove(self, unwanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Take rows out: the file is written anew beside the old one, and put in its place whole."""
        anew = os.open(self._anew, _FLAGS | os.O_EXCL, 0o600)
        try:
            with os.fdopen(anew, "wb") as file:
                file.writelines(line for line, row in self._lines() if not unwanted(row))
                file.flush()
                os.fsync(file.fileno())
            self._anew.chmod(os.fstat(self._descriptor).st_mode & 0o777)
            old = self._descriptor
            if sys.platform == "win32":
                os.close(old)  # an open file cannot be replaced there
            self._anew.replace(self.path)
        except BaseException:
            self._anew.unlink()
            raise
        self._descriptor = _open_alone(self.path)
        if sys.platform != "win32":
            os.close(old)  # last: who asks for the old file's lock must find that it is gone

    def _lines(self) -> Iterator[tuple[bytes, Mapping[str, Any]]]:
        """Each whole line with the row that it holds."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield line, self._row(number, line)

    def _row(self, number: int, line: bytes) -> Mapping[str, Any]:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not (isinstance(row, dict) and self._is_row(row)):
            raise BatchFileError(
                f"{self.path}:{number}: no row that a batch wrote: give another --output, or remove the line"
            )
        return row


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=str)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # half of a surrogate pair: UTF-8 has none, JSON can escape it
        return f"{json.dumps(row, allow_nan=False, default=str)}\n".encode()


def _open_alone(path: Path) -> int:
    """A descriptor of the file that no other batch has. Raises `BatchFileError`."""
    while True:
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError as error:
            raise BatchFileError(f"{path} cannot be written: {error.strerror}") from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BatchFileError(f"{path} is no file: what is finished is read from it again; give another --output")
        try:
            _lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass  # another process has put a new file in its place
        except BlockingIOError:
            os.close(descriptor)
            raise BatchFileError(
                f"{path} is being written by another batch: wait for it, or give another --output"
            ) from None
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        """Take a byte far behind the end, so that others can still read the file. Raises `BlockingIOError`."""
        try:
            os.lseek(descriptor, 1 << 62, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        """Take the file; the kernel lets go of it when the process ends, however it ends. Raises `BlockingIOError`."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
