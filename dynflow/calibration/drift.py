"""Whether new requests are still like those that a graph was calibrated on: told from their scores, without labels."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dynflow.calibration.saved import Calibration

if TYPE_CHECKING:
    from dynflow.calibration.columns import Floats

_POINTS = 51
_CHANCE = 0.01
"""How often requests that are drawn alike are told to have drifted, over all numbers together."""
_NEAR = 1e-5
"""Part of the greatest value that two may differ by and be the same: a batch and a single request need not give the
same to the last bit."""
FEWEST = 50
"""Fewer new requests than this say nothing."""


@dataclass(frozen=True)
class Drift:
    """How far a number's spread over new requests is from what it was."""

    port: str
    requests: int
    distance: float
    """The greatest difference of the shares of requests that have no more than some value (Kolmogorov-Smirnov)."""
    limit: float
    """What it stays below by chance, 99 times of 100."""

    @property
    def drifted(self) -> bool:
        """Whether chance does not explain it."""
        return self.distance > self.limit

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "drifted": self.drifted}

    def __str__(self) -> str:
        told = f"its spread is {self.distance:.3f} away, by chance at most {self.limit:.3f}"
        return (
            f"{self.port} of {self.requests:,} new requests is not like that of the requests calibrated on ({told}): "
            "what was promised may not hold for them; calibrate again, on requests like these"
        )


def spread(measured: Mapping[str, Floats], independent: float = 1.0) -> dict[str, Any]:
    """What a calibration file keeps of the numbers that decide, of which this share are drawn independently."""
    import numpy as np

    found: dict[str, Any] = {}
    for port, raw in sorted(measured.items()):
        values = np.array([_rounded(value) for value in raw.tolist()])
        if len(values):
            points = np.unique(np.quantile(values, np.linspace(0, 1, _POINTS), method="lower"))
            shares = [
                [float(point), float((values < point).mean()), float((values <= point).mean())] for point in points
            ]
            found[port] = {"n": max(1, round(independent * len(values))), "shares": shares}
    return found


def _rounded(value: float) -> float:
    """Six digits are enough to keep."""
    return float(f"{value:.6g}")


def drift(calibration: Calibration, records: Iterable[Mapping[str, Any]]) -> list[Drift]:
    """How each number that decides is spread over recorded requests (trace records), against the calibration's.

    Records of other graphs are passed over, and so are numbers that fewer than 50 of them have. The limit is the
    two-sample Kolmogorov-Smirnov test's (Smirnov 1948), its level shared among the numbers.
    """
    seen: dict[str, list[float]] = {port: [] for port in calibration.signals}
    for record in records:
        if record.get("graph_hash") != calibration.graph_hash:
            continue
        for port, value in _told(record):
            values = seen.get(port)
            if values is not None and isinstance(value, int | float):
                values.append(_rounded(value))
    return compared(calibration, seen)


def compared(calibration: Calibration, seen: Mapping[str, Sequence[float]]) -> list[Drift]:
    """The same of values by `node.port`."""
    told = {port: sorted(values) for port, values in seen.items() if len(values) >= FEWEST}
    # Of conversations new requests hang together too, and as many, if they are drawn alike.
    independent = 1.0 if calibration.requests is None else calibration.n / calibration.requests
    found = []
    for port, values in told.items():
        kept = calibration.signals[port]
        near = _NEAR * max(abs(point) for point, _, _ in kept["shares"])
        distance = max(
            max(
                bisect.bisect_left(values, point - near) / len(values) - less,
                at_most - bisect.bisect_right(values, point + near) / len(values),
                0.0,
            )
            for point, less, at_most in kept["shares"]
        )
        draws = independent * len(values)
        size = kept["n"] * draws / (kept["n"] + draws)
        found.append(Drift(port, len(values), distance, math.sqrt(-math.log(_CHANCE / len(told) / 2) / 2 / size)))
    return found


def drift_of(calibration: Calibration, measured: Mapping[str, Floats]) -> list[Drift]:
    """The same of what a replay measured."""
    seen = {port: [_rounded(value) for value in values] for port, values in measured.items()}
    return compared(calibration, {port: values for port, values in seen.items() if port in calibration.signals})


def _told(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What a record tells of each `node.port`, with those of sub-graphs."""
    for node in record.get("nodes", ()):
        yield from ((f"{prefix}{node['node']}.{name}", value) for name, value in node["values"].items())
    for name, inner in record.get("inner", {}).items():
        yield from _told(inner, f"{prefix}{name}/")
