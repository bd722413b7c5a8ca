"""The denoiser that needs no training: exact for a finite set of pictures.

Where every picture is one of N, the expected clean picture behind a noisy one is their mean, weighted by how likely
each is to have become it under Gaussian noise. It stands where ShapesTransformer does, so that whatever runs a pipeline
can be tried on true diffusion in milliseconds, without weights.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dynflow.models.encoder import Encoder
from dynflow.nodes.adaptive_diffusion.shapes.captions import Caption
from dynflow.nodes.adaptive_diffusion.shapes.pipeline import ShapesPipeline
from dynflow.nodes.adaptive_diffusion.shapes.scenes import SIDE, draw_images
from dynflow.nodes.adaptive_diffusion.shapes.transformer import LEAST_SIGMA


class ExactDenoiser(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own bases disagree
    """Called as ShapesTransformer is. A prompt means the pictures of the caption it is nearest to; "" means all."""

    pictures: Tensor
    owners: Tensor
    meanings: Tensor

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, num_pictures: int, num_captions: int, sample_size: int = SIDE, in_channels: int = 3, max_context: int = 64
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.register_buffer("pictures", torch.zeros(num_pictures, in_channels * sample_size**2))
        self.register_buffer("owners", torch.zeros(num_pictures, dtype=torch.long))
        self.register_buffer("meanings", torch.zeros(num_captions + 1, 384))

    @classmethod
    def of(cls, captions: Sequence[Caption], *, pictures: int = 16, seed: int = 0) -> ExactDenoiser:
        """The denoiser over `pictures` pictures of each caption, by lot. Raises NoRoom as `draw_images`."""
        each = [caption for caption in captions for _ in range(pictures)]
        rng = random.Random(seed)
        drawn = draw_images(each, [rng.getrandbits(32) for _ in each])
        exact: ExactDenoiser = cls(len(each), len(captions))
        exact.pictures.copy_(torch.from_numpy(drawn).permute(0, 3, 1, 2).flatten(1) * 2 - 1)
        exact.owners.copy_(torch.arange(len(captions)).repeat_interleave(pictures))
        states = Encoder.shared().tokens([*(caption.text() for caption in captions), ""])
        exact.meanings.copy_(torch.from_numpy(np.stack([state.mean(0) for state in states])))
        return exact

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The exact velocity; arguments as ShapesTransformer's."""
        sigma = (timestep.float() / 1000).expand(hidden_states.shape[0]).clamp(min=LEAST_SIGMA)[:, None]
        kept = encoder_attention_mask.to(encoder_hidden_states.dtype)[..., None]
        meaning = (encoder_hidden_states * kept).sum(1) / kept.sum(1)
        nearest = torch.cdist(meaning.float(), self.meanings.float()).argmin(1)[:, None]
        possible = (nearest == self.owners) | (nearest == len(self.meanings) - 1)
        noisy, pictures = hidden_states.float().flatten(1), self.pictures.float()
        # the square of (noisy - (1 - sigma) picture), but for what all pictures share
        away = (1 - sigma) ** 2 * pictures.square().sum(1) - 2 * (1 - sigma) * (noisy @ pictures.T)
        likely = (-away / (2 * sigma**2)).masked_fill(~possible, float("-inf")).softmax(1)
        velocity = ((noisy - likely @ pictures) / sigma).view_as(hidden_states).to(hidden_states.dtype)
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)


def exact_pipeline(captions: Sequence[Caption], *, pictures: int = 16, seed: int = 0) -> ShapesPipeline:
    """A whole pipeline over the exact denoiser, for tests."""
    denoiser = ExactDenoiser.of(captions, pictures=pictures, seed=seed)
    pipeline = ShapesPipeline(denoiser, FlowMatchEulerDiscreteScheduler())  # type: ignore[no-untyped-call]
    pipeline.set_progress_bar_config(disable=True)  # type: ignore[no-untyped-call]
    return pipeline
