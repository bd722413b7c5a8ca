"""The arms of `diffusion.py`: how each draws, and their pictures on disk, so that a run that was broken off goes on."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from diffusers import DPMSolverMultistepScheduler
from numpy.typing import NDArray

from dynflow.nodes.adaptive_diffusion.deciders import Converge, Decision
from dynflow.nodes.adaptive_diffusion.drawing import Drawn, Order, draw
from dynflow.nodes.adaptive_diffusion.predictor import Predict, Predictor

Solver = Literal["Euler", "DPM-Solver++"]
REFERENCE = 50
"""Steps of the images that others are compared with, and the most that adaptive arms plan."""


@dataclass(frozen=True)
class Arm:
    """One way to draw: a static count of a solver, or deciders."""

    name: str
    solver: Solver = "Euler"
    steps: int = REFERENCE
    quantile: float | None = None
    """Of the predictor; None: it is not asked."""
    threshold: float | None = None
    """Of `converge`; None: it is not at work."""
    finish: int = 0
    """Longer steps in which what `converge` stops is finished; 0: in none."""
    shift: float | None = None
    """Of the schedule; None: the pipeline's own."""
    expected: float | None = None
    """Mean calls of the denoiser, where deciders set them; of progress only."""

    def decisions(self, prompt: str, predictor: Predictor | None) -> list[Decision]:
        """What the node's own deciders say, in the node's order."""
        found: list[Decision] = []
        planned = self.steps
        if self.quantile is not None and predictor is not None:
            found.append(Predict(predictor, self.quantile).decide(prompt, planned))
            planned = found[-1].planned
        if self.threshold is not None:
            found.append(Converge(self.threshold, finish=self.finish).decide(prompt, planned))
        return found or [Decision(planned)]

    @property
    def calls(self) -> float:
        """Of the denoiser for an image, about."""
        return self.steps if self.expected is None else self.expected


@dataclass(frozen=True)
class Pictures:
    """What an arm drew: pictures [n, height, width, 3] of 8 bits, steps taken and planned [n], seconds of all."""

    images: NDArray[np.uint8]
    taken: NDArray[np.int64]
    planned: NDArray[np.int64]
    seconds: float

    @classmethod
    def joined(cls, parts: Sequence[Pictures]) -> Pictures:
        """Several windows as one."""
        return cls(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.taken for part in parts]),
            np.concatenate([part.planned for part in parts]),
            sum(part.seconds for part in parts),
        )


@dataclass(frozen=True)
class Studio:
    """A pipeline, the images to draw (prompt, seed), and where they are kept.

    `window` images wait together: those of one planned count share batches of `batch`.
    """

    pipeline: Any
    predictor: Predictor | None
    images: Sequence[tuple[str, int]]
    folder: Path
    batch: int = 16
    window: int = 128

    def draw_all(self, arms: Sequence[Arm], progress: Callable[[int, int, str], object]) -> dict[str, Pictures]:
        """Every arm's pictures by its name: what is not on disk is drawn, window by window, the arms in turn."""
        total, done = self.calls(arms), 0.0
        label = f"drawing, {total:,} calls"
        found: dict[str, list[Pictures]] = {arm.name: [] for arm in arms}
        progress(0, total, label)
        for images, arm in self._parts(arms):
            done += 0 if self._path(arm, images).is_file() else len(images) * arm.calls
            found[arm.name].append(self._kept(arm, images))
            progress(min(total, round(done)), total, label)
        progress(total, total, label)
        return {name: Pictures.joined(parts) for name, parts in found.items()}

    def _parts(self, arms: Sequence[Arm]) -> Iterator[tuple[Sequence[tuple[str, int]], Arm]]:
        for start in range(0, len(self.images), self.window):
            for arm in arms:
                yield self.images[start : start + self.window], arm

    def calls(self, arms: Sequence[Arm]) -> int:
        """Of the denoiser, for what of these arms is not on disk yet; about."""
        missing = {self._path(arm, images): len(images) * arm.calls for images, arm in self._parts(arms)}
        return round(sum(calls for path, calls in missing.items() if not path.is_file()))

    def _path(self, arm: Arm, images: Sequence[tuple[str, int]]) -> Path:
        """Where the pictures are kept: arms that draw alike share them."""
        drawn_by = [arm.solver, arm.steps, arm.quantile, arm.threshold, arm.finish, arm.shift]
        told = json.dumps([*drawn_by, self.batch, images])
        return self.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.npz"

    def _kept(self, arm: Arm, images: Sequence[tuple[str, int]]) -> Pictures:
        path = self._path(arm, images)
        if path.is_file():
            with np.load(path) as kept:
                return Pictures(kept["images"], kept["taken"], kept["planned"], float(kept["seconds"]))
        drawn = self.draw(arm, images)
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, images=drawn.images, taken=drawn.taken, planned=drawn.planned, seconds=drawn.seconds)
        unfinished.replace(path)
        return drawn

    def draw(self, arm: Arm, images: Sequence[tuple[str, int]]) -> Pictures:
        """The pictures of one window, planning included in its seconds. Raises what `draw` reports of an image."""
        pipeline = scheduled(self.pipeline, arm)
        began = time.perf_counter()
        orders = []
        for prompt, seed in images:
            decisions = arm.decisions(prompt, self.predictor)
            orders.append(Order(prompt, seed, decisions[-1].planned, decisions=decisions))
        results: dict[int, Drawn] = {}
        for places in batches([order.planned for order in orders], self.batch):
            results |= zip(places, drawn(pipeline, [orders[place] for place in places]), strict=True)
        seconds = time.perf_counter() - began
        every = [results[place] for place in range(len(orders))]
        return Pictures(
            np.rint(255 * np.stack([each.image for each in every])).astype(np.uint8),
            np.array([each.steps for each in every]),
            np.array([order.planned for order in orders]),
            seconds,
        )

    def waiting(self, arm: Arm, images: Sequence[tuple[str, int]], rounds: int) -> Mapping[str, float]:
        """Seconds of batches whose images leave when they are done, and of those that wait for their slowest."""
        pipeline = scheduled(self.pipeline, arm)
        seconds = {"leaving": 0.0, "waiting": 0.0}
        for number in range(rounds):
            part = images[number * self.batch : (number + 1) * self.batch]
            orders = [Order(prompt, seed, arm.steps, decisions=arm.decisions(prompt, None)) for prompt, seed in part]
            began = time.perf_counter()
            slowest = max(each.steps for each in drawn(pipeline, orders))
            seconds["leaving"] += time.perf_counter() - began
            wait = Decision(arm.steps, watch=partial(_after, slowest - arm.finish), finish=arm.finish)
            together = [Order(prompt, seed, arm.steps, decisions=[wait]) for prompt, seed in part]
            began = time.perf_counter()
            drawn(pipeline, together)
            seconds["waiting"] += time.perf_counter() - began
        return seconds


def _after(count: int) -> Callable[[Any, int], bool]:
    """Ends an image after so many steps."""
    seen = 0

    def watch(_clean: Any, _left: int) -> bool:
        nonlocal seen
        seen += 1
        return seen >= count

    return watch


def drawn(pipeline: Any, orders: Sequence[Order]) -> list[Drawn]:
    """All of them, as arrays. Raises the first error."""
    found: list[Drawn] = []
    for each in draw(pipeline, orders, output_type="np"):
        if isinstance(each, Exception):
            raise each
        found.append(each)
    return found


def batches(planned: Sequence[int], size: int) -> list[list[int]]:
    """Places of one planned count each, `size` at most, the longest first."""
    found = []
    for count in sorted(set(planned), reverse=True):
        places = [place for place, each in enumerate(planned) if each == count]
        found += [places[start : start + size] for start in range(0, len(places), size)]
    return found


def scheduled(pipeline: Any, arm: Arm) -> Any:
    """The pipeline with the arm's solver of the same flow, and its shift; Euler is the pipeline's own."""
    if arm.solver == "Euler" and arm.shift is None:
        return pipeline
    other = copy.copy(pipeline)
    shift = pipeline.scheduler.config.shift if arm.shift is None else arm.shift
    make: Any = DPMSolverMultistepScheduler
    other.scheduler = (
        pipeline.scheduler.from_config(pipeline.scheduler.config, shift=shift)
        if arm.solver == "Euler"
        else make(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift)
    )
    return other
