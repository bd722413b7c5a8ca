"""Rows that an artefact of the graph was trained on: it has seen their outcomes, so they prove nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dynflow.calibration.outcomes import OutcomeFile
from dynflow.errors import CalibrationError, InputError
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.flow import Flow

FEWEST_ROWS = 30
"""Fewer rows than this say nothing worth telling."""


def without_training_rows(flow: Flow, file: OutcomeFile) -> tuple[OutcomeFile, int]:
    """The rows that no node's artefact was trained on, and how many others there were; conversations go whole.

    Raises `CalibrationError` (`contaminated`) where too few remain.
    """
    nodes = [flow.resources.cold_node(name) for name in flow.checked.nodes]
    seen_by: dict[str, int] = {}
    known: set[int] = set()
    for row, draw in zip(file.rows, file.draws, strict=True):
        try:
            request = Request(row.input, declared=flow.checked.spec.inputs)
        except InputError:
            continue  # said where the graph takes the rows, with its line
        seen = [node.id for node in nodes if node.trained_on(request)]
        for name in seen:
            seen_by[name] = seen_by.get(name, 0) + 1
        if seen:
            known.add(draw)
    kept = [row for row, draw in zip(file.rows, file.draws, strict=True) if draw not in known]
    dropped = len(file.rows) - len(kept)
    if dropped and len(kept) < FEWEST_ROWS:
        names = ", ".join(f"{name!r} on {count:,}" for name, count in seen_by.items())
        raise CalibrationError(
            f"{dropped:,} of {len(file.rows):,} rows of {file.path} were trained on ({names}), and {len(kept)} are too "
            f"few: give rows that training never saw, or train again without these",
            "contaminated",
        )
    return replace(file, rows=kept), dropped
