"""What may be promised of a graph on new requests, as hypotheses on the mean of bounded variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from dynflow.calibration.bounds import (
    Array,
    betting_lower,
    betting_p_value,
    binomial_p_value,
    clopper_pearson_lower,
    rejected,
    rows_needed,
)
from dynflow.calibration.columns import Flags
from dynflow.money import precise_dollars

AT_MOST = frozenset({"usd", "share", "gap", "disagreement", "budget"})
"""Kinds of promises whose bound is an upper one."""
Kind = Literal["quality_of", "quality", "usd", "share", "gap", "disagreement", "budget"]


@dataclass(frozen=True)
class Promise:
    """A promise on the mean over new requests, to be broken by at most 1 - confidence of all calibrations.

    `quality_of`: mean quality is at least `target` times that of the node `of`; `quality`: at least `target`; `usd`: a
    request costs at most `target` on average; `share`: at most `target` of the requests call the node `of`. The mean
    is over all requests to come or, with `turns`, over the first so many requests of all conversations to come: a
    conversation weighs as much as it has of these.

    Of a node `of` that may stop early: `gap`: of the answers at most `target` more are wrong than of whole runs;
    `disagreement`: at most `target` of the answers are others than those of whole runs; `budget`: a request costs
    `target` on average, in `unit`, give or take the part `within`.

    Raises `ValueError` for another kind, and for numbers that promise nothing.
    """

    kind: Kind
    target: float
    of: str
    confidence: float
    turns: int | None = None
    within: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"there is no promise {self.kind!r}: give one of {', '.join(get_args(Kind))}")
        most = math.inf if self.kind in ("usd", "budget") else 1
        if not 0 < self.target < most:
            raise ValueError(f"the target of {self.kind!r} is a number from 0 to {most}, both excluded: {self.target}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"the confidence is a number from 0 to 1, both excluded: {self.confidence}")
        if self.kind == "budget" and not 0 < self.within < 1:
            raise ValueError(f"a budget is met within a part of it, from 0 to 1, both excluded: {self.within}")
        if self.turns is not None and self.turns < 1:
            raise ValueError(f"of a conversation at least one request counts: {self.turns}")

    @property
    def begins_strong(self) -> bool:
        """Whether the setting that keeps it most surely is always the strong path, else always the weak one."""
        return self.kind in ("quality_of", "quality", "gap", "disagreement")

    def statement(self) -> str:
        """What the user is told."""
        timed = self.unit == "milliseconds"
        doubt = f"unless this calibration was among the unlucky {100 * (1 - self.confidence):.3g} %"
        what = {
            "quality_of": f"mean quality is at least {100 * self.target:.4g} % of {self.of}'s",
            "quality": f"mean quality is at least {self.target:.4g}",
            "usd": f"mean cost is at most {precise_dollars(self.target)} per request",
            "share": f"at most {100 * self.target:.4g} % call {self.of}",
            "gap": f"at most {100 * self.target:.4g} % more of {self.of}'s answers are wrong than if it never stopped "
            "early",
            "disagreement": f"at most {100 * self.target:.4g} % of {self.of}'s answers are others than if it never "
            "stopped early",
            "budget": f"{self.of} takes {self.target:.4g} {self.unit} on average, give or take "
            f"{100 * self.within:.3g} %{', as measured here, on this machine and load' if timed else ''}",
        }[self.kind]
        if self.turns is None:
            drawn = "new requests"
        else:
            counted = "request" if self.turns == 1 else f"{self.turns:,} requests"
            drawn = f"the first {counted} of new conversations"
        return f"on {drawn} drawn like these, {what}, {doubt}"


@dataclass(frozen=True)
class Sample:
    """What settings [t] did on rows [n]: as `Walked` has it, with the reference's own quality and the cost cap."""

    quality: Array
    usd: Array
    called: Flags
    reference: Array
    """[n]"""
    cap: float = math.inf
    """USD that one request can cost at most."""
    binary: bool = False
    """Whether every quality in the whole file is 0 or 1, so that its mean is a rate."""
    draws: Sequence[int] | None = None
    """[n]: the conversation of each row, numbered from 0 as they come up; None: rows are independent."""


@dataclass(frozen=True)
class Tested:
    """A variable of 0…1 for each setting and independent draw, whose mean must be above `limit` (0…1)."""

    values: Array
    limit: float
    low: float
    high: float
    """What 0 and 1 stand for in the promise's own unit."""
    binary: bool
    turns: float = 1.0
    """Requests that one draw may have at most, over those that it has on average."""

    def by_conversation(self, draws: Sequence[int], most: int) -> Tested:
        """The same with conversations of up to `most` requests as draws; `draws` [n] says which each row is of.

        The mean over requests, E[Σ v] / E[length], is above the limit where E[Σ (v - limit)] is above 0. So a
        conversation's value is the mean over `most` requests, of which those that it lacks are just at the limit: a
        variable of 0…1 again, however the requests of one conversation hang together and whatever its length does.
        Raises `ValueError` where one has more: what it is above or below the limit by would have no bound.
        """
        of = np.asarray(draws)
        if (longest := int(np.bincount(of).max())) > most:
            raise ValueError(f"a conversation has {longest:,} requests, and {most:,} of each are promised of")
        count = int(of.max()) + 1
        excess = np.zeros((count, len(self.values)))
        np.add.at(excess, of, (self.values - self.limit).T)
        values = np.clip(self.limit + excess.T / most, 0.0, 1.0)
        return replace(self, values=values, binary=self.binary and most == 1, turns=most * count / len(of))

    def mean(self, setting: int) -> float:
        """The mean over the requests of these draws, in the promise's own unit."""
        excess = float(self.values[setting].mean()) - self.limit
        return self.low + (self.limit + self.turns * excess) * (self.high - self.low)

    def kept(self, confidence: float) -> Flags:
        """Settings [t] that are shown, each alone, to keep the promise with this confidence."""
        if self.limit <= 0:  # no value is below it, which no gambler can win by
            return np.ones(self.values.shape[:-1], dtype=bool)
        means = self.values.mean(-1)
        if self.binary:
            p_values = binomial_p_value(1 - self.values, 1 - self.limit)
        else:
            p_values = betting_p_value(self.values, self.limit, confidence)
        # A gambler may have won before the rows turned: what they themselves deny is not promised.
        flags: Flags = rejected(p_values, confidence) & (means >= self.limit)
        return flags

    def bound(self, setting: int, confidence: float) -> float:
        """The confidence bound of the mean of a setting that keeps the promise, in the promise's own unit."""
        row = self.values[setting]
        bound = clopper_pearson_lower(row, confidence) if self.binary else betting_lower(row, confidence)
        # Betting bounds are looked for in steps, the limit itself was tested. Of conversations the bound is that of a
        # mean with requests at the limit among them, which is no better than that without.
        return self.low + max(bound, self.limit) * (self.high - self.low)

    def rows_needed(self, setting: int, confidence: float) -> int | None:
        """About how many draws would show that a setting keeps the promise; None: it does not seem to."""
        return 0 if self.limit <= 0 else rows_needed(self.values[setting], self.limit, confidence)

    @property
    def method(self) -> str:
        """The bound, by name."""
        return "Clopper-Pearson" if self.binary else "betting (Waudby-Smith & Ramdas)"


def variables(promise: Promise, sample: Sample) -> Tested:
    """The variables whose means decide whether a promise is kept."""
    tested = _by_row(promise, sample)
    if promise.turns is None or sample.draws is None:
        return tested
    return tested.by_conversation(sample.draws, promise.turns)


def _by_row(promise: Promise, sample: Sample) -> Tested:
    target = promise.target
    match promise.kind:
        case "quality_of":  # the paired loss: E[q - r q_ref] >= 0
            values = (sample.quality - target * sample.reference + target) / (1 + target)
            return Tested(values, target / (1 + target), -target, 1.0, False)
        case "quality":
            return Tested(sample.quality, target, 0.0, 1.0, sample.binary)
        case "usd":
            values = 1 - np.minimum(sample.usd, sample.cap) / sample.cap
            return Tested(values, 1 - target / sample.cap, sample.cap, 0.0, False)
        case "share":
            return Tested((~sample.called).astype(np.float64), 1 - target, 1.0, 0.0, True)
        case "gap":  # the same with a difference in the place of a ratio
            return Tested((sample.quality - sample.reference + 1) / 2, (1 - target) / 2, 1.0, -1.0, False)
        case "disagreement":  # quality is agreement here
            return Tested(sample.quality, 1 - target, 1.0, 0.0, sample.binary)
        case "budget":
            return sides(promise, sample)[0]


def sides(promise: Promise, sample: Sample) -> tuple[Tested, Tested]:
    """The variables that decide whether a budget is kept: that the mean cost is not too high, and not too low.

    A promise that both hold with some confidence shares its doubt between them.
    """
    part = np.minimum(sample.usd, sample.cap) / sample.cap
    high, low = promise.target * (1 + promise.within), promise.target * (1 - promise.within)
    return (
        Tested(1 - part, 1 - min(high / sample.cap, 1.0), sample.cap, 0.0, False),
        Tested(part, low / sample.cap, 0.0, sample.cap, False),
    )


def last_kept(kept: Flags | Sequence[bool]) -> int:
    """Fixed-sequence testing: the last setting before the first that fails, or -1.

    Hypotheses are tested in an order that does not depend on these rows, each at the whole level; all before the first
    that is not rejected may be rejected together (Angelopoulos et al. 2021, "Learn then Test", §2.2 and Proposition 5,
    after Bauer 1991).
    """
    flags = np.asarray(kept, dtype=bool)
    return int(len(flags) if flags.all() else np.argmin(flags)) - 1
