"""Places in a graph's text, and the problems found there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
_SHOWN_WIDTH = 160
_TEXT_LENGTH = 600
_MOST_CHOICES = 200
_FEW = 16  # choices that are all told; the built-in node types are among them
_MOST_PROBLEMS = 1_000
_LONGEST_WORD = 64
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What the YAML reader counts as a line break."""
_QUOTED = {
    "'": re.compile(r"''|."),
    '"': re.compile(r"\\(?:x..|u.{4}|U.{8}|.)|."),
}
"""One character of a quoted scalar as it is written."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value or key stands: line and column count from 1, `length` in characters."""

    line: int = 1
    column: int = 1
    length: int = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a graph: a stable code, a place, what is wrong and how to mend it."""

    code: str
    text: str
    file: str = "<string>"
    place: Place = Place()
    source_line: str = field(default="", repr=False)
    severity: Severity = "error"

    def render(self) -> str:
        """`file:line:col: error[code]: text`, then the source line and a caret."""
        place = self.place
        head = f"{self.file}:{place.line}:{place.column}: {self.severity}[{self.code}]: {self.text}"
        if not self.source_line.strip():
            return head
        # A long line is shown from a little before the fault; a tab counts as one column and is shown as one blank,
        # as is anything that a terminal might obey.
        begin = max(0, place.column - 1 - _SHOWN_WIDTH // 2) if len(self.source_line) > _SHOWN_WIDTH else 0
        shown = "".join(mark if mark.isprintable() else " " for mark in self.source_line[begin : begin + _SHOWN_WIDTH])
        offset = place.column - 1 - begin
        carets = "^" * max(1, min(place.length, len(shown) - offset))
        return f"{head}\n    {shown}\n    {' ' * offset}{carets}"

    def as_dict(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "file": self.file,
            "line": self.place.line,
            "column": self.place.column,
            "length": self.place.length,
            "severity": self.severity,
            "code": self.code,
            "text": self.text,
        }

    def as_github(self) -> str:
        """The same as a GitHub annotation."""
        text = self.text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        properties = {
            "file": self.file,
            "line": self.place.line,
            "col": self.place.column,
            "endColumn": self.place.column + self.place.length,
            "title": f"dynflow {self.code}",
        }
        joined = ",".join(
            f"{key}={str(value).replace(',', '%2C').replace(':', '%3A')}" for key, value in properties.items()
        )
        return f"::{self.severity} {joined}::{text}"


_SECRET = re.compile(
    r"((?:api_?key|secret|password|auth_?token)\w*['\"]?\s*:\s*['\"]?)(?!\$\{)([^\s,}'\"#]+)", re.IGNORECASE
)

_IN_ADDRESS = re.compile(r"(://|[?&][^\s=&]{1,64}=)([^\s/?&'\"]{1,512}@|(?<==)[^\s&'\"]+)")
"""Credentials of an address, and values of its query."""


def _masked(line: str) -> str:
    """The line with what looks like a secret starred out, at its own length: excerpts go into logs."""
    if "://" in line:
        line = _IN_ADDRESS.sub(_starred, line)
    if not any(word in line.lower() for word in ("key", "secret", "password", "token")):
        return line  # nearly all lines, and the long ones of hostile files
    return _SECRET.sub(_starred, line)


def _starred(found: re.Match[str]) -> str:
    return found[1] + "*" * len(found[2])


class Source:
    """A graph's text with the places of its values and keys; collects problems."""

    def __init__(self, text: str, file: str = "<string>") -> None:
        self.text = text
        self.file = file
        self.lines: Sequence[str] = _LINE_BREAK.split(text)
        self.values: dict[tuple[str | int, ...], Place] = {}
        self.keys: dict[tuple[str | int, ...], Place] = {}
        self.problems: list[Problem] = []
        self.secrets: list[str] = []
        """Keys that were found in the text: no excerpt shows them from then on."""
        self._excerpts: dict[int, str] = {}
        self._count: dict[Severity, int] = {"error": 0, "warning": 0}
        self.dropped: set[tuple[str | int, ...]] = set()
        """Paths left out because they were faulty: what names them is no fault of its own."""

    def place_of(self, path: Sequence[str | int], *, key: bool = False) -> Place:
        """The place of a value (or of its key), or of the nearest parent that stands in the text."""
        whole = tuple(path)
        if key and whole in self.keys:
            return self.keys[whole]
        for end in range(len(whole), -1, -1):
            if whole[:end] in self.values:
                # A whole mapping or list is a poor target for a caret: its key says more.
                place = self.values[whole[:end]]
                return self.keys.get(whole[:end], place) if end < len(whole) else place
        return Place()

    def problem(self, code: str, text: str, place: Place, severity: Severity = "error") -> Problem:
        """A problem of this text, not yet reported."""
        if len(text) > _TEXT_LENGTH:  # a huge name in it: the words around it say what and how to mend it
            text = f"{text[: _TEXT_LENGTH // 2]} … {text[-_TEXT_LENGTH // 2 :]}"
        if place.line > len(self.lines):  # the parser looks beyond a last line without its end
            place = Place(len(self.lines), len(self.lines[-1]) + 1)
        return Problem(code, text, self.file, place, self._excerpt(place.line), severity)

    def report(
        self,
        code: str,
        text: str,
        path: Sequence[str | int] = (),
        *,
        key: bool = False,
        offset: int | None = None,
        length: int = 1,
        severity: Severity = "error",
    ) -> None:
        """Add a problem at a path; `offset` and `length` point inside the scalar there."""
        place = self.place_of(path, key=key)
        if offset is not None:
            place = self._inside(place, offset, length)
        self.report_at(code, text, place, severity)

    def report_at(self, code: str, text: str, place: Place, severity: Severity = "error") -> None:
        """Add a problem at a place; after a thousand nobody reads on."""
        self._count[severity] += 1
        if self._count[severity] <= _MOST_PROBLEMS:
            self.problems.append(self.problem(code, text, place, severity))

    @property
    def is_full(self) -> bool:
        """Whether further errors are only counted, so that nobody need look for good words."""
        return self._count["error"] >= _MOST_PROBLEMS

    def errors(self) -> list[Problem]:
        """The problems that make the graph unusable, in the order of the text."""
        return [problem for problem in self.sorted() if problem.severity == "error"]

    def sorted(self) -> list[Problem]:
        """All problems in the order of the text, each once."""
        return sorted(dict.fromkeys(self.problems), key=lambda problem: (problem.place.line, problem.place.column))

    def _excerpt(self, number: int) -> str:
        """The line as errors show it; a long one is masked once, however many faults it has."""
        if number not in self._excerpts:
            self._excerpts[number] = _masked(self._line(number))
        shown = self._excerpts[number]
        for secret in self.secrets:
            shown = shown.replace(secret, "*" * len(secret))
        return shown

    def _line(self, number: int) -> str:
        return self.lines[number - 1] if number <= len(self.lines) else ""

    def _inside(self, place: Place, offset: int, length: int) -> Place:
        """The place of `length` characters at `offset` of the scalar that stands at `place`."""
        for line, column, written in self._written(place):
            if offset <= len(written):
                before = sum(map(len, written[:offset]))
                marked = sum(map(len, written[offset : offset + length]))
                return Place(line, column + before, max(1, marked))
            offset -= len(written) + 1  # a folded line break counts as one blank
        return place

    def _written(self, place: Place) -> Iterator[tuple[int, int, list[str]]]:
        """Line, column and characters as written (`''` is one) of each line of a scalar."""
        text = self._line(place.line)[place.column - 1 :]
        quote = text[:1] if text[:1] in _QUOTED else ""
        one = _QUOTED.get(quote)
        if text[:1] not in ("|", ">"):
            body = text[len(quote) :]
            yield place.line, place.column + len(quote), one.findall(body) if one else list(body)
        for number in range(place.line + 1, len(self.lines) + 1):
            line = self._line(number)
            body = line.strip()
            yield number, line.index(body) + 1, one.findall(body) if one else list(body)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known word, or the choices where none is near and they are few."""
    choices = list(known)
    if len(choices) > _MOST_CHOICES or len(word) > _LONGEST_WORD:
        return ""  # the search takes time in proportion to both
    choices = sorted(set(choices))
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (expected one of: {', '.join(choices)})" if 0 < len(choices) <= _FEW else ""
