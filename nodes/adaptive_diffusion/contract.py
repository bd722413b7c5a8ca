"""A promise of quality on recorded runs: what each pair of a quantile and a threshold would have given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration.contracts import Tries
from dynflow.calibration.rules import ContractRule
from dynflow.errors import CalibrationError
from dynflow.nodes.adaptive_diffusion.predictor import WHOLE, Contract, Predictor, add_contract, asked_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dynflow.calibration.signals import Progress
    from dynflow.models.settings import ModelSettings
    from dynflow.nodes.adaptive_diffusion.recordings import Recording

THRESHOLDS: tuple[float | None, ...] = (None, *(float(f"{each:.3g}") for each in np.geomspace(0.003, 30, 49)))
"""Of `converge`, from the strictest on; None: it is not at work. They are the same whatever was recorded."""


def rule_of(
    predictor: Predictor, settings: ModelSettings, folder: Path | None, quality: Mapping[str, Any], finish: int
) -> ContractRule:
    """How the promise `quality` of a node is calibrated whose `converge` finishes in so many steps (0: in none).

    Raises CalibrationError where the predictor does not fit.
    """
    facts = predictor.facts
    try:
        contract = asked_for(quality, finish)
    except ValueError as error:
        raise CalibrationError(f"`quality`: {error}") from error
    if contract.steps != facts.counts[-1]:
        raise CalibrationError(
            f"`quality` compares with {contract.steps} steps, and the predictor in {facts.folder} with "
            f"{facts.counts[-1]}: promise that, or train it with --counts up to {contract.steps}"
        )

    def runs(prompts: Sequence[str], path: Path, seeds: int, progress: Progress) -> Tries:
        from dynflow.nodes.adaptive_diffusion.recording import record

        recording = record(
            settings,
            prompts,
            path,
            folder=folder,
            counts=facts.counts,
            seeds=seeds,
            finish=contract.finish,
            progress=progress,
        )
        if facts.model_sha256 not in (None, recording.about.sha256):
            raise CalibrationError(
                f"{settings.model} has changed since the predictor in {facts.folder} was trained: train it again"
            )
        places = {prompt: place for place, prompt in enumerate(recording.prompts)}
        return tries(recording, predictor, contract).of([places[prompt] for prompt in prompts])

    def keep(setting: tuple[float, float | None], rests_on: Mapping[str, Any]) -> None:
        quantile, threshold = setting
        add_contract(facts, replace(contract, quantile=quantile, threshold=threshold, rests_on=dict(rests_on)))

    return ContractRule(
        statement=f"{contract.metric} to {contract.steps} steps is at least {contract.at_least:g}",
        share=contract.share,
        unit="steps",
        runs=runs,
        keep=keep,
        trained_on=predictor.trained_on,
    )


def tries(recording: Recording, predictor: Predictor, contract: Contract) -> Tries:
    """Every quantile and threshold on whole runs, by prompt; a setting is the pair."""
    quantiles = (WHOLE, *sorted(predictor.facts.quantiles, reverse=True))
    shape = (len(quantiles), len(THRESHOLDS), len(recording.prompts))
    kept, cost = np.empty(shape), np.empty(shape)
    for a, counts in enumerate(predictor.counts(recording.prompts, quantiles)):
        planned = [count or recording.about.reference for count in counts]
        for b, threshold in enumerate(THRESHOLDS):
            metric, steps = outcome(recording, planned, threshold, contract.metric)
            kept[a, b] = recording.by_prompt((metric >= contract.at_least).astype(np.float64))
            cost[a, b] = recording.by_prompt(steps.astype(np.float64))
    settings = [[(quantile, threshold) for threshold in THRESHOLDS] for quantile in quantiles]
    single = len(recording.owner) == len(recording.prompts)
    return Tries(settings, kept, cost, single)


def outcome(
    recording: Recording, planned: Sequence[int], threshold: float | None, metric: str
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The metric of each image [n] and the steps that it took, where prompts are planned so many steps [prompts]."""
    of_image = np.asarray(planned)[recording.owner]
    values, steps = np.empty(len(of_image)), np.empty(len(of_image), dtype=np.intp)
    for count in set(planned):
        run, rows = recording.runs[count], np.flatnonzero(of_image == count)
        stops = run.stops(threshold)[rows]
        values[rows], steps[rows] = run.metrics[metric][rows, stops], run.calls(recording.about.finish)[stops]
    return values, steps
