"""Whether a model's first layers are worth drafting with, and how many: measured on text that the model wrote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from dynflow.speculation.costs import Costs

_SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 2 / 3)
"""Of a model's layers, that are tried; so is the first layer alone."""
_LONGEST = 16
"""Tokens of the longest draft that is reckoned with."""
_CONFIDENCE = 0.95
"""That a depth which is refused would not pay."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How well the first `layers` foresee: `hits` of `tokens` were as the whole model wrote them. `seconds`: of a pass
    over one token."""

    layers: int
    hits: int
    tokens: int
    seconds: float

    @property
    def agreement(self) -> float:
        """0…1, as measured."""
        return self.hits / self.tokens if self.tokens else 0.0

    @property
    def hoped(self) -> float:
        """What it may be at most, with 95 % confidence: Wilson's bound."""
        if not self.tokens:
            return 1.0
        share, z = self.agreement, NormalDist().inv_cdf(_CONFIDENCE)
        spread = z * sqrt(share * (1 - share) / self.tokens + z * z / (4 * self.tokens**2))
        return min((share + z * z / (2 * self.tokens) + spread) / (1 + z * z / self.tokens), 1.0)


def depths(layers: int) -> list[int]:
    """How many layers may draft, of so many."""
    tried = {1, *(round(layers * share) for share in _SHARES)}
    return sorted(count for count in tried if 0 < count < layers)


def gain(agreement: float, seconds: float, costs: Costs) -> float:
    """Tokens per second against plain decoding, with the draft length that suits best (Leviathan et al., arXiv
    2211.17192, theorem 3.8): `agreement` is a drafted token's chance, `seconds` those that it takes."""
    best, expected, chance = 0.0, 1.0, 1.0
    for drafted in range(1, _LONGEST + 1):
        chance *= agreement
        expected += chance
        best = max(best, expected * costs.of(1) / (costs.of(drafted + 1) + drafted * seconds))
    return best


def needed(seconds: float, costs: Costs) -> float:
    """The agreement from which on such drafts gain; 1 where none is enough."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if gain(middle, seconds, costs) > 1 else (middle, high)
    return high


def best(tried: Iterable[Depth], costs: Costs) -> Depth:
    """The depth that promises most, as measured."""
    return max(tried, key=lambda depth: (gain(depth.agreement, depth.seconds, costs), depth.agreement, -depth.layers))


def depth_fault(tried: Sequence[Depth], layers: int, costs: Costs) -> str | None:
    """Why no depth can pay, if so: even what may be hoped for is too little."""
    if any(gain(depth.hoped, depth.seconds, costs) > 1 for depth in tried):
        return None
    if not tried:
        return "it has too few layers"
    near = max(tried, key=lambda depth: gain(depth.hoped, depth.seconds, costs))
    return (
        f"of {near.tokens} tokens that it wrote, its first {near.layers} of {layers} layers foresaw "
        f"{near.agreement:.0%}; to pay here it takes {needed(near.seconds, costs):.0%}, and no other depth comes nearer"
    )
