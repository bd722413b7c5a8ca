"""Fills the table in docs/failures.md from the cells of the fault matrix.

`python -m tests.faults.page > failures.tmp && mv failures.tmp docs/failures.md` after any change of the cells.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults.cells import FAULTS, Edge, Expected, Fault, Style, expected

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"
_BEGIN, _END = "<!-- made by tests/faults/page.py -->", "<!-- end -->"
_COLUMNS: tuple[tuple[str, Style, Edge], ...] = (
    ("collected", "invoke", "none"),
    ("collected, with a fallback", "invoke", "fallback"),
    ("streamed", "stream", "none"),
    ("streamed, with a fallback", "stream", "fallback"),
)
_WORDS = {"answer": "answer", "fallback": "fallback", "interrupted": "**interrupted**"}


def table() -> str:
    """One row for each fault."""
    heads = ["upstream", *(title for title, _, _ in _COLUMNS), "attempts", "billed for each"]
    rows = [heads, ["---"] * len(heads), *map(_row, FAULTS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(fault: Fault) -> list[str]:
    found = [expected(fault, style, edge) for _, style, edge in _COLUMNS]
    collected, streamed = found[0], found[2]
    hits = f"{collected.hits}" if collected.hits == streamed.hits else f"{collected.hits}; streamed {streamed.hits}"
    return [fault.about, *map(_outcome, found), "none arrives" if collected.hits == 0 else hits, collected.bill]


def _outcome(found: Expected) -> str:
    return _WORDS.get(found.outcome, f"`{found.outcome}`")


def page() -> str:
    """The page's text, with the table made anew."""
    before, _, rest = PAGE.read_text("utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{after}"


if __name__ == "__main__":
    print(page(), end="")
