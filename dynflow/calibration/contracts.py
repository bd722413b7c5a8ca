"""Keep a promise that a node's own option states, such as an image's likeness: from recorded runs of prompts alone.

The settings that a node has for it lie on a grid, from the strictest to the loosest. One way through the grid is chosen
on some of the rows, and the settings along it are tested on the others in a fixed sequence.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.bounds import Array
from dynflow.calibration.contamination import FEWEST_ROWS
from dynflow.calibration.evaluate import TUNING_SHARE
from dynflow.calibration.promises import Tested, last_kept
from dynflow.calibration.rules import the_one
from dynflow.calibration.signals import Progress
from dynflow.errors import CalibrationError

if TYPE_CHECKING:
    from dynflow.calibration.rules import ContractRule
    from dynflow.flow import Flow

FEWEST_TUNING = 20
_WINDOW = (0.3, 1.2)
"""Losses that a way through the grid is made for, as parts of the one that is promised."""


@dataclass(frozen=True)
class Tries:
    """What each setting of a grid [a, b] did for n independent requests, each with one output or several."""

    settings: Sequence[Sequence[Any]]
    """[a, b]: the strictest first, along both sides; the first of all is the whole run, which breaks no promise."""
    kept: Array
    """[a, b, n]: the share of a request's outputs that keep it, 0…1."""
    cost: Array
    """[a, b, n]"""
    single: bool
    """Whether each request has one output, so that it is kept or not."""

    def of(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Tries:
        """Some of the requests."""
        return Tries(self.settings, self.kept[..., rows], self.cost[..., rows], self.single)


@dataclass(frozen=True)
class Chosen:
    """The setting that was chosen, and what it rests on."""

    setting: Any
    n: int
    tuning_rows: int
    bound: float
    """The confidence bound of the share of outputs that keep the promise."""
    kept: float
    """That share on the rows that it was tested on."""
    cost: float
    whole: float
    """Mean cost of whole runs."""
    method: str


@dataclass(frozen=True)
class Kept:
    """A promise that is kept now."""

    node: str
    statement: str
    unit: str
    chosen: Chosen
    trained_on: int
    """Rows that were left out because the node's artefact was trained on them."""
    confidence: float
    rests_on: dict[str, Any]
    """What the node keeps beside the setting."""


def calibrate_contract(
    flow: Flow,
    texts: Sequence[str],
    runs: Path,
    *,
    of: str | None = None,
    outputs: int = 2,
    confidence: float = 0.9,
    progress: Progress = lambda done, total, what: None,
    dry: bool = False,
) -> Kept:
    """Let a node keep the promise that its option states, at the least cost, and tell it so, unless `dry`.

    `texts` are prompts drawn like those to come, with those that come twice; each is an independent draw, of `outputs`
    outputs. `runs` is the file of recorded runs: what it lacks is run and appended. `of` is the node where several
    promise. Raises `CalibrationError`: `no_knob`, `contaminated`, `too_little_data`, `broken_promise`.
    """
    node, rule = contract_rule(flow, of)
    fresh = [text for text in texts if not rule.trained_on(text)]
    if len(fresh) < len(texts) and len(fresh) < FEWEST_ROWS:
        raise CalibrationError(
            f"{len(texts) - len(fresh):,} of {len(texts):,} prompts were trained on ({node!r}), and {len(fresh)} are "
            "too few: give prompts that training never saw",
            "contaminated",
        )
    tries = rule.runs(fresh, runs, outputs, progress)
    chosen = choose(tries, rule.share, confidence)
    statement = (
        f"for new prompts drawn like these, {rule.statement} for at least {100 * rule.share:.4g} % of images, unless "
        f"this calibration was among the unlucky {100 * (1 - confidence):.3g} %"
    )
    rests_on = {
        "confidence": confidence,
        "n": chosen.n,
        "outputs": outputs,
        "bound": round(chosen.bound, 6),
        rule.unit: round(chosen.cost, 4),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not dry:
        rule.keep(chosen.setting, rests_on)
    return Kept(node, statement, rule.unit, chosen, len(texts) - len(fresh), confidence, rests_on)


def contract_rule(flow: Flow, of: str | None) -> tuple[str, ContractRule]:
    """The node that states a promise, and how it is kept. Raises `CalibrationError` (`no_knob`)."""
    found = {
        name: rule
        for name in flow.checked.nodes
        if (rule := flow.resources.cold_node(name).contract_rule()) is not None
    }
    return the_one(
        found,
        of,
        "states a promise",
        "promise",
        "no node states what it promises: give an adaptive_diffusion `quality: {metric: ssim, to: 50 steps, "
        "at_least: 0.9, for: 0.95}`",
    )


def choose(tries: Tries, share: float, confidence: float, seed: int = 0) -> Chosen:
    """The cheapest setting shown to keep the promise for this `share` of outputs with this confidence.

    Of a request only the share of its outputs that keep it counts, so however they hang together, the requests are
    independent variables of 0…1. Raises `CalibrationError`: `too_little_data`, `broken_promise`.
    """
    n = tries.kept.shape[-1]
    order = np.random.default_rng(seed).permutation(n)
    apart = math.ceil(TUNING_SHARE * n)
    if apart < FEWEST_TUNING:
        fewest = math.ceil(FEWEST_TUNING / TUNING_SHARE)
        raise CalibrationError(f"{n:,} prompts are too few: give {fewest:,} or more", "too_little_data")
    tuning, tested_on = tries.of(order[:apart]), tries.of(order[apart:])
    ways = way(tuning, 1 - share)
    kept = np.stack([tested_on.kept[place] for place in ways])
    cost = np.stack([tested_on.cost[place] for place in ways]).mean(1)
    tested = Tested(kept, share, 0.0, 1.0, tries.single)
    last = last_kept(tested.kept(confidence))
    whole = float(tested_on.cost[0, 0].mean())
    best = int(np.argmin(cost[: last + 1])) if last >= 0 else 0
    if last < 0 or cost[best] >= whole:
        raise _refusal(tested, cost, whole, share, confidence)
    a, b = ways[best]
    bound = tested.bound(best, confidence)
    mean = float(kept[best].mean())
    method = tested.method
    return Chosen(tries.settings[a][b], n - apart, apart, bound, mean, float(cost[best]), whole, method)


def way(tries: Tries, loss: float) -> list[tuple[int, int]]:
    """From the strictest corner of the grid, one notch looser at a time, so that what is lost rises as what it costs
    falls: the way whose cost, averaged over the losses about `loss` that a test may stop it at, is least.

    A setting's neighbours on such a way are sure to be alike, where the front of all settings is of those that these
    rows were kind to.
    """
    low, high = (part * loss for part in _WINDOW)
    lost: list[list[float]] = np.clip(1 - tries.kept.mean(-1), low, high).tolist()
    cost: list[list[float]] = tries.cost.mean(-1).tolist()
    # From the loose end back: what is left of the way costs, over the losses that are left.
    rest: dict[tuple[int, int], float] = {}
    after: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b in itertools.product(reversed(range(len(cost))), reversed(range(len(cost[0])))):
        here, price = lost[a][b], cost[a][b]
        rest[a, b] = price * (high - here)  # were it the last
        for following in ((a + 1, b), (a, b + 1)):
            if following in rest:
                found = price * max(0.0, lost[following[0]][following[1]] - here) + rest[following]
                if found <= rest[a, b]:
                    rest[a, b] = found
                    after[a, b] = following
    found_way = [(0, 0)]
    while found_way[-1] in after:
        found_way.append(after[found_way[-1]])
    return found_way


def _refusal(tested: Tested, cost: Array, whole: float, share: float, confidence: float) -> CalibrationError:
    draws = tested.values.shape[1]
    cheaper = [place for place in range(len(cost)) if cost[place] < whole]
    needed = [rows for place in cheaper if (rows := tested.rows_needed(place, confidence)) is not None]
    if not needed:
        return CalibrationError(
            f"on {draws:,} prompts nothing but whole runs keeps this promise for {100 * share:.4g} % of images: "
            "promise less, or train the predictor on more",
            "broken_promise",
        )
    more = max(min(needed) - draws, math.ceil(0.1 * draws))
    return CalibrationError(
        f"{draws:,} prompts are too few for this promise at {100 * confidence:g} % confidence: it takes about "
        f"{math.ceil(more / (1 - TUNING_SHARE)):,} more to be sure of; give more, or promise less",
        "too_little_data",
    )
