"""The model card of a trained predictor of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynflow.nodes.adaptive_diffusion.training.spread import Spread

PICTURE = "spread.svg"
_CARD = """\
# Steps of {model}

Tells from a prompt how many denoising steps its image needs: quantiles of the smallest count from which on all larger
ones keep {metric} ≥ {at_least:g} to the same seed's image of {reference} steps. Written by `dynflow train steps`; do
not edit by hand.

**Made of** whole runs of {model} in {counts} steps (`{sha256}`), and the prompts' MiniLM embeddings.

**Trained on** {images:,} images of {prompts:,} prompts{data}. {offsets:,} of the prompts correct the quantiles, and
{judged:,} others judge.

```sh
{command}
```

**Figures** on the {judged:,} prompts judged by. What a quantile plans, and what the same steps for all would give:

| quantile | mean steps | images that keep it |
|---|---|---|
{planned}

| steps for all | images that keep it |
|---|---|
{static}

**Spread** of what images need, in doublings of steps: {between:.2f} between prompts{within}.

![Steps needed, by prompt and seed]({picture})

**Use**: `predict` or, once `dynflow calibrate` has kept a promise with it, `quality` of `adaptive_diffusion`, for
prompts like these and this very model. A quantile is a share of images, no promise: that `dynflow calibrate` makes.
`head.safetensors` holds 64-bit hashes of the prompts, so that a calibration can leave them out.
"""


@dataclass(frozen=True)
class Plan:
    """What planning by a quantile, or one count for all, comes to: mean steps, and the share of images that keep the
    metric."""

    by: float
    steps: float
    kept: float


def render_card(
    facts: Mapping[str, object], planned: Sequence[Plan], static: Sequence[Plan], spread: Spread, command: str
) -> str:
    """Markdown. `facts` are those of the training, as the artefact keeps them."""
    within = ""
    if spread.seeds is not None:
        told = "" if spread.share is None else f"; a prompt can tell at most {spread.share:.0%} of the variance"
        within = f", {spread.seeds:.2f} between seeds of one prompt{told}"
    return _CARD.format(
        **facts,
        command=command,
        planned="\n".join(f"| {plan.by:g} | {plan.steps:.1f} | {plan.kept:.1%} |" for plan in planned),
        static="\n".join(f"| {plan.by:g} | {plan.kept:.1%} |" for plan in static),
        between=spread.prompts,
        within=within,
        picture=PICTURE,
    )
