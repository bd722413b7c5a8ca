"""What a node type tells of itself, so that calibration can keep a promise with it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dynflow.errors import CalibrationError

if TYPE_CHECKING:
    from dynflow.calibration.contracts import Tries
    from dynflow.calibration.signals import Progress
    from dynflow.calibration.trajectories import Runs
    from dynflow.request import Request

Rule = TypeVar("Rule")


@dataclass(frozen=True, slots=True)
class StopRule:
    """How a param of the graph decides where a node's computation may stop, so that calibration can set it."""

    param: str
    falling: bool
    """Whether it stops where its score is at most the param, else where it is at least that."""
    most: float
    """The highest value of the param that makes sense; the lowest is 0."""
    unit: str
    """What `runs` counts costs in, such as layers."""
    outputs: tuple[str, ...]
    """What it may say."""
    runs: Callable[[Sequence[str], Progress, bool], Runs]
    """`runs(texts, progress, timed)`: whole runs on what the node reads; `timed`: costs are milliseconds here and now.
    """
    fault: Callable[[str], str | None]
    """Why it cannot read a text, in words; None: it can."""
    text: Callable[[Request], str] | None
    """What it reads of a request; None: what another node gives."""


@dataclass(frozen=True, slots=True)
class ContractRule:
    """A promise that a node's option states, and how the node comes to keep it, so that calibration can see to that."""

    statement: str
    """What holds of one output, in words."""
    share: float
    """Of the outputs that it is promised for, 0…1."""
    unit: str
    """What `runs` counts costs in, such as steps."""
    runs: Callable[[Sequence[str], Path, int, Progress], Tries]
    """`runs(texts, file, outputs, progress)`: all settings on so many outputs for each text, in their order; the file
    keeps what was run."""
    keep: Callable[[Any, Mapping[str, Any]], None]
    """`keep(setting, rests_on)`: from now on the node has this setting."""
    trained_on: Callable[[str], bool]
    """Whether its artefact was made from this text."""


def the_one(found: Mapping[str, Rule], of: str | None, what: str, several: str, missing: str) -> tuple[str, Rule]:
    """The node that is meant, with its rule: `of`, or the only one there is.

    Raises `CalibrationError` (`no_knob`) in words of its own: `what` such a node does, what `several` do, and what is
    said where it is `missing`.
    """
    if of is None and len(found) == 1:
        return next(iter(found.items()))
    if of is not None and of in found:
        return of, found[of]
    if not found:
        raise CalibrationError(missing, "no_knob")
    told = ", ".join(map(repr, found))
    near = difflib.get_close_matches(of or "", found, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    raise CalibrationError(
        f"several nodes {several}: say with `of` which of {told} is meant"
        if of is None
        else f"{of!r} is no node that {what}{meant}: there is {told}",
        "no_knob",
    )
