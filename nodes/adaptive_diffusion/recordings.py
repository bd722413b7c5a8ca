"""Whole runs of images on disk: of each step, how far the image still went, and how like it was to the reference.

A file has a line of JSON that says what it is of, then a line for each image: a prompt and a seed. An image has a run
for each step count that may be planned, and a run holds all that stopping early could have made of it: stopping by
convergence is a prefix of one run, another planned count is another run. So every pair of a plan and a threshold is
tried on these lines, and nothing is drawn again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.errors import InputError
from dynflow.nodes.adaptive_diffusion.deciders import turnings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

FORMAT = 1
MOST_PSNR = 99.0
"""Decibels of equal images, for which there is no number."""
METRICS = {"ssim": 1.0, "psnr": MOST_PSNR}
"""What images are compared by, and what equal ones reach; more is more alike."""


@dataclass(frozen=True)
class About:
    """What a file's runs are of: the model by name and by the hash of its files, the counts (rising), of which the last
    is the reference, and the longer steps that what is stopped is finished in (0: in none)."""

    model: str
    sha256: str
    counts: tuple[int, ...]
    finish: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for counts that are none."""
        if list(self.counts) != sorted(set(self.counts)) or len(self.counts) < 2 or self.counts[0] < 1:
            raise InputError(f"step counts are two or more, rising from 1 on, not {', '.join(map(str, self.counts))}")

    @property
    def reference(self) -> int:
        """The count that images are compared with."""
        return self.counts[-1]

    @property
    def calls(self) -> int:
        """Of the denoiser, for all runs of an image."""
        return sum(count + self.finish * len(self.turnings(count)) for count in self.counts)

    def turnings(self, count: int) -> list[int]:
        """After which steps a run is tried to be finished."""
        return turnings(count, self.finish) if self.finish else []


@dataclass(frozen=True)
class Run:
    """One run of one image, or of n: of each step drift, and metrics where it is stopped there, [steps] or [n, steps].

    There are as many steps as were planned; PNDM takes one more. The last one's image is that which a run to its end
    gives; its drift is minus infinity: there every run stops. At the first it is infinite, as nothing came before, and
    so it is wherever the node does not stop a run that it finishes; the metrics are no numbers there.
    """

    drift: Floats
    metrics: Mapping[str, Floats]

    def stops(self, threshold: float | None) -> NDArray[np.intp]:
        """The step, from 0 on, at which `converge` stops each; None: it is not at work."""
        if threshold is None:
            return np.full(self.drift.shape[:-1], self.drift.shape[-1] - 1, dtype=np.intp)
        return np.asarray((self.drift <= threshold).argmax(-1))

    def calls(self, finish: int) -> NDArray[np.intp]:
        """Of the denoiser, by the step at which a run is stopped that is finished in so many: [steps]."""
        steps = np.arange(1, self.drift.shape[-1] + 1)
        return np.where(steps < len(steps), steps + finish, steps)


@dataclass(frozen=True)
class Image:
    """One image's runs, by planned count."""

    prompt: str
    seed: int
    runs: Mapping[int, Run]

    @property
    def lengths(self) -> list[int]:
        """The steps of its runs."""
        return [len(run.drift) for run in self.runs.values()]


@dataclass(frozen=True)
class Recording:
    """n images of whole prompts, with their runs side by side."""

    about: About
    prompts: tuple[str, ...]
    """The different ones."""
    owner: NDArray[np.intp]
    """[n]: which prompt each image is of."""
    runs: Mapping[int, Run]
    """By planned count."""

    @classmethod
    def of(cls, about: About, images: Sequence[Image]) -> Recording:
        """The images of a file, sorted by prompt as these come up."""
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(image.prompt for image in images))}
        ordered = sorted(images, key=lambda image: places[image.prompt])
        runs = {
            count: Run(
                np.stack([image.runs[count].drift for image in ordered]),
                {name: np.stack([image.runs[count].metrics[name] for image in ordered]) for name in METRICS},
            )
            for count in about.counts
        }
        return cls(about, tuple(places), np.array([places[image.prompt] for image in ordered]), runs)

    def needed(self, metric: str, at_least: float) -> NDArray[np.intp]:
        """The smallest count of each image [n] from which on all larger ones keep the metric."""
        kept = np.stack([self.runs[count].metrics[metric][:, -1] >= at_least for count in self.about.counts], axis=1)
        kept[:, -1] = True
        from_here = np.logical_and.accumulate(kept[:, ::-1], axis=1)[:, ::-1]
        counts = np.array(self.about.counts, dtype=np.intp)
        return np.asarray(counts[from_here.argmax(1)])

    def by_prompt(self, values: Floats) -> Floats:
        """The mean of values [n] over the images of each prompt: [prompts]."""
        return np.asarray(np.bincount(self.owner, values) / np.bincount(self.owner))


class RecordingFile:
    """A file of whole runs that grows image by image; whoever was killed goes on where it was."""

    def __init__(self, path: Path, about: About) -> None:
        """Raises InputError for a file of other runs, or of something else."""
        self.path, self.about = path, about
        self.images: dict[tuple[str, int], Image] = {}
        if path.is_file() and path.stat().st_size:
            found, images, length = _read(path)
            if found != about:
                raise InputError(
                    f"{path} holds runs of {_told(found)}, not of {_told(about)}: name another file, or delete it"
                )
            self.images = {(image.prompt, image.seed): image for image in images}
            os.truncate(path, length)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            head = {"format": FORMAT, **asdict(about)}
            path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def append(self, images: Iterable[Image]) -> None:
        """Keep further images."""
        images = list(images)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{_line(image)}\n" for image in images)
        self.images |= {(image.prompt, image.seed): image for image in images}


def read_recording(path: Path) -> Recording:
    """The runs of a whole file. Raises InputError where it is none, or holds no image."""
    about, images, _ = _read(path)
    if not images:
        raise InputError(f"{path} holds no image yet")
    return Recording.of(about, images)


def _read(path: Path) -> tuple[About, list[Image], int]:
    """What it is of, its images, and the bytes of its whole lines: a kill may have cut the last one off."""
    try:
        data = path.read_bytes()
        length = data.rfind(b"\n") + 1
        head, *lines = data[:length].splitlines()
        told = json.loads(head)
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']}")
        about = About(told["model"], told["sha256"], tuple(told["counts"]), told.get("finish", 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no whole runs ({error!r}): name another file, or delete it") from error
    images: list[Image] = []
    for place, line in enumerate(lines, start=2):
        try:
            image = _image(json.loads(line), about)
            if images and image.lengths != images[0].lengths:
                raise ValueError("other steps than the images before")
        except (ValueError, KeyError, TypeError) as error:
            reason = f"line {place} of {path} is damaged ({error!r}): delete that line, and it is rendered anew"
            raise InputError(reason) from error
        images.append(image)
    return about, images, length


def _image(told: Mapping[str, Any], about: About) -> Image:
    runs = {}
    for count in about.counts:
        run = told["runs"][str(count)]
        inner = [np.inf if each is None else each for each in run["drift"]]
        drift = np.array([np.inf, *inner, -np.inf] if len(run["ssim"]) > 1 else [-np.inf])
        metrics = {name: np.array(run[name], dtype=float) for name in METRICS}
        if any(values.shape != drift.shape for values in metrics.values()):
            raise ValueError(f"the run of {count} steps is not whole")
        runs[count] = Run(drift, metrics)
    return Image(told["prompt"], told["seed"], runs)


def _line(image: Image) -> str:
    runs = {
        str(count): {
            "drift": _numbers(run.drift[1:-1], 6),
            **{name: _numbers(run.metrics[name], 5) for name in METRICS},
        }
        for count, run in image.runs.items()
    }
    return json.dumps({"prompt": image.prompt, "seed": image.seed, "runs": runs}, allow_nan=False)


def _numbers(values: Floats, digits: int) -> list[float | None]:
    return [float(f"{each:.{digits}g}") if np.isfinite(each) else None for each in values]


def _told(about: About) -> str:
    counts = ", ".join(map(str, about.counts))
    finished = f", finished in {about.finish}" if about.finish else ""
    return f"{about.model} ({about.sha256[:12] or 'of a hub'}) in {counts} steps{finished}"
