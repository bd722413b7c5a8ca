"""Whole runs of many images, rendered in batches by planned count."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynflow.errors import InputError
from dynflow.models.diffusers import find
from dynflow.nodes.adaptive_diffusion.clean import tells_clean_images
from dynflow.nodes.adaptive_diffusion.deciders import Decision, Watch, drift, turnings
from dynflow.nodes.adaptive_diffusion.decoding import decode
from dynflow.nodes.adaptive_diffusion.drawing import Look, Order, draw
from dynflow.nodes.adaptive_diffusion.finishing import Rest, can_skip
from dynflow.nodes.adaptive_diffusion.pipelines import loaded, located
from dynflow.nodes.adaptive_diffusion.recordings import METRICS, MOST_PSNR, About, Image, Recording, RecordingFile, Run
from dynflow.nodes.adaptive_diffusion.shapes.metrics import psnr, ssim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynflow.learning.kept import Progress
    from dynflow.models.settings import ModelSettings

_AT_ONCE = {"cpu": 16, "gpu": 64}
"""Images: more do not stay in a CPU's cache."""


def record(
    settings: ModelSettings,
    prompts: Sequence[str],
    path: Path,
    *,
    folder: Path | None = None,
    counts: Sequence[int],
    seeds: int = 2,
    finish: int = 0,
    batch: int | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Recording:
    """Whole runs of `seeds` images of each prompt, from `path` what it has, the others rendered and appended there.

    `settings` is the entry of `models:`, `folder` what relative paths of it count from. `finish` is the longer steps in
    which what `converge` stops is finished (0: it ends there): each turning of each run then costs so many calls more.
    `batch` is of images at once. Prompts that come twice count once. Raises InputError for a file of other runs, and
    for a scheduler that takes no longer steps where there is a `finish`; MissingDependency, MissingModel,
    ArtefactError, NodeFailed.
    """
    about = About(settings.model, model_digest(settings, folder), tuple(counts), finish)
    label = f"rendering, {about.calls:,} calls an image"
    file = RecordingFile(path, about)
    wanted = [(prompt, seed_of(prompt, place)) for prompt in dict.fromkeys(prompts) for place in range(seeds)]
    missing = [each for each in wanted if each not in file.images]
    total, done = len(wanted), len(wanted) - len(missing)
    progress(done, total, label)
    if missing:
        shared = loaded(located(settings, folder), folder)
        scheduler = getattr(shared.pipeline, "scheduler", None)
        if finish and not (can_skip(scheduler) and tells_clean_images(scheduler)):
            name = type(shared.pipeline if scheduler is None else scheduler).__name__
            raise InputError(f"{name} takes no longer steps: leave `finish` out of `converge`")
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        with shared.turn:
            size = batch or _AT_ONCE["cpu" if shared.pipeline.device.type == "cpu" else "gpu"]
            for start in range(0, len(missing), size):
                part = missing[start : start + size]
                file.append(render(shared.pipeline, part, about.counts, finish))
                progress(done + start + len(part), total, label)
    return Recording.of(about, [file.images[each] for each in wanted])


def seed_of(prompt: str, place: int) -> int:
    """The seed of a prompt's image: other prompts have others, as units that share their noise would not be apart."""
    return int.from_bytes(hashlib.sha256(f"{place} {prompt}".encode()).digest()[:4], "big")


def model_digest(settings: ModelSettings, folder: Path | None) -> str:
    """SHA-256 over the weights and configurations of a local pipeline; of a hub's, its revision."""
    place = find(located(settings, folder), folder)
    if place is None:
        return settings.revision or ""
    digest = hashlib.sha256()
    for file in sorted(place.rglob("*")):
        if file.suffix in (".safetensors", ".json"):
            digest.update(str(file.relative_to(place)).encode())
            with file.open("rb") as data:
                digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()


def render(pipeline: Any, images: Sequence[tuple[str, int]], counts: Sequence[int], finish: int = 0) -> list[Image]:
    """The whole runs of images (prompt, seed), in one batch for each planned count, and where they are finished in so
    many longer steps each of these ends. Raises as `draw` reports."""
    with torch.no_grad():
        reference: NDArray[Any] | None = None
        runs: dict[int, list[Run]] = {}
        for count in sorted(counts, reverse=True):
            walked = _walked(pipeline, images, count, finish)
            last = decode(pipeline, walked.ends, Look())
            reference = last if reference is None else reference
            shown = _finished(pipeline, images, walked, finish) if finish else _clean(pipeline, walked, last)
            runs[count] = _measured(walked, shown, last, reference)
    return [
        Image(prompt, seed, {count: runs[count][place] for count in sorted(counts)})
        for place, (prompt, seed) in enumerate(images)
    ]


@dataclass(slots=True)
class _Onlooker:
    """Keeps what `converge` would see of one image, and where its run stands at `turnings`, and lets it go on."""

    turnings: Container[int] = ()
    seen: list[torch.Tensor] = field(default_factory=list)
    rests: dict[int, Rest] = field(default_factory=dict)

    def watch(self) -> Watch:
        self.seen.clear()  # a batch that memory did not suffice for begins again
        return self._look

    def _look(self, clean: torch.Tensor, left: int) -> bool:
        self.seen.append(clean)
        return False

    def follow(self, rest: Rest) -> None:
        if rest.steps in self.turnings:
            self.rests[rest.steps] = replace(rest, latents=rest.latents.clone())


@dataclass(frozen=True, slots=True)
class _Walked:
    """Whole runs of n images: clean latents [n, …] after each step but the last, where the scheduler tells of them, the
    results [n, …], and by step where each stood. `count` is of the calls: PNDM takes one more than it plans."""

    count: int
    clean: Sequence[torch.Tensor]
    ends: torch.Tensor
    rests: Mapping[int, Sequence[Rest]]


def _walked(pipeline: Any, images: Sequence[tuple[str, int]], count: int, finish: int) -> _Walked:
    """In one batch."""
    tried = turnings(count, finish) if finish else []
    onlookers = [_Onlooker(tried) for _ in images]
    orders = [
        Order(prompt, seed, count, decisions=[Decision(count, watch=each.watch, follow=each.follow)])
        for (prompt, seed), each in zip(images, onlookers, strict=True)
    ]
    ends = _latents(pipeline, orders)
    clean = [torch.stack(step) for step in zip(*(onlooker.seen for onlooker in onlookers), strict=True)]
    rests = {step: [onlooker.rests[step] for onlooker in onlookers] for step in tried}
    return _Walked(len(clean) + 1 if clean else count, clean, ends, rests)


def _latents(pipeline: Any, orders: Sequence[Order]) -> torch.Tensor:
    found = []
    for each in draw(pipeline, orders, output_type="latent"):
        if isinstance(each, Exception):
            raise each
        found.append(each.image)
    return torch.stack(found)


def _clean(pipeline: Any, walked: _Walked, last: NDArray[Any]) -> Mapping[int, NDArray[Any]]:
    """By step from 1 on the clean images; where the scheduler tells of none the end's: there is no stopping early."""
    if not walked.clean:
        return dict.fromkeys(range(1, walked.count), last)
    return {step: decode(pipeline, latents, Look()) for step, latents in enumerate(walked.clean, start=1)}


def _finished(
    pipeline: Any, images: Sequence[tuple[str, int]], walked: _Walked, finish: int
) -> Mapping[int, NDArray[Any]]:
    """By the step at which they are left what the images end as, finished in so many longer steps."""
    found = {}
    for step, rests in walked.rests.items():
        decisions = [Decision(rests[0].total, finish=finish)]
        orders = [
            Order(prompt, seed, rest.total, decisions=decisions, rest=rest)
            for (prompt, seed), rest in zip(images, rests, strict=True)
        ]
        found[step] = decode(pipeline, _latents(pipeline, orders), Look())
    return found


def _measured(
    walked: _Walked, shown: Mapping[int, NDArray[Any]], last: NDArray[Any], reference: NDArray[Any]
) -> list[Run]:
    """`shown` are images by the step that a run of theirs may be stopped at."""
    count, images = walked.count, len(last)
    drifts = np.full((images, count), np.inf)
    metrics = {name: np.full((images, count), np.nan) for name in METRICS}
    for step, pictures in (*shown.items(), (count, last)):
        if 1 < step < count and walked.clean:
            before, now = (walked.clean[place].float() for place in (step - 2, step - 1))
            drifts[:, step - 1] = drift(before, now, count - step).cpu().numpy()
        for name, values in _compared(pictures, reference).items():
            metrics[name][:, step - 1] = values
    drifts[:, -1] = -np.inf
    return [Run(drifts[place], {name: values[place] for name, values in metrics.items()}) for place in range(images)]


def _compared(images: NDArray[Any], references: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
    return {"ssim": ssim(images, references), "psnr": np.minimum(psnr(images, references), MOST_PSNR)}
