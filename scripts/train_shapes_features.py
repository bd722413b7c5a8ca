"""Train the classifier in whose features pictures of shapes are compared: minutes on one core.

    python scripts/train_shapes_features.py --out nodes/adaptive_diffusion/shapes/classifier

It sees pictures of training captions only, and tells what it gets right on others.
"""

from __future__ import annotations

import argparse
import contextlib
import random
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from dynflow.nodes.adaptive_diffusion.shapes.captions import Part
from dynflow.nodes.adaptive_diffusion.shapes.features import ShapesFeatures, targets
from dynflow.nodes.adaptive_diffusion.shapes.scenes import NoRoom, Scene, draw_captions, draw_scene, render


def draw(number: int, part: Part, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """About so many pictures [number, 3, 32, 32], and what they hold."""
    rng, scenes = random.Random(seed), list[Scene]()
    for caption in tqdm(draw_captions(number, part, seed), desc=f"pictures, {part}"):
        with contextlib.suppress(NoRoom):
            scenes.append(draw_scene(caption, rng, restarts=20))
    pictures = torch.from_numpy(np.stack([render(scene) for scene in scenes])).permute(0, 3, 1, 2).contiguous()
    return pictures, torch.from_numpy(np.stack([targets(scene) for scene in scenes]))


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    pictures, held = draw(arguments.pictures, "train", seed=10)
    model = ShapesFeatures()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, arguments.steps)
    for _ in tqdm(range(arguments.steps), desc="training"):
        rows = torch.randint(len(pictures), (128,))
        seen = pictures[rows] + 0.02 * torch.randn(128, 3, 32, 32)
        loss = functional.mse_loss(model(seen)[1], held[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    fresh, truth = draw(2000, "predictor", seed=11)
    with torch.inference_mode():
        right = (model(fresh)[1].round() == truth).float().mean(0)
    print(f"right on pictures of unseen captions: {right.mean():.3f} (worst of what it tells: {right.min():.3f})")
    model.save_pretrained(arguments.out)
    (arguments.out / "README.md").write_text(
        f"""# A classifier of pictures of shapes

Its {model.config.num_features} features are what the Fréchet distance between two sets of pictures is taken in.
Written by `scripts/train_shapes_features.py`; do not edit by hand.

Trained for {arguments.steps:,} steps on {len(pictures):,} pictures that the script draws, under captions of the part
"train", to tell how many objects of each shape, colour and size a picture holds, how many lie in each of 16 cells, and
whether the background is light. On pictures of captions of another part, {right.mean():.1%} of what it tells is right.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
