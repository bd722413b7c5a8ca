"""Whether probabilities mean what they say: predicted against observed quality, in bins of equally many requests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynflow.calibration.columns import Floats
from dynflow.calibration.curves import Interval
from dynflow.calibration.measurements import Predicted

_BINS = 10
_Z = 1.959964
"""Of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Requests of about the same predicted quality."""

    n: int
    predicted: float
    observed: Interval
    """Mean quality with Wilson's 95 % interval, exact enough for 0 and 1, too wide for what lies between."""


@dataclass(frozen=True)
class Reliability:
    """How true one prediction is."""

    signal: str
    of: str
    n: int
    bins: Sequence[Bin]
    error: float
    """Expected calibration error: mean distance of predicted from observed quality, over the bins."""
    brier: float
    """Mean squared distance of single predictions from the outcome."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        bins = [{"n": each.n, "predicted": each.predicted, "observed": each.observed.as_dict()} for each in self.bins]
        return {"of": self.of, "n": self.n, "error": self.error, "brier": self.brier, "bins": bins}


def reliability(predicted: Predicted) -> Reliability:
    """The diagram's points; requests of equal prediction stay in one bin."""
    probability, quality = predicted.probability, predicted.quality
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, _BINS + 1), method="inverted_cdf"))
    place = np.searchsorted(edges[1:-1], probability, side="right") if len(edges) > 2 else np.zeros(len(quality), int)
    bins = []
    for number in np.unique(place):
        inside = place == number
        observed = _wilson(quality[inside])
        bins.append(Bin(int(inside.sum()), float(probability[inside].mean()), observed))
    error = sum(each.n * abs(each.predicted - each.observed.value) for each in bins) / len(quality)
    brier = float(np.square(probability - quality).mean())
    return Reliability(predicted.signal, predicted.of, len(quality), tuple(bins), error, brier)


def _wilson(quality: Floats) -> Interval:
    """A mean of values 0…1 with the score interval of a rate (Wilson 1927)."""
    n, mean = len(quality), float(quality.mean())
    middle = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return Interval(mean, min(mean, max(0.0, middle - half)), max(mean, min(1.0, middle + half)))
