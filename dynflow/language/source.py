"""Places in a graph's text, and the problems found there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
_SHOWN_WIDTH = 160


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
        # A long line is shown from a little before the fault; a tab counts as one column and is shown as one blank.
        begin = max(0, place.column - 1 - _SHOWN_WIDTH // 2) if len(self.source_line) > _SHOWN_WIDTH else 0
        shown = self.source_line[begin : begin + _SHOWN_WIDTH].replace("\t", " ")
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
        joined = ",".join(f"{key}={str(value).replace(',', '%2C').replace(':', '%3A')}" for key, value in properties.items())
        return f"::{self.severity} {joined}::{text}"


class Source:
    """A graph's text with the places of its values and keys; collects problems."""

    def __init__(self, text: str, file: str = "<string>") -> None:
        self.text = text
        self.file = file
        self.lines: Sequence[str] = text.split("\n")
        self.values: dict[tuple[str | int, ...], Place] = {}
        self.keys: dict[tuple[str | int, ...], Place] = {}
        self.problems: list[Problem] = []

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
        line = self.lines[place.line - 1].rstrip("\r") if place.line <= len(self.lines) else ""
        return Problem(code, text, self.file, place, line, severity)

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
        """Add a problem at a path; `offset` and `length` point inside a one-line scalar there."""
        place = self.place_of(path, key=key)
        if offset is not None:
            place = self._inside(place, offset, length)
        self.report_at(code, text, place, severity)

    def report_at(self, code: str, text: str, place: Place, severity: Severity = "error") -> None:
        """Add a problem at a place."""
        self.problems.append(self.problem(code, text, place, severity))

    def errors(self) -> list[Problem]:
        """The problems that make the graph unusable, in the order of the text."""
        return [problem for problem in self.sorted() if problem.severity == "error"]

    def sorted(self) -> list[Problem]:
        """All problems in the order of the text, each once."""
        return sorted(dict.fromkeys(self.problems), key=lambda problem: (problem.place.line, problem.place.column))

    def _inside(self, place: Place, offset: int, length: int) -> Place:
        line = self.lines[place.line - 1] if place.line <= len(self.lines) else ""
        quoted = line[place.column - 1 : place.column] in ("'", '"')
        inside = place.column + offset + (1 if quoted else 0)
        if inside > len(line):  # a folded or literal block: the scalar's own place is the best there is
            return place
        return Place(place.line, inside, max(1, length))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest known word, or the choices where none is near and they are few."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (expected one of: {', '.join(choices)})" if 0 < len(choices) <= 12 else ""
