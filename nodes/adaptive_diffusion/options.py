"""What the options of `adaptive_diffusion` hold that are mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, FiniteFloat
from typing_extensions import TypedDict

from dynflow.language.references import Reference

_CLOSED = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class ConvergeOption(TypedDict):
    """Stop where the predicted clean image no longer moves."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    threshold: NotRequired[
        Annotated[
            FiniteFloat | Reference,
            Field(
                description="how far, relative to its size, the clean image may still seem to go, such as 0.1; "
                "unset only where `quality` sets it"
            ),
        ]
    ]
    patience: NotRequired[Annotated[int, Field(ge=1, description="steps in a row that must be calm; default: 1")]]
    least: NotRequired[Annotated[int, Field(ge=2, description="steps that are taken in any case; default: 2")]]
    finish: NotRequired[
        Annotated[int, Field(ge=2, description="take what is left in so many longer steps; default: in none")]
    ]


def finish_of(converge: Mapping[str, Any] | None) -> int:
    """The longer steps that what `converge` stops is finished in; 0: in none."""
    return int((converge or {}).get("finish", 0))


class PredictOption(TypedDict):
    """Plan as many steps as a trained predictor says that the prompt needs."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    artefact: Annotated[str, Field(description="folder of the predictor")]
    quantile: NotRequired[
        Annotated[FiniteFloat, Field(description="share of images that the planned steps suffice for")]
    ]


QualityOption = TypedDict(
    "QualityOption",
    {
        "metric": Annotated[Literal["ssim", "psnr"], Field(description="how two images are compared")],
        "to": Annotated[str, Field(description="the same seed's image of so many steps, such as `50 steps`")],
        "at_least": Annotated[FiniteFloat, Field(description="what the metric must reach")],
        "for": Annotated[FiniteFloat, Field(gt=0, lt=1, description="share of new prompts that it is promised for")],
    },
)
"""A promise that was calibrated, and that says by itself when an image may stop."""
QualityOption.__pydantic_config__ = _CLOSED  # type: ignore[attr-defined]


class BudgetOption(TypedDict):
    """Hold a mean over all images of this node; one of the two."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    steps: NotRequired[Annotated[FiniteFloat, Field(ge=1, description="mean steps per image")]]
    seconds: NotRequired[Annotated[FiniteFloat, Field(gt=0, description="mean seconds per image")]]


class GuidanceOption(TypedDict):
    """Classifier-free guidance, ended before the last step."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    scale: Annotated[FiniteFloat | Reference, Field(description="guidance scale")]
    until: Annotated[
        FiniteFloat | Reference, Field(description="share of the steps that are guided, 0…1; those after cost half")
    ]


class CacheOption(TypedDict):
    """What of the denoiser's work is kept between steps, by diffusers' own caches."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    method: Annotated[
        Literal["first_block", "attention", "faster"],
        Field(description="First Block Cache, Pyramid Attention Broadcast, or FasterCache"),
    ]
    threshold: NotRequired[
        Annotated[
            FiniteFloat | Reference,
            Field(description="of `first_block`: change of the first block that others are kept below; default: 0.05"),
        ]
    ]
    every: NotRequired[
        Annotated[int, Field(ge=2, description="of the others: attention is computed at so many-th steps; default: 2")]
    ]
