"""What pictures of `diffusion.py` are worth: alignment, likeness, Fréchet distance; intervals are over captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from diffusion_arms import Pictures
from numpy.typing import NDArray

from dynflow.calibration.contracts import Tries, choose
from dynflow.errors import CalibrationError
from dynflow.nodes.adaptive_diffusion.recordings import Recording
from dynflow.nodes.adaptive_diffusion.shapes.captions import Caption
from dynflow.nodes.adaptive_diffusion.shapes.features import features_of
from dynflow.nodes.adaptive_diffusion.shapes.metrics import frechet, ssim
from dynflow.nodes.adaptive_diffusion.shapes.oracle import alignment

METRIC = "ssim"
_BATCH = 256
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Judged:
    """One arm, image by image: [n], and features [n, features]."""

    steps: Floats
    aligned: NDArray[np.bool_]
    alike: Floats
    """SSIM to the reference."""
    features: Floats
    seconds: float
    """Of one image, in the mean."""


def judge(drawn: Pictures, reference: Pictures, captions: Sequence[Caption]) -> Judged:
    """An arm's pictures against the reference's from the same noise."""
    images = drawn.images / np.float32(255)
    others = reference.images / np.float32(255)
    starts = range(0, len(images), _BATCH)
    alike = np.concatenate([ssim(images[at : at + _BATCH], others[at : at + _BATCH]) for at in starts])
    seconds = drawn.seconds / len(images)
    return Judged(drawn.taken.astype(float), alignment(images, captions), alike, features_of(images), seconds)


@dataclass(frozen=True)
class Resampling:
    """Captions drawn with replacement, the same for every arm: the images of a caption stay together."""

    places: Sequence[NDArray[np.intp]]
    """By draw: the images, and of how many captions there are as many fresh pictures."""

    @classmethod
    def of(cls, owner: NDArray[np.intp], draws: int, seed: int = 0) -> Resampling:
        """`owner` [n]: which caption each image is of."""
        rng = np.random.default_rng(seed)
        images = [np.flatnonzero(owner == caption) for caption in range(owner.max() + 1)]
        return cls(
            [
                np.concatenate([images[caption] for caption in rng.integers(len(images), size=len(images))])
                for _ in range(draws)
            ]
        )

    def of_mean(self, values: Floats) -> tuple[float, Floats]:
        """The mean of values [n], and of each draw."""
        return float(values.mean()), np.array([values[places].mean() for places in self.places])

    def of_frechet(self, features: Floats, fresh: Floats) -> tuple[float, Floats]:
        """The distance of features to those of as many fresh pictures, which are drawn anew too."""
        drawn = np.random.default_rng(1)
        found = []
        for places in self.places:
            others = drawn.integers(len(fresh), size=len(fresh))
            found.append(frechet(fresh[others], features[places]))
        return frechet(fresh, features), np.array(found)


def interval(point: float, draws: Floats, level: float = 0.95) -> tuple[float, float]:
    """Around the point, as wide as the draws are: a distance between drawn sets is larger than between whole ones."""
    low, high = np.quantile(draws - draws.mean(), [(1 - level) / 2, (1 + level) / 2])
    return float(point + low), float(point + high)


def upper(point: float, draws: Floats, level: float = 0.95) -> float:
    """The one-sided bound from above."""
    return float(point + np.quantile(draws - draws.mean(), level))


@dataclass(frozen=True)
class Setting:
    """Deciders as the calibration set them, mean steps and the share that kept the contract where they were tested."""

    quantile: float
    threshold: float | None
    steps: float
    kept: float


def calibrated(tries: Tries, share: float, confidence: float, alone: str | None = None) -> Setting | None:
    """The setting that `dynflow calibrate` chooses, of both deciders or of one `alone`; None: it refuses."""
    if alone == "predict":
        tries = replace(
            tries, settings=[each[:1] for each in tries.settings], kept=tries.kept[:, :1], cost=tries.cost[:, :1]
        )
    elif alone == "converge":
        tries = replace(tries, settings=tries.settings[:1], kept=tries.kept[:1], cost=tries.cost[:1])
    try:
        chosen = choose(tries, share, confidence)
    except CalibrationError:
        return None
    quantile, threshold = chosen.setting
    return Setting(quantile, threshold, chosen.cost, chosen.kept)


def promises(tries: Tries, share: float, confidence: float, draws: int) -> dict[str, float]:
    """How often a calibration breaks its promise, over sets drawn with replacement from the captions that were tried,
    which stand for all there are; and what it saves in the mean, of what the best setting for them all would."""
    rng = np.random.default_rng(2)
    captions = tries.kept.shape[-1]
    kept, cost = tries.kept.mean(-1), tries.cost.mean(-1)
    whole = float(cost[0, 0])
    best = float(cost[kept >= share].min())
    places = {setting: (a, b) for a, row in enumerate(tries.settings) for b, setting in enumerate(row)}
    broken, refused, saved = 0, 0, []
    for _ in range(draws):
        drawn: NDArray[np.integer[Any]] = np.asarray(rng.integers(captions, size=captions))
        setting = calibrated(tries.of(drawn), share, confidence)
        place = places[setting.quantile, setting.threshold] if setting else (0, 0)
        refused += setting is None
        broken += bool(kept[place] < share)
        saved.append(whole - float(cost[place]))
    return {
        "draws": draws,
        "captions": captions,
        "broken": broken / draws,
        "refused": refused / draws,
        "saving kept": float(np.mean(saved)) / (whole - best) if whole > best else 0.0,
    }


def oracle(recording: Recording, at_least: float, together: bool) -> tuple[Floats, Floats]:
    """Steps [n] of the cheapest recorded pair of plan and stop that meets the contract, and the SSIM [n] it gives.

    `together`: one pair for all images of a prompt. What no pair meets takes all steps.
    """
    owner, images = recording.owner, len(recording.owner)
    steps = np.full(images, float(recording.about.reference))
    alike = recording.runs[recording.about.reference].metrics[METRIC][:, -1].astype(float).copy()
    for run in recording.runs.values():
        values, calls = run.metrics[METRIC], run.calls(recording.about.finish)
        for stop in range(min(1, len(calls) - 1), len(calls)):
            met = values[:, stop] >= at_least
            if together:
                met = (np.bincount(owner, ~met) == 0)[owner]
            better = met & (calls[stop] < steps)
            steps[better], alike[better] = calls[stop], values[better, stop]
    return steps, alike


def paired(resampling: Resampling, one: Floats, other: Floats) -> tuple[float, float, float]:
    """The mean difference of values [n] of the same images, with its interval."""
    point, draws = resampling.of_mean(one - other)
    return (point, *interval(point, draws))


def summary(judged: Judged, resampling: Resampling, fresh: Floats, at_least: float) -> dict[str, Any]:
    """One line of the table, with 95 % intervals, and the draws of the distance."""
    found: dict[str, Any] = {"steps": float(judged.steps.mean()), "seconds": judged.seconds}
    found["ssim"] = float(judged.alike.mean())
    for name, values in (("aligned", judged.aligned), ("met", judged.alike >= at_least)):
        point, draws = resampling.of_mean(values.astype(float))
        found[name] = [point, *interval(point, draws)]
    point, draws = resampling.of_frechet(judged.features, fresh)
    found["frechet"] = [point, *interval(point, draws)]
    found["frechet draws"] = draws
    return found


def most_alike(arms: Mapping[str, Judged], names: Sequence[str], at_least: float) -> str:
    """Of these arms the one that meets the contract most often."""
    return max(names, key=lambda name: float((arms[name].alike >= at_least).mean()))
