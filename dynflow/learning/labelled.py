"""Labelled texts from a file or a hub: what text classifiers learn from."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynflow.errors import InputError, MissingDependency

TEXT_COLUMNS = ("text", "sentence", "content", "review", "comment", "message", "prompt", "input")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "sentiment", "intent")
"""Names that are looked for, in this order, where none is given."""
_SHOWN = 20
_HUB_SPLIT = "train"
_HEADER = ". The first line of the file must hold the names of its columns"


@dataclass(frozen=True)
class Labelled:
    """One row: a text, and its class as the data writes it; and where it was read, for messages."""

    text: str
    label: str
    source: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Columns:
    """The columns to read; None where they are to be found by their names."""

    text: str | None = None
    label: str | None = None

    def found(self, names: Sequence[str], source: str, hint: str = "") -> tuple[str, str]:
        """The two columns. Raises InputError, naming those there are, if one is missing or none is told apart; `hint`
        says more of how to mend that."""
        return (
            _column(names, self.text, TEXT_COLUMNS, "text", source, hint),
            _column(names, self.label, LABEL_COLUMNS, "label", source, hint),
        )


@dataclass(frozen=True)
class TextAlone(Columns):
    """The column of texts whose labels nobody asks for: each row's label is its text."""

    def found(self, names: Sequence[str], source: str, hint: str = "") -> tuple[str, str]:
        text = _column(names, self.text, TEXT_COLUMNS, "text", source, hint)
        return text, text


def read_texts(source: str | Path, column: str | None = None) -> list[Labelled]:
    """The texts of what `read_labelled` reads, or of a `.txt` file, a text in each line; without labels.

    Raises as `read_labelled` does.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() == ".txt":
        with _opened(path) as lines:
            texts = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
        return _good(((number, text, text) for number, text in texts if text), str(source))
    return read_labelled(source, TextAlone(column))


def read_labelled(source: str | Path, columns: Columns = Columns()) -> list[Labelled]:
    """The rows of a `.tsv`, `.csv` or `.jsonl` file, or of `owner/name` on the Hugging Face hub (`@split` may follow).

    TSV and CSV begin with a line of column names; TSV knows no quotes, CSV is RFC 4180. A label is text, a whole number
    or true/false. Raises InputError that lists every bad row by its line, or says what can be read; MissingDependency
    if a hub's data set is asked for without `datasets`.
    """
    path = Path(source).expanduser()
    readers = {".tsv": _separated, ".csv": _separated, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if path.suffix.lower() in readers:
        rows = readers[path.suffix.lower()](path, columns)
    elif path.exists():
        raise InputError(f"{path} is none of {', '.join(readers)}: give its rows in one of these")
    elif len(str(source).split("/")) <= 2 and not path.is_absolute() and not str(source).startswith("."):
        rows = _hub(str(source), columns)
    else:
        raise InputError(f"there is no file {path}")
    return _good(rows, str(source))


def label_names(rows: Iterable[Labelled]) -> list[str]:
    """The classes, whole numbers by size and others by the alphabet."""
    names = {row.label for row in rows}
    return sorted(names, key=int) if all(name.lstrip("-").isdecimal() for name in names) else sorted(names)


Read = tuple[int, Any, Any] | tuple[int, str]
"""A row's line with its text and label, or with its fault."""


def _good(rows: Iterable[Read], source: str) -> list[Labelled]:
    good, faults = [], []
    for line, *read in rows:
        try:
            good.append(Labelled(*_labelled(*read), source, line))
        except ValueError as error:
            faults.append(f"  line {line}: {error}")
    if faults:
        more = [f"  … and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
        count = f"{len(faults):,} of {len(good) + len(faults):,}"
        raise InputError("\n".join([f"{source}: {count} rows cannot be learnt from:", *faults[:_SHOWN], *more]))
    if not good:
        raise InputError(f"{source} is empty: it has no rows")
    return good


def _labelled(*read: Any) -> tuple[str, str]:
    if len(read) == 1:
        raise ValueError(read[0])
    text, label = read
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"the text is {'empty' if text in (None, '') or isinstance(text, str) else repr(text)[:60]}")
    if isinstance(label, float) and math.isfinite(label) and label == int(label):
        label = int(label)
    if label is None or (isinstance(label, str) and not label.strip()):
        raise ValueError("the label is empty")
    if not isinstance(label, str | int):
        raise ValueError(f"the label is {repr(label)[:60]}, not a text or a whole number")
    return text, str(label).strip()


def _separated(path: Path, columns: Columns) -> Iterator[Read]:
    with _opened(path) as lines:
        tabs = path.suffix.lower() == ".tsv"
        form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
        reader = csv.reader(lines, **form)
        try:
            names = next(filter(None, reader), None)
        except csv.Error as error:
            raise InputError(f"the first line of {path} is no CSV ({error})") from error
        if names is None:
            return
        text, label = (names.index(column) for column in columns.found(names, str(path), _HEADER))
        line = reader.line_num + 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"is no CSV ({error})"
            else:
                if len(cells) == len(names):
                    yield line, cells[text], cells[label]
                elif cells:
                    yield line, f"has {len(cells)} columns, not {len(names)}"
            line = reader.line_num + 1


def _json_lines(path: Path, columns: Columns) -> Iterator[Read]:
    names: tuple[str, str] | None = None
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"is no JSON ({error})"
                continue
            if not isinstance(record, dict):
                yield number, "is not a JSON object"
                continue
            names = names or columns.found(list(record), str(path))
            missing = [name for name in names if name not in record]
            if missing:
                yield number, f"lacks {' and '.join(map(repr, missing))}"
            else:
                yield number, record[names[0]], record[names[1]]


def _hub(name: str, columns: Columns) -> Iterator[Read]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency("datasets", "pip install datasets") from error
    name, _, split = name.partition("@")
    try:
        data = datasets.load_dataset(name, split=split or _HUB_SPLIT)
    except Exception as error:  # the library's own, its network's and its parsers'
        raise InputError(f"there is no file {name}, and as a hub's data set it cannot be read: {error}") from error
    text, label = columns.found(data.column_names, name)
    names = getattr(data.features[label], "names", None)  # of a ClassLabel, whose rows hold indices; -1 is no class
    for number, row in enumerate(data, start=1):
        value = row[label]
        if names is not None:
            value = names[value] if value is not None and value >= 0 else None
        yield number, row[text], value


@contextmanager
def _opened(path: Path) -> Iterator[Iterable[str]]:
    """Lines with their ends, of any length. Raises InputError for what cannot be read as UTF-8."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with path.open("rb") as data:
            if b"\0" in data.read(4):  # half of the first letter, with a byte order mark or without one
                raise InputError(f"{path} cannot be read, as it is UTF-16: save it as UTF-8")
        with path.open(encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else "\n") as lines:
            yield lines
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read, as it is not UTF-8: save it as UTF-8 ({error})") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    finally:
        csv.field_size_limit(limit)


def _column(names: Sequence[str], given: str | None, known: Sequence[str], what: str, source: str, hint: str) -> str:
    if given is not None:
        if given not in names:
            raise InputError(f"{source} has no column {given!r}; it has {', '.join(map(repr, names)) or 'none'}{hint}")
        return given
    lower = {name.lower(): name for name in reversed(names)}
    for name in known:
        if name in lower:
            return lower[name]
    raise InputError(
        f"which column of {source} holds the {what}? Say so with --{what}-column; it has "
        f"{', '.join(map(repr, names)) or 'none'}{hint}"
    )
