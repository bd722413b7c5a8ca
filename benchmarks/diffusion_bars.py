"""The bars of `diffusion.py`, each said to be held or missed, with its figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_arms import REFERENCE
from diffusion_figures import Judged, Resampling, most_alike, paired, upper
from diffusion_report import EULER, PREDICT

from dynflow.nodes.adaptive_diffusion.predictor import Contract

SAVING_KEPT = 0.7
ALIGNMENT_MARGIN, FRECHET_MARGIN = 0.01, 0.05
FASTER = {f"{EULER} 50": 2.0, f"{EULER} 100": 3.0}
FASTER_THAN_PREDICTOR = 1.3
OF_ORACLE = 0.8
BATCH_FASTER = 1.5


def verdicts(
    judged: Mapping[str, Judged],
    rows: Mapping[str, Mapping[str, Any]],
    resampling: Resampling,
    waits: Mapping[str, float],
    matched: Sequence[str],
    best: str,
    contract: Contract,
    known: tuple[float, Mapping[str, Sequence[float]]],
) -> list[str]:
    """`best` is the arm that is judged, `matched` are static ones of at least as many steps, `known` its mean steps on
    the oracles' images and the oracles'."""
    name = f"{EULER} {REFERENCE}"
    adaptive, whole = judged[best], judged[name]
    point, draws = resampling.of_mean(whole.aligned.astype(float) - adaptive.aligned)
    worse = upper(point, draws)
    found = [
        f"{_held(worse < ALIGNMENT_MARGIN)}: {best} aligns at most {100 * worse:.2f} points worse than {name} "
        f"(one-sided 95 %; margin {100 * ALIGNMENT_MARGIN:g})"
    ]
    share = 1 + FRECHET_MARGIN
    point = rows[best]["frechet"][0] - share * rows[name]["frechet"][0]
    draws = rows[best]["frechet draws"] - share * rows[name]["frechet draws"]
    ratio = rows[best]["frechet"][0] / rows[name]["frechet"][0]
    found.append(
        f"{_held(upper(point, draws) < 0)}: its Fréchet distance is {ratio:.3f} of that of {name} (one-sided 95 %; "
        f"margin {100 * FRECHET_MARGIN:g} %)"
    )
    for other, bar in FASTER.items():
        faster = judged[other].seconds / adaptive.seconds
        fewer = judged[other].steps.mean() / adaptive.steps.mean()
        found.append(
            f"{_held(faster >= bar)}: {faster:.2f} times the throughput of {other}; steps {fewer:.2f}; bar {bar}"
        )
    rival, why = (PREDICT, "") if PREDICT in judged else (name, f" (no plan keeps the contract: {name})")
    faster = judged[rival].seconds / adaptive.seconds
    bar = FASTER_THAN_PREDICTOR
    found.append(f"{_held(faster >= bar)}: {faster:.2f} times that of the {PREDICT}{why}; bar {bar}")
    rival = most_alike(judged, matched, contract.at_least)
    met = {each: (judged[each].alike >= contract.at_least).astype(float) for each in (best, rival)}
    ahead, low, high = paired(resampling, met[best], met[rival])
    found.append(
        f"{_held(low > 0)}: the contract is met {100 * ahead:.1f} points more often than by {rival}, the best static "
        f"arm of at least as many steps ({100 * low:.1f} to {100 * high:.1f})"
    )
    taken, oracles = known
    saved = (REFERENCE - taken) / (REFERENCE - oracles["oracle per image"][0])
    found.append(
        f"{_held(saved >= OF_ORACLE)}: {100 * saved:.0f} % of the saving of the oracle per image; "
        f"bar {100 * OF_ORACLE:g}"
    )
    bar = BATCH_FASTER
    if waits:
        faster = waits["waiting"] / waits["leaving"]
        found.append(
            f"{_held(faster >= bar)}: a batch of mixed prompts whose images leave when they are done has "
            f"{faster:.2f} times the throughput of one that waits for its slowest; bar {bar}"
        )
    else:
        found.append(f"{_held(False)}: no image leaves a batch early, as no threshold keeps the contract; bar {bar}")
    return found


def of_promise(promise: Mapping[str, float], confidence: float) -> list[str]:
    """The bars of the contract itself, over calibrations on captions drawn with replacement."""
    error = math.sqrt(confidence * (1 - confidence) / promise["draws"])
    most = 1 - confidence + 2 * error
    return [
        f"{_held(promise['broken'] <= most)}: {100 * promise['broken']:.1f} % of {promise['draws']:,} calibrations on "
        f"{promise['captions']:,} captions break the promise; bar {100 * most:.1f} %",
        f"{_held(promise['saving kept'] >= SAVING_KEPT)}: they keep {100 * promise['saving kept']:.0f} % of the saving "
        f"of the setting that is best for all the captions; bar {100 * SAVING_KEPT:g} %",
    ]


def _held(holds: bool) -> str:
    return "held" if holds else "MISSED"
