"""Measure a trained shapes' pipeline and write its model card: a quarter of an hour on one core.

    python scripts/shapes_card.py shapes/pipeline --captions 500

What it says of schedules chooses `SHIFT` in `train_shapes.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from tqdm import tqdm

from dynflow.nodes.adaptive_diffusion.shapes.captions import COLOURS, SHAPES, Caption, Part
from dynflow.nodes.adaptive_diffusion.shapes.metrics import ssim
from dynflow.nodes.adaptive_diffusion.shapes.oracle import alignment
from dynflow.nodes.adaptive_diffusion.shapes.pipeline import GUIDANCE, ShapesPipeline
from dynflow.nodes.adaptive_diffusion.shapes.scenes import draw_captions

COUNTS = (5, 10, 20, 50)
SHIFTS, SHIFTED_COUNTS = (1.0, 2.0, 3.0), (10, 20, 50)
TRUE_COUNT = 200
"""Steps of the schedule without a shift, as all schedules come to when they have steps enough."""
SHIFTED_SHARE = 0.25
"""Of the captions, for what is measured by schedule."""


def sample(
    pipeline: ShapesPipeline, prompts: list[str], steps: int, guidance: float = GUIDANCE, size: int = 32
) -> NDArray[Any]:
    """A picture for each prompt, the same noise for the same place in the list: [prompts, 32, 32, 3] from 0 to 1."""
    images = []
    for start in range(0, len(prompts), size):
        several = prompts[start : start + size]
        generators = [torch.Generator().manual_seed(start + index) for index in range(len(several))]
        drawn = pipeline(several, steps, guidance_scale=guidance, generator=generators, output_type="np")
        images.append(drawn.images)
    return np.concatenate(images)


def measure(folder: Path, captions: int, part: Part, guidance: float = GUIDANCE) -> dict[str, Any]:
    """Alignment and similarity to the picture of 50 steps, at each of COUNTS, on captions of a part held out."""
    pipeline = ShapesPipeline.from_pretrained(folder, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    asked = draw_captions(captions, part, seed=2)
    prompts = [caption.text() for caption in asked]
    images = {steps: sample(pipeline, prompts, steps, guidance) for steps in tqdm(COUNTS, desc="measuring")}
    easy = np.array([caption.least == 1 for caption in asked])
    rows = []
    for steps, drawn in images.items():
        right, alike = alignment(drawn, asked), ssim(drawn, images[COUNTS[-1]])
        rows.append(
            {
                "steps": steps,
                "alignment": float(right.mean()),
                "one object": float(right[easy].mean()),
                "several": float(right[~easy].mean()),
                "ssim": float(alike.mean()),
                "alike": float((alike >= 0.9).mean()),
            }
        )
    few = slice(max(1, round(SHIFTED_SHARE * captions)))
    by_shift = measure_shifts(pipeline, asked[few], guidance)
    return {"captions": captions, "part": part, "guidance": guidance, "rows": rows, "shifts": by_shift}


def measure_shifts(pipeline: ShapesPipeline, asked: Sequence[Caption], guidance: float) -> list[dict[str, Any]]:
    """Alignment by shift of the schedule and steps, and similarity to the shift's own 50 steps and to what all
    schedules come to: a schedule is not praised for being like itself."""
    prompts = [caption.text() for caption in asked]
    own = pipeline.scheduler

    def drawn(shift: float, steps: int) -> NDArray[Any]:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(own.config, shift=shift)
        return sample(pipeline, prompts, steps, guidance)

    try:
        asked_for = [(shift, steps) for shift in SHIFTS for steps in SHIFTED_COUNTS]
        true = drawn(1.0, TRUE_COUNT)
        images = {each: drawn(*each) for each in tqdm(asked_for, desc="schedules")}
    finally:
        pipeline.scheduler = own
    return [
        {
            "shift": shift,
            "steps": steps,
            "captions": len(asked),
            "alignment": float(alignment(found, asked).mean()),
            "ssim": float(ssim(found, images[shift, SHIFTED_COUNTS[-1]]).mean()),
            "ssim to the true": float(ssim(found, true).mean()),
        }
        for (shift, steps), found in images.items()
    ]


def write_card(folder: Path, measured: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """`README.md` in the pipeline's folder."""
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    rows = "\n".join(
        f"| {row['steps']} | {row['alignment']:.1%} | {row['one object']:.1%} | {row['several']:.1%} | "
        f"{row['ssim']:.3f} | {row['alike']:.1%} |"
        for row in measured["rows"]
    )
    shifts = "\n".join(
        f"| {row['shift']:g} | {row['steps']} | {row['alignment']:.1%} | {row['ssim']:.3f} | "
        f"{row['ssim to the true']:.3f} |"
        for row in measured["shifts"]
    )
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    how = "\n".join(f"| {name} | {value} |" for name, value in recipe.items())
    (folder / "README.md").write_text(
        f"""# Shapes: a small text-to-image model

Draws one to four shapes ({", ".join(SHAPES)}) in {len(COLOURS)} colours ({", ".join(COLOURS)}), small or
large, at a place, one group above, below or beside another, on a dark or a light background: 32 by 32 pixels. Its
purpose is to be a true diffusion model, quick and without a download, whose pictures can be checked. It knows nothing
else: other prompts give pictures of shapes. Written by `scripts/train_shapes.py`; do not edit by hand.

**Made of**: a diffusion transformer on pixels, {config["num_layers"]} blocks of width {config["width"]}, patches of
{config["patch_size"]} pixels, cross-attention to the token states of the MiniLM that dynflow ships; rectified flow.
Float16, {weights.stat().st_size / 1e6:.1f} MB, SHA-256 `{hashlib.sha256(weights.read_bytes()).hexdigest()}`.

**Trained on** pictures that the script draws, under captions whose hash puts them in the part "train"; no other data.

| recipe | |
|---|---|
{how}

**Figures** on {measured["captions"]} captions of the part "{measured["part"]}", which training did not see, a seed
each, guidance {measured["guidance"]:g}. Aligned: the oracle reads from the pixels all that the caption asks for, and no
object besides. SSIM is to the picture of {COUNTS[-1]} steps from the same noise.

| steps | aligned | of one object | of several | mean SSIM | SSIM of 0.9 or more |
|---|---|---|---|---|---|
{rows}

**Schedules** on {measured["shifts"][0]["captions"]} of these captions; the pipeline's own has shift
{schedule["shift"]:g}. SSIM is to the picture of {SHIFTED_COUNTS[-1]} steps of the same shift, and to that of
{TRUE_COUNT} without one, which every schedule comes to.

| shift | steps | aligned | SSIM to {SHIFTED_COUNTS[-1]} | SSIM to {TRUE_COUNT} |
|---|---|---|---|---|
{shifts}
""",
        encoding="utf-8",
    )


def main() -> None:
    """Measure, and write the card where the recipe lies beside the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("--captions", type=int, default=500)
    parser.add_argument("--part", choices=("predictor", "test"), default="test")
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    arguments = parser.parse_args()
    measured = measure(arguments.pipeline, arguments.captions, arguments.part, arguments.guidance)
    for row in (*measured["rows"], *measured["shifts"]):
        print(json.dumps(row))
    recipe = arguments.pipeline.parent / "recipe.json"
    if recipe.exists() and arguments.guidance == GUIDANCE and arguments.part == "test":
        write_card(arguments.pipeline, measured, json.loads(recipe.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
