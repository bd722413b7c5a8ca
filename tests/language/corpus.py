"""The corpus of broken graphs: each file says on top which problems it has (`# expect: code line:column`)."""

from __future__ import annotations

import re
from pathlib import Path

from dynflow.compile import check_text
from dynflow.language.source import Problem

FOLDER = Path(__file__).parent / "broken"
FILES = sorted(FOLDER.glob("*.yaml"))
_EXPECTED = re.compile(r"# (expect|warn): (\w+) (\d+):(\d+)")

Found = tuple[str, str, int, int]


def expected(file: Path) -> list[Found]:
    """Severity, code, line and column of each problem that the file's head announces."""
    text = file.read_bytes().decode("latin-1")
    kinds = {"expect": "error", "warn": "warning"}
    return [(kinds[kind], code, int(line), int(column)) for kind, code, line, column in _EXPECTED.findall(text)]


def problems(file: Path) -> list[Problem]:
    """What the check says of a file."""
    source, graph = check_text(file.read_bytes(), f"broken/{file.name}", path=file)
    assert (graph is None) == bool(source.errors())
    return source.sorted()
