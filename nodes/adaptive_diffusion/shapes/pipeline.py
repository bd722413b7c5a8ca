"""The shapes' text-to-image pipeline: a diffusers pipeline like any other, in pixel space.

    pipeline = ShapesPipeline.from_pretrained(SHIPPED)
    image = pipeline("two red circles above a blue square", num_inference_steps=20).images[0]

Token states come from the encoder that dynflow ships, so that a saved pipeline holds the transformer and the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dynflow.models.encoder import Encoder
from dynflow.nodes.adaptive_diffusion.shapes.captions import bare
from dynflow.nodes.adaptive_diffusion.shapes.transformer import ShapesTransformer

SHIPPED = Path(__file__).parent / "artefact"
GUIDANCE = 3.0

StepEnd = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


class ShapesPipeline(DiffusionPipeline):
    """Draws shapes, 32 by 32, from prompts. `transformer` may be any that is called as ShapesTransformer is."""

    model_cpu_offload_seq = "transformer"  # type: ignore[assignment]
    _callback_tensor_inputs = ("latents", "prompt_embeds", "prompt_attention_mask")

    def __init__(self, transformer: ShapesTransformer | ModelMixin, scheduler: FlowMatchEulerDiscreteScheduler) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)  # type: ignore[no-untyped-call]
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        self._guidance_scale, self._num_timesteps, self._interrupt = GUIDANCE, 0, False

    @property
    def guidance_scale(self) -> float:
        """Of the present call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the present call runs the transformer on the empty prompt as well."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Of the present call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """A callback that sets `_interrupt` ends the present call's steps."""
        return self._interrupt

    def encode_prompt(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token states [prompts, tokens, 384], padded to the longest, and where tokens are, bool [prompts, tokens].

        A prompt counts up to the transformer's `max_context`-th token, without words such as "draw".
        """
        longest = self.transformer.config.max_context
        states = [state[:longest] for state in Encoder.shared().tokens([bare(prompt) for prompt in prompts])]
        lengths = np.array([len(state) for state in states])
        mask = np.arange(lengths.max()) < lengths[:, None]
        padded = np.zeros((*mask.shape, states[0].shape[1]), np.float32)
        padded[mask] = np.concatenate(states)
        embeds = torch.from_numpy(padded).to(self._execution_device, self.transformer.dtype)
        return embeds, torch.from_numpy(mask).to(self._execution_device)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        sigmas: list[float] | None = None,
        guidance_scale: float = GUIDANCE,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Pictures for `prompt`, or for `prompt_embeds` and `prompt_attention_mask` as `encode_prompt` gives them.

        A list of generators is one for each picture: a picture does not depend on those beside it. `output_type` is
        "pil", "np" [pictures, 32, 32, 3], "pt" or "latent" (-1 to 1); all else is as in diffusers' own pipelines.
        Raises ValueError for neither prompt nor embeddings, or both.
        """
        if (prompt is None) == (prompt_embeds is None) or (prompt_embeds is None) != (prompt_attention_mask is None):
            raise ValueError("give `prompt`, or both `prompt_embeds` and `prompt_attention_mask`")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"a callback may ask for {self._callback_tensor_inputs}, not {sorted(unknown)}")
        self._guidance_scale, self._interrupt = guidance_scale, False
        device = self._execution_device
        if prompt is not None:
            prompt_embeds, prompt_attention_mask = self.encode_prompt([prompt] if isinstance(prompt, str) else prompt)
        assert prompt_embeds is not None
        assert prompt_attention_mask is not None
        prompt_embeds = prompt_embeds.repeat_interleave(num_images_per_prompt, dim=0)
        prompt_attention_mask = prompt_attention_mask.repeat_interleave(num_images_per_prompt, dim=0)
        if self.do_classifier_free_guidance:
            prompt_embeds, prompt_attention_mask = self._with_nothing(prompt_embeds, prompt_attention_mask)

        images = len(prompt_embeds) // (2 if self.do_classifier_free_guidance else 1)
        config = self.transformer.config
        shape = (images, config.in_channels, config.sample_size, config.sample_size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=prompt_embeds.dtype)
        latents = latents.to(device)
        schedule = {"sigmas": sigmas} if sigmas else {"num_inference_steps": num_inference_steps}
        self.scheduler.set_timesteps(device=device, **schedule)
        self._num_timesteps = len(self.scheduler.timesteps)
        with self.progress_bar(total=self._num_timesteps) as bar:
            for index, timestep in enumerate(self.scheduler.timesteps):
                if self._interrupt:
                    continue
                velocity = self._velocity(latents, timestep, prompt_embeds, prompt_attention_mask)
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    now = {
                        "latents": latents,
                        "prompt_embeds": prompt_embeds,
                        "prompt_attention_mask": prompt_attention_mask,
                    }
                    asked = {name: now[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, index, timestep, asked)
                    latents = changed.pop("latents", latents)
                    prompt_embeds = changed.pop("prompt_embeds", prompt_embeds)
                    prompt_attention_mask = changed.pop("prompt_attention_mask", prompt_attention_mask)
                bar.update()
        image = self.image_processor.postprocess(latents, output_type=output_type)
        self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]
        return ImagePipelineOutput(images=image) if return_dict else (image,)

    def _with_nothing(self, embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The empty prompt's states for each of the prompts, then theirs."""
        nothing = self.encode_prompt([""])[0][0]
        empty, kept = torch.zeros_like(embeds), torch.zeros_like(mask)
        empty[:, : len(nothing)], kept[:, : len(nothing)] = nothing, True
        return torch.cat([empty, embeds]), torch.cat([kept, mask])

    def _velocity(self, latents: Tensor, timestep: Tensor, embeds: Tensor, mask: Tensor) -> Tensor:
        twice = len(embeds) // len(latents)  # a callback may end guidance by handing on the prompt's half alone
        velocity: Tensor = self.transformer(
            hidden_states=torch.cat([latents] * twice),
            timestep=timestep.expand(len(embeds)),
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        if twice == 1:
            return velocity
        free, told = velocity.chunk(2)
        return free + self._guidance_scale * (told - free)
