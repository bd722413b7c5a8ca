"""Recorded trajectories: what an anytime computation had at each checkpoint, so that stop rules are tried afterwards.

A tunable node is an anytime computation: the tiers of a cascade, the layers of an encoder, the steps of a sampler. One
whole run of it tells what every threshold of its stop rule would have given. Losses, costs, bounds and promises are
those of routing: `Trajectories.under` gives the `Sample` that promises are tested on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dynflow.calibration.bounds import Array
from dynflow.calibration.promises import Sample

FORMAT = 1


@dataclass(frozen=True)
class Trajectories:
    """Checkpoints [n, k] of n inputs, in the order in which they are passed; the last one always stops.

    `score` is what the stop rule reads: the run ends at the first checkpoint whose score reaches the threshold.
    Stopping by convergence is a prefix of one run and fits; a run that was planned with other steps from the start does
    not, and is recorded as one of its own.
    """

    cost: Array
    """So far, in any unit: USD, layers, steps, seconds. It never falls."""
    score: Array
    quality: Array
    """Of the output that the checkpoint has, 0 to 1."""

    def __post_init__(self) -> None:
        """Raises `ValueError` where the arrays do not fit, or a cost falls."""
        if not (self.cost.shape == self.score.shape == self.quality.shape and self.cost.ndim == 2 and self.cost.size):
            raise ValueError("cost, score and quality take one number for each input and checkpoint: [n, k]")
        if (np.diff(self.cost, axis=1) < 0).any():
            raise ValueError("a cost so far cannot fall from one checkpoint to the next")
        if not ((self.quality >= 0) & (self.quality <= 1)).all():
            raise ValueError("a quality is a number from 0 to 1")

    def stops(self, thresholds: ArrayLike) -> Any:
        """The checkpoint [t, n] at which each input stops under each threshold [t]."""
        reached = self.score[None, :, :] >= np.asarray(thresholds, dtype=np.float64)[:, None, None]
        reached[:, :, -1] = True
        return reached.argmax(-1)

    def under(self, thresholds: ArrayLike, cap: float | None = None) -> Sample:
        """What each threshold [t] makes of each input; the reference is the whole run, and what `called` tells.

        `cap` is what a run can cost at most; default: the dearest of the recorded ones, which is exact where every
        whole run costs the same.
        """
        stops = self.stops(thresholds)
        rows = np.arange(len(self.cost))[None, :]
        quality = self.quality[rows, stops]
        return Sample(
            quality,
            self.cost[rows, stops],
            stops == self.cost.shape[1] - 1,
            self.quality[:, -1],
            float(self.cost.max()) if cap is None else cap,
            bool(np.isin(self.quality, (0.0, 1.0)).all()),
        )

    def thresholds(self, most: int = 200) -> Array:
        """Thresholds worth trying, from never stopping early to stopping at once: quantiles of the recorded scores."""
        scores = np.unique(self.score[:, :-1])
        if len(scores) > most - 1:
            scores = np.unique(np.quantile(scores, np.linspace(0, 1, most - 1)))
        return np.concatenate([[math.inf], scores[::-1]])

    def as_rows(self, ids: Sequence[str]) -> Iterable[str]:
        """The record as lines of JSON, one for each input."""
        for id, cost, score, quality in zip(ids, self.cost, self.score, self.quality, strict=True):
            points = [
                {"cost": float(c), "score": float(s), "quality": float(q)}
                for c, s, q in zip(cost, score, quality, strict=True)
            ]
            yield json.dumps({"format": FORMAT, "id": id, "trajectory": points}, allow_nan=False)

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Trajectories:
        """Trajectories of parsed lines. Raises `ValueError` where one is of another length, or none."""
        runs = [row["trajectory"] for row in rows]
        if len({len(run) for run in runs}) != 1:
            raise ValueError("trajectories need the same number of checkpoints each, at least one")
        cost, score, quality = (
            np.array([[point[name] for point in run] for run in runs], dtype=np.float64)
            for name in ("cost", "score", "quality")
        )
        return cls(cost, score, quality)
