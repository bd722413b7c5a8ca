"""How far the steps that images need lie apart: between prompts, and between seeds of one prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration.plots import Axis, Plot, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHOWN = 150
"""Prompts in the plot, at most."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the doublings of steps: of the prompts' own part, and of what the seed makes of them."""

    prompts: float
    seeds: float | None
    """None where no prompt has two seeds."""

    @property
    def share(self) -> float | None:
        """The share of the variance that a prompt can tell at most, 0…1."""
        if self.seeds is None:
            return None
        whole = self.prompts**2 + self.seeds**2
        return self.prompts**2 / whole if whole else None


def spread(needed: NDArray[Any], owner: NDArray[np.intp]) -> Spread:
    """Of steps `needed` [n] by images of prompts `owner` [n]: the parts of a one-way analysis of variance."""
    doublings = np.log2(needed)
    images = np.bincount(owner)
    means = np.bincount(owner, doublings) / images
    left = len(owner) - len(images)
    if left < 1 or len(images) < 2:
        return Spread(float(doublings.std(ddof=1)) if len(owner) > 1 else 0.0, None)
    seeds = float(np.square(doublings - means[owner]).sum() / left)
    between = float((images * np.square(means - doublings.mean())).sum() / (len(images) - 1))
    typical = (len(owner) - np.square(images).sum() / len(owner)) / (len(images) - 1)
    return Spread(math.sqrt(max(0.0, (between - seeds) / typical)), math.sqrt(seeds))


def draw_spread(needed: NDArray[Any], owner: NDArray[np.intp]) -> str:
    """The prompts in order of what they need, each a line over its seeds, as a self-contained SVG."""
    means = np.bincount(owner, needed) / np.bincount(owner)
    low, high = (np.zeros(len(means)) for _ in range(2))
    low[:] = np.inf
    np.minimum.at(low, owner, needed)
    np.maximum.at(high, owner, needed)
    order = np.lexsort((high, means))
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).astype(int))]
    plot = Plot(
        "spread",
        "Steps that images need, by prompt and seed",
        "Each prompt is a line from the seed that needs the fewest steps to the one that needs most; a point is its "
        "mean. Prompts stand in order: how far they rise is what a predictor can tell.",
        Axis(0, 1, "share of prompts that need fewer", lambda share: f"{100 * share:.0f} %"),
        Axis(0, float(needed.max()) * 1.05, "steps needed", plain),
    )
    for place, prompt in enumerate(shown):
        x = (place + 0.5) / len(shown)
        plot.line([(x, float(low[prompt])), (x, float(high[prompt]))], "seeds")
        plot.line([(x - 0.4 / len(shown), float(means[prompt])), (x + 0.4 / len(shown), float(means[prompt]))], "mean")
    style = ".seeds{stroke:#9ec5fe;stroke-width:2;fill:none}.mean{stroke:#d1242f;stroke-width:3;fill:none}"
    legend = (
        '<text x="90" y="30" style="fill:#1f6feb">from the least to the most of its seeds</text>'
        '<text x="90" y="48" style="fill:#d1242f">mean of a prompt</text>'
    )
    return plot.file(style, legend)
