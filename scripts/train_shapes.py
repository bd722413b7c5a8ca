"""Train the shapes' text-to-image model that dynflow ships: about an hour on two cores, minutes on a GPU.

    python scripts/train_shapes.py --out shapes --device cpu

Kill it when you like: the same command goes on where it stopped, to as many `--steps` as it says by then. `--out` holds
the data, `state.pt`, `log.jsonl`, sampled pictures and `pipeline/`, which is what is shipped. The rate falls to nothing
over the last half of the steps, so a run to its end is better than its last checkpoint was. `--start` teaches a
pipeline that such a run has made further; `--steps` then counts the further steps.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from numpy.typing import NDArray
from PIL import Image
from shapes_card import measure, sample, write_card
from shapes_data import Captioned, prepare
from torch import Tensor
from tqdm import tqdm

from dynflow.learning.precision import half_precision
from dynflow.nodes.adaptive_diffusion.shapes.oracle import alignment
from dynflow.nodes.adaptive_diffusion.shapes.pipeline import ShapesPipeline
from dynflow.nodes.adaptive_diffusion.shapes.scenes import draw_captions
from dynflow.nodes.adaptive_diffusion.shapes.transformer import ShapesTransformer

UNTOLD = 0.1
"""The share of pictures that the model sees under the empty caption, for guidance."""
NOISE = (0.3, 1.1)
"""Mean and standard deviation of the noise level's logit: most of what a picture shows is decided while it is noisy."""
LEAST_DIVISOR = 0.05
WARM_UP, DECAY = 200, 0.5
EMA = 0.999
SHIFT = 2.0
"""Of the pipeline's schedule: above 1, steps lie closer where a picture is noisy. `shapes_card.py` measures which."""


class Training:
    """Model, its moving average and the optimisers: all that a checkpoint holds."""

    def __init__(self, model: ShapesTransformer, device: str, steps: int) -> None:
        self.device, self.steps, self.step = device, steps, 0
        self.model = model.to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        named = dict(self.model.named_parameters())
        inner = {name for name, value in named.items() if "blocks." in name and name.endswith("weight")}
        self.optimisers: list[torch.optim.Optimizer] = [
            # orthogonal steps for the blocks' matrices (Muon, as PyTorch has it), Adam's for all else
            torch.optim.Muon(
                [named[name] for name in sorted(inner)], lr=2e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(
                [named[name] for name in sorted(named.keys() - inner)], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0
            ),
        ]
        self.rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]

    def learn(self, pictures: Tensor, context: Tensor, mask: Tensor) -> float:
        """One step on pictures [batch, 3, 32, 32] from -1 to 1; returns the loss."""
        rate = min(1.0, (self.step + 1) / WARM_UP, (self.steps - self.step) / (DECAY * self.steps))
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        for group, full in zip(groups, self.rates, strict=True):
            group["lr"] = full * rate
        sigma = torch.sigmoid(torch.randn(len(pictures), device=self.device) * NOISE[1] + NOISE[0])
        level = sigma[:, None, None, None]
        noisy = torch.lerp(pictures, torch.randn_like(pictures), level)
        with half_precision(self.device):
            clean = self.model.predict_clean(noisy, sigma, context, mask)
        loss = ((clean - pictures) / level.clamp(min=LEAST_DIVISOR)).square().mean()  # the velocity's squared error
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.step += 1
        kept = min(EMA, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1 - kept)
        return loss.item()

    def save(self, path: Path) -> None:
        """Write the checkpoint whole or not at all."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)

    def pipeline(self) -> ShapesPipeline:
        """The averaged model, ready to draw."""
        pipeline = ShapesPipeline(self.average.eval(), FlowMatchEulerDiscreteScheduler(shift=SHIFT))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def begun(pipeline: Path | None) -> ShapesTransformer:
    """The model of a pipeline in this folder; one with fresh weights, if there is none."""
    if pipeline is None:
        return ShapesTransformer()
    held: ShapesTransformer = ShapesTransformer.from_pretrained(pipeline / "transformer", torch_dtype=torch.float32)
    told = {name: value for name, value in held.config.items() if not name.startswith("_")}
    model: ShapesTransformer = ShapesTransformer(**told)
    model.load_state_dict(held.state_dict())  # a model anew: the other's configuration names the folder it is from
    return model


def described(pipeline: Path) -> str:
    """What a pipeline was, for the card of one that was begun with it."""
    weights = (pipeline / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    return f"the weights of SHA-256 {hashlib.sha256(weights).hexdigest()[:16]}…"


def batch(data: Captioned, rng: np.random.Generator, size: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures by lot with their token states and mask; some under the empty caption."""
    rows = rng.integers(len(data.pictures), size=size)
    texts = np.where(rng.random(size) < UNTOLD, 0, data.text[rows])
    pictures = torch.from_numpy(data.pictures[rows]).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    context, mask = data.context(texts)
    return pictures, torch.from_numpy(context).to(device), torch.from_numpy(mask).to(device)


def write_sheet(images: NDArray[Any], path: Path, columns: int = 12, zoom: int = 3) -> None:
    """The pictures side by side in one PNG."""
    rows = -(-len(images) // columns)
    sheet = np.full((rows * 34, columns * 34, 3), 0.5, np.float32)
    for index, image in enumerate(images):
        y, x = 34 * (index // columns) + 1, 34 * (index % columns) + 1
        sheet[y : y + 32, x : x + 32] = image
    whole = Image.fromarray(np.rint(sheet * 255).astype(np.uint8))
    whole.resize((whole.width * zoom, whole.height * zoom), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Train, look in on the way, write the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("shapes"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--look", type=int, default=500, help="steps between two looks at held-out captions")
    parser.add_argument("--captions", type=int, default=500, help="how many the model card's figures are taken on")
    parser.add_argument("--start", type=Path, help="folder of a pipeline whose weights are taught further")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    data = prepare(out / "data", arguments.pictures)
    torch.manual_seed(0)
    model = begun(arguments.start)
    training = Training(model, arguments.device, arguments.steps)
    if (out / "state.pt").exists():
        training.resume(out / "state.pt")
    held_out = draw_captions(96, "predictor", seed=1)
    prompts = [caption.text() for caption in held_out]
    losses: list[float] = []
    started = time.monotonic()
    bar = tqdm(total=arguments.steps, initial=training.step, desc="training", mininterval=5)
    while training.step < arguments.steps:
        torch.manual_seed(training.step)  # a step is the same whether the run was broken off before it or not
        rng = np.random.default_rng(training.step)
        losses.append(training.learn(*batch(data, rng, arguments.batch, arguments.device)))
        bar.update()
        bar.set_postfix(loss=f"{np.mean(losses[-100:]):.4f}", refresh=False)
        if training.step % 100 == 0:
            training.save(out / "state.pt")
        if training.step % arguments.look == 0 or training.step == arguments.steps:
            images = sample(training.pipeline(), prompts, steps=20)
            write_sheet(images, out / "sheet.png")
            seen = {
                "step": training.step,
                "loss": float(np.mean(losses)),
                "alignment": float(alignment(images, held_out).mean()),
                "seconds": round(time.monotonic() - started),
            }
            losses.clear()
            tqdm.write(json.dumps(seen))
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(seen) + "\n")
    training.save(out / "state.pt")
    recipe = {
        **({"begun with": described(arguments.start)} if arguments.start else {}),
        "steps": training.step,
        "pictures a step": arguments.batch,
        "pictures": arguments.pictures,
        "under the empty caption": UNTOLD,
        "optimisers": "Muon at 2e-3 and AdamW at 1e-3; the rate falls to 0 over the last half",
        "moving average": EMA,
        "noise level": f"logit-normal, {NOISE[0]} and {NOISE[1]}",
        "parameters": f"{sum(value.numel() for value in training.model.parameters()):,}",
    }
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    training.pipeline().to(torch.float16).save_pretrained(out / "pipeline")
    write_card(out / "pipeline", measure(out / "pipeline", arguments.captions, "test"), recipe)


if __name__ == "__main__":
    main()
