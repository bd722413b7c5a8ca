"""diffusers' own caches: parts of a denoiser that change little between steps are not computed anew at each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from dynflow.nodes.adaptive_diffusion.steering import Steering

Method = Literal["first_block", "attention", "faster"]


@dataclass(frozen=True, slots=True)
class Cache:
    """Which cache a run has, and how much it keeps.

    `first_block`: all blocks but the first, while that one's residual changes by less than `threshold` (First Block
    Cache, after TeaCache, arXiv 2411.19108). Else attention, which is computed at every `every`-th step, and between
    them kept (`attention`: Pyramid Attention Broadcast, arXiv 2408.12588) or extrapolated (`faster`: FasterCache,
    arXiv 2410.19355).
    """

    method: Method
    threshold: float = 0.05
    every: int = 2

    @property
    def alone(self) -> bool:
        """Whether what it skips depends on all images of a batch, so that each must be drawn alone."""
        return self.method == "first_block"


class Unsuited(Exception):
    """A pipeline that the cache does not work for, in words."""


@contextmanager
def caching(pipeline: Any, cache: Cache, steering: Steering | None) -> Iterator[None]:
    """Run `pipeline` with the cache, and leave its denoiser as it was; one thread at a time.

    Raises Unsuited for a pipeline without caches; within, whatever a cache raises that does not suit the pipeline.
    """
    import diffusers

    denoiser = getattr(pipeline, "transformer", None)
    mixin: Any = diffusers.CacheMixin
    if steering is None or not isinstance(denoiser, mixin):
        raise Unsuited("it has no caches in diffusers")
    clock = _Clock(steering)
    told: Any = denoiser
    watching = None if cache.method == "first_block" else told.register_forward_pre_hook(clock.tick)
    try:
        config = _config(cache, lambda: clock.now)
        try:
            told.enable_cache(config)
        except BaseException:
            told._cache_config = config  # else diffusers would leave those blocks as they are that it came to
            raise
        yield
    finally:
        if watching is not None:
            watching.remove()
        if told.is_cache_enabled:
            told.disable_cache()


def _config(cache: Cache, timestep: Callable[[], float]) -> Any:
    """What diffusers takes."""
    import diffusers

    known: Any = diffusers
    match cache.method:
        case "first_block":
            return known.FirstBlockCacheConfig(threshold=cache.threshold)
        case "attention":
            return known.PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=cache.every,
                cross_attention_block_skip_range=cache.every,
                current_timestep_callback=timestep,
            )
        case "faster":
            return known.FasterCacheConfig(
                spatial_attention_block_skip_range=cache.every,
                attention_weight_callback=lambda module: 0.5,  # diffusers' own choice
                is_guidance_distilled=True,  # all rows alike: how a pipeline batches its guidance is not told
                current_timestep_callback=timestep,
            )


class _Clock:
    """Tells a cache of attention the time. It does not know whom it is asked for: pipelines that call the denoiser
    twice a step, with the prompt and without, would mix the two up."""

    def __init__(self, steering: Steering) -> None:
        self.now = 0.0
        self._steering = steering
        self._last: torch.Tensor | None = None

    def tick(self, _module: Any, _args: Any) -> None:
        timestep = self._steering.timestep
        if timestep is None:
            raise Unsuited("it walks through timesteps of its own")
        if timestep is self._last:
            raise Unsuited("it calls its denoiser more than once a step: `first_block` may do")
        self._last, self.now = timestep, float(timestep)
