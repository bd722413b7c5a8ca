"""Decision records in a file of JSON lines: written as requests end, read back for `dynflow replay`.

A record is what `FlowResult.metadata()` gives, and `record` (the format's version), `input_digest`, and, only where
the file takes content, `content`: the `request` and the `answer`. Without content no text of a request, an answer, or
a provider's error is written. `input_digest` tells equal requests, and nothing else without the key: a short request
could be guessed from a plain hash, so it is an HMAC-SHA256 under a random key that stays in this installation's state
folder.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
from langchain_core.prompt_values import PromptValue

from dynflow.answers import plain_answer
from dynflow.hashes import content_hash
from dynflow.ledger import Ledger
from dynflow.state import state_folder
from dynflow.trace import METADATA_KEY, Trace, record_of

FORMAT = 1
"""Version of the records; a reader refuses those of a later one."""
_KEY_BYTES = 32
_logger = logging.getLogger("dynflow")


class TraceFile:
    """Takes the record of each request: one line each, appended whole, whoever else writes to the file.

    A line goes out by a single write to a file opened for appending, so records of threads and processes never mix,
    and each is there as soon as its request has ended. A new file is its owner's alone (mode 0600); one that was moved
    away is made anew. A record that cannot be written is `lost`; that is logged once, and the request goes on.
    """

    def __init__(self, path: str | os.PathLike[str], *, content: bool = False) -> None:
        """`content` adds each request and its answer. Nothing is opened yet."""
        self.path = Path(path)
        self.content = content
        self.lost = 0
        """Records that could not be written."""

    def check(self) -> None:
        """Make the file if it is not there. Raises `OSError` where records could not be written to it."""
        os.close(self._open())

    def add(self, trace: Trace, ledger: Ledger, request: Any, answer: Any = None) -> None:
        """Write one record. Never raises."""
        try:
            line = self._line(trace, ledger, request, answer)
            self._write(line.encode("utf-8", "backslashreplace"))
        except Exception as error:  # a request must not fail because of its record
            with _lock:
                self.lost += 1
                first = self.lost == 1
            if first:
                _logger.warning("a trace record could not be written to %s: %s", self.path, _reason(error))

    def _line(self, trace: Trace, ledger: Ledger, request: Any, answer: Any) -> str:
        record = {
            "record": FORMAT,
            **record_of(trace, ledger, content=self.content),
            "input_digest": input_digest(request),
        }
        if self.content:
            record["content"] = {"request": _told(request), "answer": _told(answer)}
        return json.dumps(record, ensure_ascii=False, separators=(",", ":"), default=str) + "\n"

    def _write(self, line: bytes) -> None:
        file = self._open()
        try:
            written = os.write(file, line)
            if written < len(line):  # the disk is full: close the broken line, so that the next one stands alone
                with suppress(OSError):
                    os.write(file, b"\n")
                raise OSError(f"only {written:,} of {len(line):,} bytes could be written")
        finally:
            os.close(file)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)

    def __repr__(self) -> str:
        return f"TraceFile({str(self.path)!r}{', content=True' if self.content else ''})"

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> TraceFile:
        return self


def read_trace(path: str | os.PathLike[str]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """The records of a file, each with its line; a line that is none as words on what is wrong with it.

    Raises `OSError` where the file cannot be read.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _parsed(line)


def _parsed(line: bytes) -> Mapping[str, Any] | str:
    try:
        record = json.loads(line)
    except ValueError:
        return "it is no JSON: the line was cut short, or another program wrote it"
    version = record.get("record") if isinstance(record, dict) else None
    if not isinstance(version, int):
        return "it is no decision record"
    if version > FORMAT:
        return f"a later dynflow wrote it (record format {version}): install a newer one"
    return record  # type: ignore[no-any-return]


def input_digest(request: Any) -> str | None:
    """What tells equal requests in traces of this installation; None where its key can be neither read nor made."""
    key = _installation_key()
    return None if key is None else hmac.new(key, content_hash(request).encode(), hashlib.sha256).hexdigest()


_keys: dict[Path, bytes] = {}
_lock = threading.Lock()


def _installation_key() -> bytes | None:
    try:
        path = state_folder() / "trace.key"
        with _lock:
            if path not in _keys:
                _keys[path] = _read_key(path)
            return _keys[path]
    except (OSError, RuntimeError):
        return None


def _read_key(path: Path) -> bytes:
    """The key, made where there is none; of processes that make one at once the first wins."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, secrets.token_bytes(_KEY_BYTES))
        os.close(file)
        with suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    return path.read_bytes()


def _told(value: Any) -> Any:
    """A request or an answer as plain values."""
    if isinstance(value, PromptValue):
        return _told(value.to_messages())
    if isinstance(value, BaseMessage):
        metadata = {key: item for key, item in value.response_metadata.items() if key != METADATA_KEY}
        return message_to_dict(value.model_copy(update={"response_metadata": metadata}))
    if isinstance(value, Mapping):
        return {str(key): _told(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(item) for item in value]
    return plain_answer(value)


def request_of(told: Any) -> Any:
    """A request as it was sent, made of a record's content."""
    if isinstance(told, dict):
        if told.keys() == {"type", "data"}:
            return messages_from_dict([told])[0]
        return {key: request_of(item) for key, item in told.items()}
    return [request_of(item) for item in told] if isinstance(told, list) else told


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"


def trace_file(given: TraceFile | str | os.PathLike[str] | None) -> TraceFile | None:
    """What `load(…, trace=…)` takes, as a `TraceFile`. Raises `TypeError`."""
    if given is None or isinstance(given, TraceFile):
        return given
    if isinstance(given, (str, os.PathLike)):
        return TraceFile(given)
    raise TypeError(f"trace takes a file name or a TraceFile, not {type(given).__name__}")
