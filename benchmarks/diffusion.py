"""Adaptive diffusion against static step counts, on captions that neither model, predictor nor contract has seen.

    python benchmarks/diffusion.py --predictor FOLDER [--model embedded/shapes] [--captions 500] [--seeds 2]
                                   [--contract 500] [--batch 16] [--device cpu] [--threads 1] [--draws 500]
                                   [--work diffusion-work] [--out benchmarks/results]

All arms draw the same captions from the same noise: static counts of Euler and of a multistep solver (DPM-Solver++ of
second order, over the same flow), the predictor alone, `converge` alone, and both. These are set as `dynflow calibrate`
sets them for the contract, on captions of the part "contract", where the predictor was made from others. The oracles
know each image's outcome under every recorded plan and stop. What is drawn is kept in `--work` and judged from there: a
run that is broken off goes on. Images wait in windows of 128 and are drawn `--batch` at a time, the arms in turn.
Alignment is read from the pixels by the shapes' oracle, the Fréchet distance is to as many fresh pictures, intervals
are 95 % over captions by the bootstrap. The bars were set before anything was drawn.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusion_arms import REFERENCE, Arm, Pictures, Studio
from diffusion_figures import (
    Judged,
    Resampling,
    Setting,
    calibrated,
    judge,
    most_alike,
    oracle,
    paired,
    promises,
    summary,
    upper,
)
from diffusion_sheet import easy_and_hard, write_sheet
from machine import machine
from overhead import as_table

from dynflow.calibration.plots import Plot, around, per_cent, plain
from dynflow.cli.progress import progress_bars
from dynflow.models.settings import ModelSettings
from dynflow.nodes.adaptive_diffusion.contract import tries
from dynflow.nodes.adaptive_diffusion.pipelines import loaded, located
from dynflow.nodes.adaptive_diffusion.predictor import WHOLE, Contract, Predictor, describe
from dynflow.nodes.adaptive_diffusion.recording import model_digest, record, seed_of
from dynflow.nodes.adaptive_diffusion.shapes.captions import Caption, Part
from dynflow.nodes.adaptive_diffusion.shapes.features import features_of
from dynflow.nodes.adaptive_diffusion.shapes.scenes import draw_captions, draw_images

COUNTS = (100, 50, 30, 20, 10)
EULER, MULTISTEP = "Euler", "DPM-Solver++"
PREDICT, CONVERGE, BOTH = "predictor alone", "converge alone", "both"
AT_LEAST, SHARE, CONFIDENCE = 0.9, 0.95, 0.9
SAVING_KEPT = 0.7
ALIGNMENT_MARGIN, FRECHET_MARGIN = 0.01, 0.05
FASTER = {f"{EULER} 50": 2.0, f"{EULER} 100": 3.0}
FASTER_THAN_PREDICTOR = 1.3
OF_ORACLE = 0.8
BATCH_FASTER = 1.5
SHEET = 6
SHEET_COUNTS = (10, 20, 50, 100)
NONE = "-"


def main(command: Sequence[str] | None = None) -> None:
    """Draw, judge, print and write the results."""
    given = arguments(command)
    torch.set_num_threads(given.threads)
    settings = ModelSettings(provider="diffusers", model=given.model, device=given.device)
    predictor = Predictor(describe(given.predictor))
    contract = Contract("ssim", REFERENCE, AT_LEAST, SHARE, WHOLE)
    captions = different(given.captions, "test", seed=21)
    prompts = list(captions)
    owner = np.repeat(np.arange(len(prompts)), given.seeds)
    images = [(prompt, seed_of(prompt, place)) for prompt in prompts for place in range(given.seeds)]
    asked = [captions[prompt] for prompt, _ in images]
    work = given.work / model_digest(settings, None)[:12]
    work.mkdir(parents=True, exist_ok=True)
    with progress_bars() as progress:
        held = {"counts": predictor.facts.counts, "seeds": given.seeds, "progress": progress}
        chosen_on = record(
            settings, list(different(given.contract, "contract", seed=22)), work / "contract.jsonl", **held
        )
        tried = tries(chosen_on, predictor, contract)
        settings_of = {
            name: calibrated(tried, contract.share, CONFIDENCE, alone)
            for name, alone in ((PREDICT, "predict"), (CONVERGE, "converge"), (BOTH, None))
        }
        recorded = record(settings, prompts, work / "test.jsonl", **held)
        studio = Studio(loaded(located(settings, None), None).pipeline, predictor, images, work, given.batch)
        predictor.warm_up()
        studio.draw(Arm("warm up", steps=2), images[: given.batch])
        arms = [*static(COUNTS), *adaptive(settings_of)]
        drawn = studio.draw_all(arms, progress)
        best = next(name for name in (BOTH, CONVERGE, PREDICT) if name in drawn)
        equal = math.ceil(drawn[best].taken.mean())
        matched = static([equal])
        drawn |= studio.draw_all([arm for arm in matched if arm.name not in drawn], progress)
        thresholds = [arm.threshold for arm in arms if arm.threshold is not None]
        waits = studio.waiting(Arm("waiting", threshold=thresholds[0]), images, given.rounds) if thresholds else {}
    reference = drawn[f"{EULER} {REFERENCE}"]
    judged = {name: judge(pictures, reference, asked) for name, pictures in drawn.items()}
    fresh = features_of(draw_images(draw_captions(len(images), "test", seed=23), range(len(images))))
    resampling = Resampling.of(owner, given.draws)
    rows = {name: summary(each, resampling, fresh, contract.at_least) for name, each in judged.items()}
    oracles = {
        name: [float(values.mean()) for values in oracle(recorded, contract.at_least, together)]
        for name, together in (("oracle per prompt", True), ("oracle per image", False))
    }
    promise = promises(tried, contract.share, CONFIDENCE, given.draws)
    found = verdicts(judged, rows, oracles, resampling, waits, [arm.name for arm in matched], best, contract)
    found += of_promise(promise)
    results = {
        "machine": machine(["dynflow", "torch", "diffusers"]),
        "model": given.model,
        "contract": str(contract),
        "images": len(images),
        "captions": len(prompts),
        "settings": {name: each and asdict(each) for name, each in settings_of.items()},
        "arms": {
            name: {key: value for key, value in row.items() if key != "frechet draws"} for name, row in rows.items()
        },
        "oracles": oracles,
        "batch of 16": waits,
        "promise": promise,
        "verdicts": found,
    }
    text = report(results, given)
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "diffusion.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.out / "diffusion.md").write_text(text + "\n", encoding="utf-8")
        (given.out / "diffusion.svg").write_text(draw_plot(results), encoding="utf-8")
        columns: dict[str, Pictures] = {f"{count}": drawn[f"{EULER} {count}"] for count in SHEET_COUNTS}
        needed = oracle(recorded, contract.at_least, together=False)[0]
        firsts = np.arange(0, len(images), given.seeds)
        shown = [int(firsts[place]) for place in easy_and_hard(needed[firsts], SHEET)]
        write_sheet(
            given.out / "diffusion_sheet.png",
            [prompt for prompt, _ in images],
            {**columns, "adaptive": drawn[best]},
            shown,
        )


def arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded/shapes")
    parser.add_argument("--predictor", required=True, help="what `dynflow train steps` wrote")
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2, help="images of each caption")
    parser.add_argument("--contract", type=int, default=500, help="captions that the settings are chosen on")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8, help="batches that leaving is compared with waiting on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--draws", type=int, default=500, help="of the bootstrap")
    parser.add_argument("--work", type=Path, default=Path("diffusion-work"))
    parser.add_argument("--out", type=Path)
    return parser.parse_args(command)


def different(number: int, part: Part, seed: int) -> dict[str, Caption]:
    """So many different captions of a part, by their text."""
    found: dict[str, Caption] = {}
    for caption in draw_captions(4 * number, part, seed):
        found.setdefault(caption.text(), caption)
        if len(found) == number:
            break
    return found


def static(counts: Sequence[int]) -> list[Arm]:
    """Both solvers at these counts."""
    return [
        *(Arm(f"{EULER} {count}", "Euler", count) for count in counts),
        *(Arm(f"{MULTISTEP} {count}", "DPM-Solver++", count) for count in counts),
    ]


def adaptive(settings: Mapping[str, Setting | None]) -> list[Arm]:
    """The arms that the calibration did not refuse. Raises SystemExit where it refused all."""
    found = [
        Arm(name, quantile=None if name == CONVERGE else each.quantile, threshold=each.threshold)
        for name, each in settings.items()
        if each is not None
    ]
    if not found:
        raise SystemExit(
            "no setting is shown to keep the contract: give more --contract captions, or another predictor"
        )
    return found


def verdicts(
    judged: Mapping[str, Judged],
    rows: Mapping[str, Mapping[str, Any]],
    oracles: Mapping[str, Sequence[float]],
    resampling: Resampling,
    waits: Mapping[str, float],
    matched: Sequence[str],
    best: str,
    contract: Contract,
) -> list[str]:
    """The bars."""
    name = f"{EULER} {REFERENCE}"
    adaptive, whole = judged[best], judged[name]
    point, draws = resampling.of_mean(whole.aligned.astype(float) - adaptive.aligned)
    worse = upper(point, draws)
    found = [
        f"{_kept(worse < ALIGNMENT_MARGIN)}: {best} aligns at most {100 * worse:.2f} points worse than {name} "
        f"(one-sided 95 %; margin {100 * ALIGNMENT_MARGIN:g})"
    ]
    share = 1 + FRECHET_MARGIN
    point = rows[best]["frechet"][0] - share * rows[name]["frechet"][0]
    draws = rows[best]["frechet draws"] - share * rows[name]["frechet draws"]
    ratio = rows[best]["frechet"][0] / rows[name]["frechet"][0]
    found.append(
        f"{_kept(upper(point, draws) < 0)}: its Fréchet distance is {ratio:.3f} of that of {name} (one-sided 95 %; "
        f"margin {100 * FRECHET_MARGIN:g} %)"
    )
    for other, bar in FASTER.items():
        faster = judged[other].seconds / adaptive.seconds
        fewer = judged[other].steps.mean() / adaptive.steps.mean()
        found.append(
            f"{_kept(faster >= bar)}: {faster:.2f} times the throughput of {other}; steps {fewer:.2f}; bar {bar}"
        )
    if PREDICT in judged:
        faster = judged[PREDICT].seconds / adaptive.seconds
        bar = FASTER_THAN_PREDICTOR
        found.append(f"{_kept(faster >= bar)}: {faster:.2f} times that of the {PREDICT}; bar {bar}")
    rival = most_alike(judged, matched, contract.at_least)
    met = {each: (judged[each].alike >= contract.at_least).astype(float) for each in (best, rival)}
    ahead, low, high = paired(resampling, met[best], met[rival])
    found.append(
        f"{_kept(low > 0)}: the contract is met {100 * ahead:.1f} points more often than by {rival}, the better static "
        f"arm of at least as many steps ({100 * low:.1f} to {100 * high:.1f})"
    )
    saved = (REFERENCE - adaptive.steps.mean()) / (REFERENCE - oracles["oracle per image"][0])
    found.append(
        f"{_kept(saved >= OF_ORACLE)}: {100 * saved:.0f} % of the saving of the oracle per image; "
        f"bar {100 * OF_ORACLE:g}"
    )
    if waits:
        faster = waits["waiting"] / waits["leaving"]
        found.append(
            f"{_kept(faster >= BATCH_FASTER)}: a batch of mixed prompts whose images leave when they are done has "
            f"{faster:.2f} times the throughput of one that waits for its slowest; bar {BATCH_FASTER}"
        )
    return found


def of_promise(promise: Mapping[str, float]) -> list[str]:
    """The bars of the contract itself, over calibrations on captions drawn with replacement."""
    error = math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / promise["draws"])
    most = 1 - CONFIDENCE + 2 * error
    return [
        f"{_kept(promise['broken'] <= most)}: {100 * promise['broken']:.1f} % of {promise['draws']:,} calibrations on "
        f"{promise['captions']:,} captions break the promise; bar {100 * most:.1f} %",
        f"{_kept(promise['saving kept'] >= SAVING_KEPT)}: they keep {100 * promise['saving kept']:.0f} % of the saving "
        f"of the setting that is best for all the captions; bar {100 * SAVING_KEPT:g} %",
    ]


def report(results: Mapping[str, Any], given: argparse.Namespace) -> str:
    """The results as markdown."""
    settings = [
        [name, "refused", "refused"]
        if each is None
        else [name, f"{each['quantile']:g}", NONE if each["threshold"] is None else f"{each['threshold']:.4g}"]
        for name, each in results["settings"].items()
    ]
    rows = [
        [
            name,
            f"{row['steps']:.1f}",
            f"{1000 * row['seconds']:.0f}",
            f"{row['ssim']:.3f}",
            _share(row["met"]),
            _share(row["aligned"]),
            f"{row['frechet'][0]:.2f} ({row['frechet'][1]:.2f} to {row['frechet'][2]:.2f})",
        ]
        for name, row in results["arms"].items()
    ]
    rows += [
        [name, f"{steps:.1f}", NONE, f"{alike:.3f}", NONE, NONE, NONE]
        for name, (steps, alike) in results["oracles"].items()
    ]
    return "\n\n".join(
        [
            "# Adaptive diffusion",
            ", ".join(f"{name}: {value}" for name, value in results["machine"].items()),
            f"`{given.model}` on {given.device}, {results['images']:,} images of {results['captions']:,} captions an "
            f"arm in batches of {given.batch}. Contract: {results['contract']} of new prompts.",
            as_table(
                ["", "steps", "ms an image", "SSIM to 50 steps", "contract met", "aligned", "Fréchet distance"], rows
            ),
            "\n".join(f"- {verdict}" for verdict in results["verdicts"]),
            "![steps against the contract](diffusion.svg)",
            "Lines: Euler blue, DPM-Solver++ ochre. Points: predictor alone violet, `converge` alone green, both red.",
            "![contact sheet](diffusion_sheet.png)",
            "Settings, chosen on captions of the part `contract`:",
            as_table(["", "quantile", "threshold"], settings),
        ]
    )


def _share(values: Sequence[float]) -> str:
    point, low, high = values
    return f"{100 * point:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _kept(holds: bool) -> str:
    return "kept" if holds else "MISSED"


def draw_plot(results: Mapping[str, Any]) -> str:
    """Mean steps against the share that meets the contract: lines of the static arms, points of the others."""
    arms: Mapping[str, Any] = results["arms"]
    x = around([row["steps"] for row in arms.values()], "mean steps", plain, 0)
    y = around([row["met"][0] for row in arms.values()], "share of images that meet the contract", per_cent, 0, 1)
    plot = Plot("diffusion", "steps against the contract", "", x, y)
    for solver, kind in ((EULER, "euler"), (MULTISTEP, "multistep")):
        own = [row for name, row in arms.items() if name.startswith(solver)]
        plot.line(sorted((row["steps"], row["met"][0]) for row in own), kind)
    for name in (PREDICT, CONVERGE, BOTH):
        if name in arms:
            plot.mark(arms[name]["steps"], arms[name]["met"][0], name.split()[0])
    style = (
        "text{font:12px system-ui,sans-serif;fill:#57606a}.grid{stroke:#d0d7de}.euler{stroke:#1f6feb;fill:none}"
        ".multistep{stroke:#bf8700;fill:none}.predictor{fill:#8250df}.converge{fill:#1a7f37}.both{fill:#cf222e}"
    )
    size = 'width="460" height="330"'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 460 330" style="background:#fff">'
        f"<style>{style}</style>{plot.svg().replace('<svg ', f'<svg {size} ', 1)}</svg>\n"
    )


if __name__ == "__main__":
    main()
