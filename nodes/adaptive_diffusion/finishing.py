"""What is left of a run that has come to rest, taken in a few longer steps.

The clean image that a denoiser has in mind halfway is blurred where it is unsure, however little it still moves: what
is left of the noise is better taken by the denoiser itself, over the same schedule with steps left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Rest:
    """Where one image's run was left: its latents, after so many steps of how many."""

    latents: torch.Tensor
    steps: int
    total: int

    def walk(self, count: int) -> list[int]:
        """Which steps of the schedule, from 0 on, are taken yet: the next one, the last, and others as far apart."""
        return [round(float(each)) for each in torch.linspace(self.steps, self.total - 1, count, dtype=torch.float64)]


class Rested(Exception):
    """Ends a run all of whose images have come to rest."""


def can_skip(scheduler: Any) -> bool:
    """Whether steps can be left out of a scheduler's plan: one that goes from noise level to noise level."""
    return isinstance(getattr(scheduler, "sigmas", None), torch.Tensor) and hasattr(scheduler, "step_index")


def leave_out(scheduler: Any, walk: list[int]) -> None:
    """All steps of a plan that has been set but these, in order."""
    scheduler.timesteps = scheduler.timesteps[walk]
    scheduler.sigmas = torch.cat([scheduler.sigmas[walk], scheduler.sigmas[-1:]])
    scheduler.num_inference_steps = len(walk)


def begin_with(pipeline: Any, latents: torch.Tensor) -> dict[str, Any]:
    """Let a copy of a pipeline begin with latents as they are, in place of noise; what it is to be called with."""
    prepare = getattr(pipeline, "prepare_latents", None)
    if prepare is None:
        return {"latents": latents}

    def given(*args: Any, **kwargs: Any) -> Any:
        prepared = prepare(*args, **kwargs)
        return (latents, *prepared[1:]) if isinstance(prepared, tuple) else latents

    pipeline.prepare_latents = given
    return {}
