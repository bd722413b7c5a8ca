"""A small classifier of pictures of shapes, whose features are what the Fréchet distance between two sets is taken in.

It learns how many objects of each kind a picture holds and where; `scripts/train_shapes_features.py` trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from dynflow.nodes.adaptive_diffusion.shapes.captions import COLOURS, SHAPES, SIZES
from dynflow.nodes.adaptive_diffusion.shapes.scenes import SIDE, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHIPPED_FEATURES = Path(__file__).parent / "classifier"
_CELLS = 4
_BATCH = 256


class ShapesFeatures(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own bases disagree
    """Convolutions, then a layer of `features`, then what the picture holds as `targets` tells it."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, width: int = 24, num_features: int = 64) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()),
            *(nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.ReLU()),
            *(nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.ReLU()),
        )
        self.features = nn.Linear(2 * width * (SIDE // 8) ** 2, num_features)
        self.holds = nn.Linear(num_features, len(SHAPES) + len(COLOURS) + len(SIZES) + _CELLS**2 + 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features [pictures, features] of pictures [pictures, 3, 32, 32] from 0 to 1, and estimates of `targets`."""
        features: Tensor = self.features(self.convolutions(pictures * 2 - 1).flatten(1))
        return features, self.holds(features.relu())


def targets(scene: Scene) -> NDArray[np.float32]:
    """How many objects are of each shape, colour and size and in each of 16 cells, and whether the ground is light."""
    counts = [sum(each.shape == name for each in scene.shapes) for name in SHAPES]
    counts += [sum(each.colour == name for each in scene.shapes) for name in COLOURS]
    counts += [sum(each.size == name for each in scene.shapes) for name in SIZES]
    cells = np.zeros((_CELLS, _CELLS))
    for each in scene.shapes:
        cells[int(each.y * _CELLS / SIDE), int(each.x * _CELLS / SIDE)] += 1
    return np.array([*counts, *cells.flat, scene.background == "light"], np.float32)


def features_of(images: NDArray[np.floating], folder: Path = SHIPPED_FEATURES) -> NDArray[np.float32]:
    """Features [pictures, 64] of pictures [pictures, 32, 32, 3] from 0 to 1, by the classifier in `folder`."""
    model = ShapesFeatures.from_pretrained(folder, use_safetensors=True)
    pictures = torch.from_numpy(np.ascontiguousarray(images, np.float32)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        starts = range(0, len(pictures), _BATCH)
        return np.concatenate([model(pictures[start : start + _BATCH])[0].numpy() for start in starts])
