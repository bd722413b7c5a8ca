"""Latents made visible by their own pipeline, wherever in a run they were taken."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.nodes.adaptive_diffusion.finishing import begin_with
from dynflow.nodes.adaptive_diffusion.steering import Steering

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from dynflow.nodes.adaptive_diffusion.drawing import Look

_STEPS = 2
"""Of the run that takes none: some schedulers refuse to plan a single one."""
_AT_ONCE = 8
"""Images: decoding takes more memory than denoising."""


def decode(pipeline: Any, latents: torch.Tensor, look: Look) -> NDArray[np.float32]:
    """What `pipeline` makes of latents [n, …], as its `output_type="latent"` gives them: [n, height, width, 3], 0…1.

    A pipeline knows best how its latents are unpacked, scaled and decoded, and has no method for it: it is run on
    copies of itself and of its scheduler that take no step, and begin with these latents.
    """
    if getattr(pipeline, "vae", None) is None:  # in pixel space
        return np.asarray(pipeline.image_processor.postprocess(latents, output_type="np"), np.float32)
    parts = (latents[start : start + _AT_ONCE] for start in range(0, len(latents), _AT_ONCE))
    return np.concatenate([_decoded(pipeline, part, look) for part in parts])


def _decoded(pipeline: Any, latents: torch.Tensor, look: Look) -> NDArray[np.float32]:
    own = copy.copy(pipeline)
    own.set_progress_bar_config(disable=True)
    steering = Steering(own, [()] * len(latents), lambda: None)
    steering.ended = True
    more = begin_with(own, latents)
    size = {"width": look.width, "height": look.height}
    try:
        result = own(
            prompt=[""] * len(latents),
            num_inference_steps=_STEPS,
            output_type="np",
            **more,
            **{name: value for name, value in size.items() if value is not None},
        )
    finally:
        steering.release()
    return np.asarray(result.images, np.float32)
