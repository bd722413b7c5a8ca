"""Train a predictor of steps: render whole runs, label each image, fit the head, write artefact and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.errors import InputError
from dynflow.models.encoder import Encoder
from dynflow.nodes.adaptive_diffusion import predictor
from dynflow.nodes.adaptive_diffusion.recording import record
from dynflow.nodes.adaptive_diffusion.recordings import METRICS
from dynflow.nodes.adaptive_diffusion.training.card import PICTURE, Plan, render_card
from dynflow.nodes.adaptive_diffusion.training.fitting import Parts, fit
from dynflow.nodes.adaptive_diffusion.training.spread import draw_spread, spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynflow.learning.kept import Progress
    from dynflow.models.settings import ModelSettings
    from dynflow.nodes.adaptive_diffusion.recordings import Recording

COUNTS = (5, 8, 10, 12, 15, 20, 25, 30, 40, 50)
FEWEST_PROMPTS = 40
RUNS = "runs.jsonl"


@dataclass(frozen=True)
class Report:
    """What a training made: `rows` are images, measures by what they are of."""

    out: Path
    rows: int
    figures: Mapping[str, Mapping[str, float | None]]


def train(
    settings: ModelSettings,
    prompts: Sequence[str],
    out: Path,
    *,
    metric: str = "ssim",
    at_least: float = 0.9,
    counts: Sequence[int] = COUNTS,
    seeds: int = 2,
    batch: int | None = None,
    runs: Path | None = None,
    data_name: str | None = None,
    command: str = "dynflow train steps",
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Learn how many steps prompts need of the pipeline that `settings` name, and write an artefact into `out`.

    `runs` is the file of whole runs, by default `runs.jsonl` in `out`: what it has is not rendered again, so that a
    killed run goes on and another metric costs nothing. `command` is what the card says it was made by. Raises
    InputError for what cannot be learnt from, and as `record` does.
    """
    if metric not in METRICS:
        raise InputError(f"there is no metric {metric!r}: give {' or '.join(METRICS)}")
    if not at_least <= METRICS[metric]:
        raise InputError(f"no image has {metric} ≥ {at_least:g}: {METRICS[metric]:g} is that of equal ones")
    prompts = list({predictor.prompt_hash(prompt): prompt for prompt in prompts}.values())
    if len(prompts) < FEWEST_PROMPTS:
        raise InputError(f"{len(prompts)} prompts are too few to learn from: give at least {FEWEST_PROMPTS} others")
    recording = record(
        settings, prompts, runs or out / RUNS, counts=counts, seeds=seeds, batch=batch, progress=progress
    )
    needed = recording.needed(metric, at_least)
    if len(np.unique(needed)) < 2:
        raise InputError(
            f"every image needs {needed[0]} of {recording.about.reference} steps for {metric} ≥ {at_least:g}: there is "
            "nothing to learn; ask for more or less, or try other counts"
        )
    parts = Parts.of(len(prompts))
    embeddings = Encoder.shared().embed(recording.prompts)
    fitted = fit(embeddings, needed, recording.owner, recording.about.counts, parts)
    spreads = spread(needed, recording.owner)
    facts: dict[str, Any] = {
        "model": settings.model,
        "sha256": recording.about.sha256,
        "metric": metric,
        "at_least": at_least,
        "reference": recording.about.reference,
        "counts": ", ".join(map(str, recording.about.counts)),
        "images": len(needed),
        "prompts": len(prompts),
        "offsets": len(parts.offsets),
        "judged": len(parts.judged),
        "data": "" if data_name is None else f" of {data_name}",
    }
    told = predictor.corrected(predictor.forward(fitted.tensors, embeddings), fitted.offsets)
    planned = [
        _judged(recording, parts, _rounded_up(told[:, place], recording.about.counts), quantile, metric, at_least)
        for place, quantile in enumerate(fitted.quantiles)
    ]
    static = [
        _judged(recording, parts, np.full(len(prompts), count), count, metric, at_least)
        for count in recording.about.counts
    ]
    hashes = np.array(sorted(predictor.prompt_hash(prompt) for prompt in prompts), dtype=np.uint64)
    predictor.save(
        out,
        {**fitted.tensors, predictor.HASHES: hashes},
        model=settings.model,
        quantiles=fitted.quantiles,
        offsets=fitted.offsets,
        counts=recording.about.counts,
        card=render_card(facts, planned, static, spreads, command),
        training=facts,
    )
    (out / PICTURE).write_text(draw_spread(needed, recording.owner), encoding="utf-8")
    figures: dict[str, Mapping[str, float | None]] = {
        "all": {"prompts": len(prompts), "mean steps needed": round(float(needed.mean()), 2)},
        "spread in doublings": {"between prompts": round(spreads.prompts, 3), "between seeds": _of(spreads.seeds)},
        **{
            f"quantile {plan.by:g}": {"mean steps": round(plan.steps, 2), "kept": round(plan.kept, 4)}
            for plan in planned
        },
    }
    return Report(out, len(needed), figures)


def _of(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _rounded_up(doublings: NDArray[Any], counts: Sequence[int]) -> NDArray[np.intp]:
    """The counts that are planned, as the node does: none larger than the reference."""
    places = np.searchsorted(np.asarray(counts), 2.0**doublings - 1e-6)
    return np.asarray(counts)[np.minimum(places, len(counts) - 1)]


def _judged(
    recording: Recording, parts: Parts, planned: NDArray[np.intp], by: float, metric: str, at_least: float
) -> Plan:
    """What a plan for each prompt [prompts] gives on the prompts judged by."""
    mine = np.isin(recording.owner, parts.judged)
    of_image = planned[recording.owner]
    kept = np.zeros(len(of_image))
    for count, run in recording.runs.items():
        rows = of_image == count
        kept[rows] = run.metrics[metric][rows, -1] >= at_least
    return Plan(by, float(of_image[mine].mean()), float(kept[mine].mean()))
