"""Graders as they are named on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynflow.errors import GradingError
from dynflow.grading.comparing import Exact, Number, Pattern
from dynflow.grading.grader import Grader
from dynflow.language.source import did_you_mean

if TYPE_CHECKING:
    from dynflow.flow import Flow

FORMS = ("exact", "number", "regex:PATTERN", "schema:FILE", "judge:MODEL")
"""What `read_grader` reads."""


def read_grader(text: str, flow: Flow, *, judge_prompt: str | None = None) -> Grader:
    """The grader that a text names, one of `FORMS`. Raises `GradingError`."""
    kind, _, argument = text.partition(":")
    kinds = {form.partition(":")[0]: form for form in FORMS}
    if kind not in kinds:
        raise GradingError(f"there is no grader {kind!r}{did_you_mean(kind, kinds)}")
    if bool(argument) != (":" in kinds[kind]):
        raise GradingError(f"write this grader as {kinds[kind]}, not {text}")
    if judge_prompt is not None and kind != "judge":
        raise GradingError(f"a judge's prompt goes with judge:MODEL, not with {text}")
    match kind:
        case "exact":
            return Exact()
        case "number":
            return Number()
        case "regex":
            return Pattern(argument)
        case "schema":
            from dynflow.grading.schema import Schema

            return Schema.read(Path(argument))
        case _:
            from dynflow.grading.judge import Judge

            return Judge(flow, argument, judge_prompt)
