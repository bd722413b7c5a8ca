"""The clean image that a denoiser has in mind at a step, read by its scheduler's own parameterisation."""

from __future__ import annotations

import inspect
from typing import Any

import torch


def tells_clean_images(scheduler: Any) -> bool:
    """Whether a scheduler is one whose steps can be read; `clean_image` may still find nothing in a step.

    One of a higher order (Heun, KDPM2) calls the denoiser in the middle of its steps, where no step may end.
    """
    return getattr(scheduler, "order", None) == 1 and "return_dict" in inspect.signature(scheduler.step).parameters


def clean_image(
    scheduler: Any, result: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor
) -> torch.Tensor | None:
    """The predicted clean latents after one `step` of a scheduler, of the sample's shape and number type.

    `result` is what that step gave with `return_dict=True`. None for a scheduler that does not tell: most name the
    prediction themselves; of flow matching (Lipman et al., arXiv 2210.02747) it is x - sigma * v; multistep solvers on
    data (DPM-Solver++, arXiv 2211.01095; UniPC, arXiv 2302.04867) keep it as their last output.
    """
    import diffusers

    known: Any = diffusers
    found: torch.Tensor | None = getattr(result, "pred_original_sample", None)
    if found is None and isinstance(scheduler, known.FlowMatchEulerDiscreteScheduler):
        sigma = scheduler.sigmas[scheduler.step_index - 1].to(sample.device)
        found = sample.float() - sigma * model_output.float()
    elif found is None and (
        (isinstance(scheduler, known.DPMSolverMultistepScheduler) and "++" in scheduler.config.algorithm_type)
        or (isinstance(scheduler, known.UniPCMultistepScheduler) and scheduler.config.predict_x0)
    ):
        found = scheduler.model_outputs[-1]
    elif found is None and isinstance(scheduler, known.PNDMScheduler):
        found = _of_variance_preserving(scheduler, model_output.float(), timestep, sample.float())
    return None if found is None else found.to(sample.dtype)


def _of_variance_preserving(
    scheduler: Any, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor
) -> torch.Tensor | None:
    """Of samples that are sqrt(kept) * clean + sqrt(1 - kept) * noise (Ho et al., arXiv 2006.11239, eq. 4; "v" as in
    Salimans & Ho, arXiv 2202.00512, app. D)."""
    kept: torch.Tensor = scheduler.alphas_cumprod[int(timestep)].to(sample.device)
    match scheduler.config.prediction_type:
        case "epsilon":
            return (sample - (1 - kept).sqrt() * model_output) / kept.sqrt()
        case "v_prediction":
            return kept.sqrt() * sample - (1 - kept).sqrt() * model_output
        case "sample":
            return model_output
    return None
