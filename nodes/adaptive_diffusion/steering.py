"""A scheduler that is told when to end: how a stock pipeline is stopped from outside, image by image.

A pipeline walks through `scheduler.timesteps` and calls `scheduler.step` at each. One run gets a copy of both, whose
`step` also asks whether an image is done and whose timesteps end when all are; no class is changed. Where the pipeline
has `callback_on_step_end`, images that are done leave the batch there, and guidance is cut off.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from dynflow.nodes.adaptive_diffusion.clean import clean_image, tells_clean_images
from dynflow.nodes.adaptive_diffusion.deciders import Watch
from dynflow.nodes.adaptive_diffusion.finishing import Rest, Rested, can_skip, leave_out

PER_IMAGE: Mapping[str, tuple[str, ...]] = {
    "StableDiffusionPipeline": ("prompt_embeds",),
    "StableDiffusionImg2ImgPipeline": ("prompt_embeds",),
    "StableDiffusionXLPipeline": ("prompt_embeds", "add_text_embeds", "add_time_ids"),
    "StableDiffusionXLImg2ImgPipeline": ("prompt_embeds", "add_text_embeds", "add_time_ids"),
    "StableDiffusion3Pipeline": ("prompt_embeds", "pooled_prompt_embeds"),
    "ShapesPipeline": ("prompt_embeds", "prompt_attention_mask"),
}
"""By pipeline: all that it keeps a row of for each image, besides the latents; its callback can replace them."""


def leaves(pipeline: Any) -> bool:
    """Whether images of a batch may leave this pipeline one by one."""
    unet = getattr(pipeline, "unet", None)
    conditioned = unet is not None and getattr(unet.config, "time_cond_proj_dim", None) is not None
    tensors = PER_IMAGE.get(type(pipeline).__name__)
    offered = getattr(pipeline, "_callback_tensor_inputs", ())
    return tensors is not None and not conditioned and {"latents", *tensors} <= set(offered)


class Steering:
    """One run of one pipeline: the images in it, and who of them is done after how many steps.

    `pipeline` is a copy of the run's own. `guided` is the share of the steps that are guided. `check` raises where
    nobody waits any more. `finish` is how many longer steps images take where they are stopped; 0: they end there.
    `walk` is which steps of the plan are walked; None: all. `follows` are told of each image where its run stands.
    """

    def __init__(
        self,
        pipeline: Any,
        watches: Sequence[Sequence[Watch]],
        check: Callable[[], None],
        guided: float = 1.0,
        finish: int = 0,
        walk: list[int] | None = None,
        follows: Sequence[Sequence[Callable[[Rest], object]]] = (),
    ) -> None:
        self.pipeline = pipeline
        self.scheduler = copy.deepcopy(pipeline.scheduler)
        self.count = len(watches)
        self.taken = [0] * self.count
        self.stopped = [False] * self.count
        """Whether an image was ended before its plan was."""
        self.unread = False
        """Whether the scheduler does not tell of clean images, so that nothing could be stopped."""
        self.rests: dict[int, Rest] = {}
        """Images that were stopped, and have yet to take what is left."""
        self.ended = False
        self.timestep: torch.Tensor | None = None
        """That is being walked through; None: none yet, or the pipeline's own."""
        self._watches = watches
        self._follows = follows
        self._check = check
        self._guided = guided
        self._walk = walk
        self._alive = list(range(self.count))
        self._done: dict[int, torch.Tensor] = {}
        self._steps = 0
        self._total = 0
        self._step: Callable[..., Any] = self.scheduler.step
        self._set_timesteps: Callable[..., None] = self.scheduler.set_timesteps
        self._finish_in = finish if can_skip(self.scheduler) else 0
        self._reads = any(watches) and tells_clean_images(self.scheduler)
        self.unread = any(map(bool, watches)) and not self._reads
        self._leaves = leaves(pipeline) and self.count > 1
        self._cuts = leaves(pipeline) and guided < 1
        self.scheduler.step = _in_place_of(self._step, self.step)
        self.scheduler.set_timesteps = _in_place_of(self._set_timesteps, self.set_timesteps)
        pipeline.scheduler = self.scheduler

    def hooks(self) -> dict[str, Any]:
        """What the pipeline is called with, where a callback is needed."""
        if not self._leaves and not self._cuts:
            return {}
        tensors = ["latents", *PER_IMAGE[type(self.pipeline).__name__]]
        return {"callback_on_step_end": self.step_ended, "callback_on_step_end_tensor_inputs": tensors}

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """As the scheduler's own."""
        self._set_timesteps(*args, **kwargs)
        if self._walk is not None:
            leave_out(self.scheduler, self._walk)
        self.begin(len(self.scheduler.timesteps))
        timesteps = self.scheduler.timesteps.as_subclass(_Timesteps)
        timesteps.steering = self
        self.scheduler.timesteps = timesteps

    def begin(self, total: int) -> None:
        """Told how many steps a pipeline is about to walk: one that begins with an image leaves the first ones out."""
        self._total = total

    def step(self, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """As the scheduler's own; the result of an image that is done is its clean image."""
        self._check()
        self._steps += 1
        for place in self._alive:
            self.taken[place] += 1
        if self.ended:  # a pipeline that walks through timesteps of its own
            return SchedulerOutput(prev_sample=sample) if kwargs.get("return_dict", True) else (sample,)
        if isinstance(kwargs.get("generator"), list):
            kwargs["generator"] = [kwargs["generator"][place] for place in self._alive]
        if not self._reads:
            result = self._step(model_output, timestep, sample, *args, **kwargs)
            self._finish(result[0])
            return result
        whole = kwargs.pop("return_dict", True)
        result = self._step(model_output, timestep, sample, *args, **kwargs, return_dict=True)
        clean = clean_image(self.scheduler, result, model_output, timestep, sample)
        if clean is None:
            self.unread = True
        else:
            self._stop(clean.to(result.prev_sample.dtype), result.prev_sample)
        self._finish(result.prev_sample)
        if len(self.rests) == self.count:
            raise Rested
        if len(self._done) == self.count and any(self.stopped) and not self._leaves:
            result.prev_sample = self._all_done()
        return result if whole else (result.prev_sample,)

    def _stop(self, clean: torch.Tensor, latents: torch.Tensor) -> None:
        """Keep the clean images of those that are done, and the latents of those that have yet to finish."""
        left = self._total - self._steps
        for row, place in enumerate(self._alive):
            if place in self._done or not left:
                continue
            stands = Rest(latents[row], self._steps, self._total)
            for follow in self._follows[place] if self._follows else ():
                follow(stands)
            said = [watch(clean[row], left) for watch in self._watches[place]]  # each of them sees every step
            if any(said) and left > self._finish_in:
                self.stopped[place] = True
                self._done[place] = clean[row]
                if self._finish_in:
                    self.rests[place] = stands
        self.ended = len(self._done) == self.count

    def _finish(self, latents: torch.Tensor) -> None:
        """At the last step: those that are not done are, now."""
        if self._steps == self._total:
            for row, place in enumerate(self._alive):
                self._done.setdefault(place, latents[row])

    def _all_done(self) -> torch.Tensor:
        return torch.stack([self._done[place] for place in range(self.count)])

    def overflowed(self) -> list[bool]:
        """Whether what each image ended as holds something that is no number."""
        return [place in self._done and not self._done[place].isfinite().all() for place in range(self.count)]

    def step_ended(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """diffusers' `callback_on_step_end`."""
        others = {name: value for name, value in tensors.items() if name != "latents" and value is not None}
        if self._leaves and len(self._done) == self.count:
            return {"latents": self._all_done()}
        changed: dict[str, Any] = {}
        keep = [row for row, place in enumerate(self._alive) if place not in self._done]
        if self._leaves and len(keep) < len(self._alive):
            before = len(self._alive)
            others = {name: _rows(value, keep, before) for name, value in others.items()}
            changed = {"latents": tensors["latents"][keep], **others}
            _thin(self.scheduler, keep, before)
            self._alive = [self._alive[row] for row in keep]
        if self._cuts and self._steps >= self._guided * self._total and pipeline.guidance_scale > 1:
            pipeline._guidance_scale = 1.0  # as diffusers' guide to callbacks does it
            others = {name: value[len(self._alive) :] for name, value in others.items()}
            changed |= others
        return changed

    def release(self) -> None:
        """Let go of latents and scheduler: the two hold each other."""
        for name in ("step", "set_timesteps", "timesteps"):
            vars(self.scheduler).pop(name, None)
        self._done.clear()
        self.rests.clear()
        self._watches = self._follows = ()


def _in_place_of(original: Callable[..., Any], mine: Callable[..., Any]) -> Callable[..., Any]:
    """`mine`, with the signature of the original: pipelines look at that."""

    @functools.wraps(original)
    def called(*args: Any, **kwargs: Any) -> Any:
        return mine(*args, **kwargs)

    return called


class _Timesteps(torch.Tensor):
    """Timesteps that end when the run does; everything else is a plain tensor's."""

    steering: Steering
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            found = found.as_subclass(_Timesteps)
            found.steering = self.steering
        return found

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.steering.begin(len(self))
        for timestep in self.unbind(0):
            if self.steering.ended:
                return
            self.steering.timestep = timestep
            yield timestep


def _rows(tensor: torch.Tensor, keep: Sequence[int], count: int) -> torch.Tensor:
    """The rows of some images, where the tensor holds one or several (unconditional, conditional) parts of `count`."""
    parts = tensor.reshape(-1, count, *tensor.shape[1:])
    return parts[:, list(keep)].flatten(0, 1)


def _thin(scheduler: Any, keep: Sequence[int], count: int) -> None:
    """What a multistep scheduler remembers of earlier steps, without the images that have left."""

    def thinned(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.shape[0] == count:
            return value[list(keep)]
        return [thinned(item) for item in value] if isinstance(value, list) else value

    for name, value in list(vars(scheduler).items()):
        if isinstance(value, (list, torch.Tensor)) and name != "timesteps":
            setattr(scheduler, name, thinned(value))
