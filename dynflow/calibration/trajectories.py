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
from numpy.typing import ArrayLike, NDArray

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
    reference: Array | None = None
    """[n]: quality of a run that no stop rule touched; None: that of the last checkpoint."""

    def __post_init__(self) -> None:
        """Raises `ValueError` where the arrays do not fit, a score is no number, or a cost falls."""
        if not (self.cost.shape == self.score.shape == self.quality.shape and self.cost.ndim == 2 and self.cost.size):
            raise ValueError("cost, score and quality take one number for each input and checkpoint: [n, k]")
        if np.isnan(self.score).any():
            raise ValueError("a score is a number: what is none would be no threshold's")
        if (np.diff(self.cost, axis=1) < 0).any():
            raise ValueError("a cost so far cannot fall from one checkpoint to the next")
        if not ((self.quality >= 0) & (self.quality <= 1)).all():
            raise ValueError("a quality is a number from 0 to 1")

    def stops(self, thresholds: ArrayLike) -> Any:
        """The checkpoint [t, n] at which each input stops under each threshold [t]."""
        limits = np.asarray(thresholds, dtype=np.float64)[:, None]
        surest = np.maximum.accumulate(self.score[:, :-1], axis=1)
        passed = np.zeros((len(limits), len(self.score)), dtype=np.int16)
        for score in surest.T:
            passed += score < limits
        return passed

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
            self.quality[:, -1] if self.reference is None else self.reference,
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


@dataclass(frozen=True)
class Runs:
    """Whole runs of a node that may stop early, on n inputs with k checkpoints each."""

    cost: Array
    """[n, k], `score` too: as in `Trajectories`."""
    score: Array
    output: NDArray[Any]
    """[n, k]: what it would say, had it stopped there."""
    whole: NDArray[Any]
    """[n]: what it says if it may not stop early."""
    ports: Mapping[str, Array]
    """Numbers [n, k] that it would give, by port."""
    cap: float
    """What a run can cost at most."""

    def against(self, truth: Sequence[Any] | NDArray[Any]) -> Trajectories:
        """Trajectories whose quality is 1 where the output is the truth [n]."""
        right = np.asarray(truth, dtype=object)
        quality = (self.output == right[:, None]).astype(np.float64)
        return Trajectories(self.cost, self.score, quality, (self.whole == right).astype(np.float64))
