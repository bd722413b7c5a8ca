"""Scores that a router makes itself, to be judged against: chance, and what LiteLLM's auto router goes by."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

from dynflow.errors import MissingDependency

if TYPE_CHECKING:
    from dynflow.request import Request

TIERS = ("SIMPLE", "MEDIUM", "COMPLEX", "REASONING")
"""Tiers of LiteLLM's complexity router, the easiest first."""
_NEWER = 'pip install -U "dynflow[litellm]"'


def chance(request: Request, seed: int) -> float:
    """A number from 0 to 1, uniform over different requests; the same request and seed give the same one."""
    digest = hashlib.sha256(str(seed).encode())
    for message in request.messages:
        content = f"\0{message.type}\0{message.text}"
        digest.update(content.encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:6], "big") / 2**48


def complexity(text: str) -> tuple[str, float]:
    """Tier and score of LiteLLM's complexity router, the auto router that runs on this machine alone: by keywords.

    The score is a weighted sum, about -0.3 to 1. Raises `MissingDependency`.
    """
    tier, score, _ = _complexity_router().classify(text)
    return str(tier.value), float(score)


@functools.cache
def _complexity_router() -> Any:
    from dynflow.models.litellm import library

    library()
    try:
        from litellm.router_strategy.complexity_router import ComplexityRouter

        no_router: Any = None  # it is asked for a tier, never to call a model
        return ComplexityRouter("dynflow", no_router)
    except (ImportError, AttributeError, TypeError) as error:
        raise MissingDependency("litellm with its complexity router", _NEWER) from error


def warm_up() -> None:
    """Import litellm, which takes seconds. Raises `MissingDependency`."""
    _complexity_router()
