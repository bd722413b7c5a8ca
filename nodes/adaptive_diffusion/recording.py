"""Whole runs of many images, rendered in batches by planned count."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynflow.models.diffusers import find
from dynflow.nodes.adaptive_diffusion.deciders import Decision, Watch, drift
from dynflow.nodes.adaptive_diffusion.decoding import decode
from dynflow.nodes.adaptive_diffusion.drawing import Look, Order, draw
from dynflow.nodes.adaptive_diffusion.pipelines import loaded, located
from dynflow.nodes.adaptive_diffusion.recordings import METRICS, MOST_PSNR, About, Image, Recording, RecordingFile, Run
from dynflow.nodes.adaptive_diffusion.shapes.metrics import psnr, ssim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynflow.learning.kept import Progress
    from dynflow.models.settings import ModelSettings

LABEL = "rendering"
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
    batch: int | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Recording:
    """Whole runs of `seeds` images of each prompt, from `path` what it has, the others rendered and appended there.

    `settings` is the entry of `models:`, `folder` what relative paths of it count from. `batch` is of images at once.
    Prompts that come twice count once. Raises InputError for a file of other runs, MissingDependency, MissingModel,
    ArtefactError, NodeFailed.
    """
    about = About(settings.model, model_digest(settings, folder), tuple(counts))
    file = RecordingFile(path, about)
    wanted = [(prompt, seed_of(prompt, place)) for prompt in dict.fromkeys(prompts) for place in range(seeds)]
    missing = [each for each in wanted if each not in file.images]
    total, done = len(wanted), len(wanted) - len(missing)
    progress(done, total, LABEL)
    if missing:
        shared = loaded(located(settings, folder), folder)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        with shared.turn:
            size = batch or _AT_ONCE["cpu" if shared.pipeline.device.type == "cpu" else "gpu"]
            for start in range(0, len(missing), size):
                part = missing[start : start + size]
                file.append(render(shared.pipeline, part, about.counts))
                progress(done + start + len(part), total, LABEL)
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


def render(pipeline: Any, images: Sequence[tuple[str, int]], counts: Sequence[int]) -> list[Image]:
    """The whole runs of images (prompt, seed), in one batch for each planned count. Raises as `draw` reports."""
    with torch.no_grad():
        reference: NDArray[Any] | None = None
        runs: dict[int, list[Run]] = {}
        for count in sorted(counts, reverse=True):
            steps = _steps(pipeline, images, count)
            last = decode(pipeline, steps[-1], Look())
            reference = last if reference is None else reference
            runs[count] = _measured(pipeline, steps, last, reference)
    return [
        Image(prompt, seed, {count: runs[count][place] for count in sorted(counts)})
        for place, (prompt, seed) in enumerate(images)
    ]


@dataclass(slots=True)
class _Onlooker:
    """Keeps what `converge` would see of one image, and lets it go on."""

    seen: list[torch.Tensor] = field(default_factory=list)

    def watch(self) -> Watch:
        self.seen.clear()  # a batch that memory did not suffice for begins again
        return self._look

    def _look(self, clean: torch.Tensor, left: int) -> bool:
        self.seen.append(clean)
        return False


def _steps(pipeline: Any, images: Sequence[tuple[str, int]], count: int) -> list[torch.Tensor]:
    """The clean latents [n, …] after each step, the last of them the result; only that where the rest is not told."""
    onlookers = [_Onlooker() for _ in images]
    orders = [
        Order(prompt, seed, count, decisions=[Decision(count, watch=onlooker.watch)])
        for (prompt, seed), onlooker in zip(images, onlookers, strict=True)
    ]
    drawn = draw(pipeline, orders, output_type="latent")
    for each in drawn:
        if isinstance(each, Exception):
            raise each
    ends = torch.stack([each.image for each in drawn if not isinstance(each, Exception)])
    if not onlookers[0].seen:
        return [ends] * count  # with the end's metrics and no drift: there is no stopping early
    seen = zip(*(onlooker.seen for onlooker in onlookers), strict=True)  # PNDM calls once more than it plans
    return [*(torch.stack(step) for step in seen), ends]


def _measured(pipeline: Any, steps: Sequence[torch.Tensor], last: NDArray[Any], reference: NDArray[Any]) -> list[Run]:
    count, images = len(steps), len(last)
    drifts = np.full((images, count), np.inf)
    metrics = {name: np.empty((images, count)) for name in METRICS}
    told = any(each is not steps[-1] for each in steps)
    for step, latents in enumerate(steps):
        if step and step < count - 1 and told:
            drifts[:, step] = drift(steps[step - 1].float(), latents.float(), count - 1 - step).cpu().numpy()
        shown = last if latents is steps[-1] else decode(pipeline, latents, Look())
        for name, values in _compared(shown, reference).items():
            metrics[name][:, step] = values
    drifts[:, -1] = -np.inf
    return [Run(drifts[place], {name: values[place] for name, values in metrics.items()}) for place in range(images)]


def _compared(images: NDArray[Any], references: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
    return {"ssim": ssim(images, references), "psnr": np.minimum(psnr(images, references), MOST_PSNR)}
