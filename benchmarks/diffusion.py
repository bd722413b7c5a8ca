"""Adaptive diffusion against static step counts, on captions that neither model, predictor nor contract has seen.

    python benchmarks/diffusion.py --predictor FOLDER [--model embedded/shapes] [--finish 5] [--captions 500]
                                   [--seeds 2] [--contract 500] [--oracle 150] [--batch 16] [--device cpu]
                                   [--threads 1] [--draws 500] [--work diffusion-work] [--out benchmarks/results]

All arms draw the same captions from the same noise: static counts of Euler and of a multistep solver (DPM-Solver++ of
second order, over the same flow), also over schedules of other shifts, the predictor alone, `converge` alone, and both.
`converge` finishes in `--finish` longer steps (0: it keeps the clean image). The deciders are set as `dynflow
calibrate` sets them for the contract, on captions of the part "contract", where the predictor was made from others; the
arm that is judged is the one that took the fewest steps there. The oracles know each image's outcome under every
recorded plan and stop, on the first `--oracle` captions. Images wait in windows of 128 and are drawn `--batch` at a
time, the arms in turn; arms that draw alike share what is drawn.

What is recorded and drawn is kept in `--work`: a run that is broken off goes on. It says beforehand about how long it
takes. Alignment is read from the pixels by the shapes' oracle, the Fréchet distance is to as many fresh pictures,
intervals are 95 % over captions by the bootstrap. The bars were set before anything was drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusion_arms import REFERENCE, Arm, Pictures, Studio
from diffusion_bars import of_promise, verdicts
from diffusion_figures import Resampling, Setting, calibrated, judge, oracle, promises, summary
from diffusion_report import BOTH, CONVERGE, EULER, MULTISTEP, PREDICT, SHIFTED, draw_plot, report
from diffusion_sheet import easy_and_hard, write_sheet
from machine import machine

from dynflow.cli.progress import duration, progress_bars
from dynflow.models.settings import ModelSettings
from dynflow.nodes.adaptive_diffusion.contract import tries
from dynflow.nodes.adaptive_diffusion.pipelines import loaded, located
from dynflow.nodes.adaptive_diffusion.predictor import WHOLE, Contract, Predictor, describe
from dynflow.nodes.adaptive_diffusion.recording import model_digest, record, seed_of
from dynflow.nodes.adaptive_diffusion.recordings import About
from dynflow.nodes.adaptive_diffusion.shapes.captions import Caption, Part
from dynflow.nodes.adaptive_diffusion.shapes.features import features_of
from dynflow.nodes.adaptive_diffusion.shapes.scenes import draw_captions, draw_images

COUNTS = {EULER: (100, 50, 30, 20, 10), MULTISTEP: (50, 30, 20, 10)}
SHIFTS, SHIFTED_COUNTS = (1.0, 2.0, 3.0), (20, 10)
AT_LEAST, SHARE, CONFIDENCE = 0.9, 0.95, 0.9
SHEET = 6
SHEET_COUNTS = (10, 20, 50, 100)


def main(command: Sequence[str] | None = None) -> None:
    """Draw, judge, print and write the results."""
    given = arguments(command)
    torch.set_num_threads(given.threads)
    settings = ModelSettings(provider="diffusers", model=given.model, device=given.device)
    predictor = Predictor(describe(given.predictor))
    contract = Contract("ssim", REFERENCE, AT_LEAST, SHARE, WHOLE, finish=given.finish)
    captions = different(given.captions, "test", seed=21)
    prompts = list(captions)
    owner = np.repeat(np.arange(len(prompts)), given.seeds)
    images = [(prompt, seed_of(prompt, place)) for prompt in prompts for place in range(given.seeds)]
    asked = [captions[prompt] for prompt, _ in images]
    work = given.work / model_digest(settings, None)[:12]
    work.mkdir(parents=True, exist_ok=True)
    pipeline = loaded(located(settings, None), None).pipeline
    studio = Studio(pipeline, predictor, images, work, given.batch)
    predictor.warm_up()
    plain = [*static(COUNTS), *shifted(pipeline, SHIFTED_COUNTS)]
    about = About(settings.model, "", predictor.facts.counts, given.finish)
    foretell(studio, plain, about.calls * (given.contract + min(given.oracle, len(prompts)) * given.seeds))
    with progress_bars() as progress:
        held = {"counts": predictor.facts.counts, "finish": given.finish}
        chosen_on = record(
            settings,
            list(different(given.contract, "contract", seed=22)),
            work / f"contract-{given.finish}.jsonl",
            seeds=1,
            progress=lambda done, total, what: progress(done, total, f"contract: {what}"),
            **held,
        )
        tried = tries(chosen_on, predictor, contract)
        settings_of = {
            name: calibrated(tried, contract.share, CONFIDENCE, alone)
            for name, alone in ((BOTH, None), (CONVERGE, "converge"), (PREDICT, "predict"))
        }
        told = adaptive(settings_of, given.finish)
        best = min(told, key=lambda arm: arm.calls)
        known = record(
            settings,
            prompts[: given.oracle],
            work / f"oracle-{given.finish}.jsonl",
            seeds=given.seeds,
            progress=lambda done, total, what: progress(done, total, f"oracle: {what}"),
            **held,
        )
        drawn = studio.draw_all([*plain, *told], progress)
        equal = math.ceil(drawn[best.name].taken.mean())
        matched = [*static({EULER: [equal], MULTISTEP: [equal]}), *shifted(pipeline, [equal])]
        drawn |= studio.draw_all([arm for arm in matched if arm.name not in drawn], progress)
        stopping = next((arm for arm in told if arm.threshold is not None), None)
        waits = {} if stopping is None else studio.waiting(alone(stopping), images, given.rounds)
    reference = drawn[f"{EULER} {REFERENCE}"]
    judged = {name: judge(pictures, reference, asked) for name, pictures in drawn.items()}
    fresh = features_of(draw_images(draw_captions(len(images), "test", seed=23), range(len(images))))
    resampling = Resampling.of(owner, given.draws)
    rows = {name: summary(each, resampling, fresh, contract.at_least) for name, each in judged.items()}
    oracles = {
        name: [float(values.mean()) for values in oracle(known, contract.at_least, together)]
        for name, together in (("oracle per prompt", True), ("oracle per image", False))
    }
    promise = promises(tried, contract.share, CONFIDENCE, given.draws)
    taken = float(judged[best.name].steps[: len(known.owner)].mean())
    found = verdicts(
        judged, rows, resampling, waits, [arm.name for arm in matched], best.name, contract, (taken, oracles)
    )
    found += of_promise(promise, CONFIDENCE)
    results = {
        "machine": machine(["dynflow", "torch", "diffusers"]),
        "model": given.model,
        "shift": float(pipeline.scheduler.config.shift),
        "contract": str(contract),
        "images": len(images),
        "captions": len(prompts),
        "judged": best.name,
        "settings": {name: each and asdict(each) for name, each in settings_of.items()},
        "arms": {
            name: {key: value for key, value in row.items() if key != "frechet draws"} for name, row in rows.items()
        },
        "known": len(known.owner),
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
        needed = oracle(known, contract.at_least, together=False)[0]
        firsts = np.arange(0, len(needed), given.seeds)
        shown = [int(firsts[place]) for place in easy_and_hard(needed[firsts], SHEET)]
        write_sheet(
            given.out / "diffusion_sheet.png",
            [prompt for prompt, _ in images],
            {**columns, "adaptive": drawn[best.name]},
            shown,
        )


def arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded/shapes")
    parser.add_argument("--predictor", required=True, help="what `dynflow train steps` wrote")
    parser.add_argument("--finish", type=int, default=5, help="longer steps that end what `converge` stops; 0: none")
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=2, help="images of each caption")
    parser.add_argument("--contract", type=int, default=500, help="captions that the settings are chosen on")
    parser.add_argument("--oracle", type=int, default=150, help="captions of which every plan and stop is known")
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


def static(counts: Mapping[str, Sequence[int]]) -> list[Arm]:
    """Solvers at these counts, over the pipeline's own schedule."""
    return [
        *(Arm(f"{EULER} {count}", "Euler", count) for count in counts[EULER]),
        *(Arm(f"{MULTISTEP} {count}", "DPM-Solver++", count) for count in counts[MULTISTEP]),
    ]


def shifted(pipeline: object, counts: Sequence[int]) -> list[Arm]:
    """Euler at these counts over schedules of other shifts than the pipeline's own."""
    own = pipeline.scheduler.config.shift  # type: ignore[attr-defined]
    others = [shift for shift in SHIFTS if shift != own]
    return [
        Arm(f"{EULER} {count}{SHIFTED}{shift:g}", "Euler", count, shift=shift) for shift in others for count in counts
    ]


def adaptive(settings: Mapping[str, Setting | None], finish: int) -> list[Arm]:
    """The arms that the calibration did not refuse. Raises SystemExit where it refused all."""
    found = [
        Arm(
            name,
            quantile=None if each.quantile == WHOLE else each.quantile,
            threshold=each.threshold,
            finish=0 if each.threshold is None else finish,
            expected=each.steps,
        )
        for name, each in settings.items()
        if each is not None
    ]
    if not found:
        raise SystemExit(
            "no setting is shown to keep the contract: give more --contract captions, or another predictor"
        )
    return found


def alone(arm: Arm) -> Arm:
    """Its `converge`, on whole plans."""
    return Arm("waiting", threshold=arm.threshold, finish=arm.finish)


def foretell(studio: Studio, arms: Sequence[Arm], recorded: int) -> None:
    """Say about how long it takes where nothing is kept yet, at the pace of one batch."""
    pace = Arm("pace", steps=8)
    studio.draw(Arm("warm up", steps=2), studio.images[: studio.batch])
    began = time.perf_counter()
    studio.draw(pace, studio.images[: studio.batch])
    each = (time.perf_counter() - began) / (pace.steps * min(studio.batch, len(studio.images)))
    calls = recorded + studio.calls(arms)
    print(
        f"about {calls:,} calls of the denoiser and those of the adaptive arms: {duration(calls * each)} at "
        f"{1000 * each:.1f} ms a call, less what is recorded already in {studio.folder}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
