"""How often the target takes a drafted token: running shares by drafter and by what speaks for the token."""

from __future__ import annotations

from bisect import bisect_right

_EVIDENCE = (2, 3, 4, 5, 7, 10, 16)  # where the next class of evidence begins
_LOOKUP = (0.15, 0.35, 0.5, 0.6, 0.7, 0.8, 0.85, 0.92)
_PRIOR = {
    "prompt_lookup": _LOOKUP,
    "first_lookup": (0.2, *_LOOKUP[1:]),
    "ngram_cache": _LOOKUP,
    "draft_model": (0.7,) * 8,
    "draft_head": (0.5,) * 8,
    "early_exit": (0.7,) * 8,
}
_TRIES_OF_PRIOR = 4.0


class Acceptance:
    """Chance that a drafted token is taken once those before it were, by drafter and evidence.

    Old tries fade, so that about the last `window` of a class count. `prior` answers where little was tried: another
    Acceptance, such as that of all requests so far; None: what is usual.
    """

    def __init__(self, window: float, prior: Acceptance | None = None) -> None:
        self._keep = 1 - 1 / window
        self._prior = prior
        self._tried: dict[tuple[str, int], tuple[float, float]] = {}  # taken, tried

    def chance(self, drafter: str, evidence: int) -> float:
        """0…1."""
        return self._chance(drafter, bisect_right(_EVIDENCE, evidence))

    def observe(self, drafter: str, evidence: int, taken: bool) -> None:
        """A token was tried, or would have been: it was what the target wrote, or was not."""
        key = (drafter, bisect_right(_EVIDENCE, evidence))
        hits, tries = self._tried.get(key, (0.0, 0.0))
        self._tried[key] = (hits * self._keep + taken, tries * self._keep + 1)
        if self._prior is not None:
            self._prior.observe(drafter, evidence, taken)

    def _chance(self, drafter: str, bucket: int) -> float:
        prior = _PRIOR[drafter][bucket] if self._prior is None else self._prior._chance(drafter, bucket)
        hits, tries = self._tried.get((drafter, bucket), (0.0, 0.0))
        return (hits + _TRIES_OF_PRIOR * prior) / (tries + _TRIES_OF_PRIOR)
