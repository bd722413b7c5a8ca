"""Audits: does a node that stops early still agree with its whole runs? Told from production, where a share runs whole.

It may be looked at after every request: the bound holds however often, and however long, one looks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dynflow.calibration.saved import Calibration

PORT = "disagrees"
_CHANCE = 0.01
"""How often an alarm is ever raised although the rate is within the limit."""
_STAKES = tuple(10 ** (-3 + 3 * place / 30) for place in range(30))
"""Parts of the wealth that gamblers lose where there is no disagreement."""
_STEPS = 30


@dataclass(frozen=True)
class Audit:
    """What audits of recorded requests say of the share of answers that are others than those of whole runs."""

    node: str
    audited: int
    disagreements: int
    least: float
    """Lower confidence bound of the share, of 99 %."""
    limit: float
    promised: bool
    """Whether the limit was promised; else it is what the texts calibrated on allow for."""

    @property
    def broken(self) -> bool:
        """Whether the share is shown to be above the limit."""
        return self.least > self.limit

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "broken": self.broken}

    def __str__(self) -> str:
        if self.promised:
            told = f"at most {100 * self.limit:.3g} % was promised, which does not hold for requests like these"
        else:
            told = (
                f"labels differ more often than on the texts calibrated on ({100 * self.limit:.3g} % at most), so that "
                "the promise may not hold"
            )
        return (
            f"{self.node} disagrees with its whole runs on {self.disagreements:,} of {self.audited:,} audited "
            f"requests: on {100 * self.least:.3g} % of all or more; {told}: calibrate again, on requests like these"
        )


def audited(calibration: Calibration, records: Iterable[Mapping[str, Any]]) -> Audit | None:
    """What the audits in trace records say, in the order of the records; None where there are none.

    Records of other graphs, and those of other params than the calibrated ones, are passed over.
    """
    if calibration.audit is None:
        return None
    node, limit = calibration.audit["node"], float(calibration.audit["limit"])
    losses = [
        bool(visit["values"][PORT])
        for record in records
        if record.get("graph_hash") == calibration.graph_hash
        and all(record.get("params", {}).get(name) == value for name, value in calibration.params.items())
        for visit in record.get("nodes", ())
        if visit["node"] == node and visit["values"].get(PORT) is not None
    ]
    if not losses:
        return None
    promised = bool(calibration.audit.get("promised"))
    return Audit(node, len(losses), sum(losses), lower_sequence(losses), limit, promised)


def lower_sequence(losses: Iterable[bool], chance: float = _CHANCE) -> float:
    """The greatest lower bound of a rate that 0/1 losses have shown so far, in their order.

    That it is ever above the rate has a probability of `chance` at most, however many losses come: a confidence
    sequence by betting (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting",
    sections 3 and 4). Gamblers bet on losses with constant stakes; their mean wealth is a martingale at the true rate,
    and a rate is rejected once that wealth has reached 1 / chance (Ville's inequality).
    """
    told = list(losses)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if most_log_wealth(told, middle) >= -math.log(chance):
            low = middle
        else:
            high = middle
    return low


def most_log_wealth(losses: Iterable[bool], rate: float) -> float:
    """The highest logarithm that the gamblers' mean wealth against this rate has had."""
    grows = [math.log1p(stake * (1 - rate) / rate) for stake in _STAKES]
    falls = [math.log1p(-stake) for stake in _STAKES]
    best = 0.0
    for won, rows in enumerate((place for place, loss in enumerate(losses, 1) if loss), 1):  # it is highest after one
        wealth = [won * grow + (rows - won) * fall for grow, fall in zip(grows, falls, strict=True)]
        most = max(wealth)
        best = max(best, most + math.log(sum(math.exp(each - most) for each in wealth) / len(wealth)))
    return best
