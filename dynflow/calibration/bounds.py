"""Exact finite-sample bounds on the mean of bounded variables: betting, Clopper-Pearson, Hoeffding-Bentkus.

They hold for any number of independent rows drawn alike; of the distribution they assume nothing but its range. Values
lie in 0…1 here (`scaled` brings others there) along the last axis; what stands before that is tested side by side.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

_MOST_STAKED = 0.99
"""Part of the wealth that one row may lose at most; all of it would end the game."""
_GRID = 2_000
"""Means that a betting bound is looked for among, equally far apart."""


def scaled(values: ArrayLike, low: float, high: float) -> Array:
    """Values of the range `low`…`high` as values of 0…1. Raises `ValueError` where one lies outside."""
    array = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if array.size and not (array.min() >= -1e-9 and array.max() <= 1 + 1e-9):
        raise ValueError(f"values must lie between {low:g} and {high:g}")
    return np.clip(array, 0.0, 1.0)


def betting_log_wealth(values: ArrayLike, mean: ArrayLike, confidence: float) -> Array:
    """Greatest log-wealth [...] of a gambler who bets row by row that the true mean is above `mean` [...].

    `values` [..., n] in 0…1. Where the true mean is `mean` or less, the wealth is a nonnegative supermartingale that
    starts at 1, so it ever reaches 1/δ (δ = 1 - confidence) with probability δ at most, by Ville's inequality:
    Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", §3.1 and Proposition 2.

    Each bet rests on the rows before it alone: √(2 log(1/δ) / (n variance)) as in their §4.2, with what is still to be
    won and the rows still to come in the place of log(1/δ) and n (Voráček & Orabona 2025, "STaR-Bets: Sequential
    Target-Recalculating Bets for Tighter Confidence Intervals"): who is behind stakes more, and who has won stops.
    """
    x = np.asarray(values, dtype=np.float64)
    m = np.broadcast_to(np.asarray(mean, dtype=np.float64), np.broadcast_shapes(x.shape[:-1], np.shape(mean)))
    n = x.shape[-1]
    goal = -math.log1p(-confidence)
    most = _MOST_STAKED / np.maximum(m, 1e-9)
    wealth = np.zeros(m.shape)
    best = np.zeros(m.shape)
    total = np.full(x.shape[:-1], 0.5)  # as if one row of mean 1/2 and variance 1/4 had been seen
    spread = np.full(x.shape[:-1], 0.25)
    for row in range(n):
        value = x[..., row]
        variance = np.maximum(spread / (row + 1), 1e-12)
        bet = np.minimum(np.sqrt(2 * np.maximum(goal - wealth, 0.0) / ((n - row) * variance)), most)
        wealth = wealth + np.log1p(np.where(wealth < goal, bet, 0.0) * (value - m))
        best = np.maximum(best, wealth)
        total = total + value
        spread = spread + (value - total / (row + 2)) ** 2
    return best


def betting_p_value(values: ArrayLike, mean: ArrayLike, confidence: float) -> Array:
    """p-values [...] of "the true mean is `mean` or less", from bets made to reject at this confidence.

    They are valid at every level, and sharp at 1 - confidence: the gambler stops where that is reached.
    """
    p_values: Array = np.minimum(1.0, np.exp(-betting_log_wealth(values, mean, confidence)))
    return p_values


def betting_lower(values: ArrayLike, confidence: float) -> float:
    """A number that the true mean of `values` [n] is below with probability 1 - confidence at most; betting (WSR).

    It is the last of equally spaced means up to which all are rejected: the least of them that is not below the true
    mean must be among these for the bound to fail. It is never above the rows' own mean, which a gambler who won early
    knows nothing of.
    """
    means = np.linspace(0, 1, _GRID + 1)[:-1]
    rejected = betting_p_value(np.asarray(values)[None, :], means, confidence) <= _level(confidence)
    kept = int(np.argmin(rejected)) if not rejected.all() else len(means)
    return min(float(means[kept - 1]), float(np.asarray(values, dtype=np.float64).mean())) if kept else 0.0


def betting_upper(values: ArrayLike, confidence: float) -> float:
    """A number that the true mean of `values` [n] is above with probability 1 - confidence at most; betting (WSR)."""
    return 1.0 - betting_lower(1.0 - np.asarray(values), confidence)


def binomial_p_value(losses: ArrayLike, rate: ArrayLike) -> Array:
    """p-values [...] of "0/1 losses [..., n] have the rate `rate` or more": the exact binomial test."""
    from scipy.stats import binom

    x = np.asarray(losses)
    p_values: Array = binom.cdf(x.sum(-1), x.shape[-1], rate)
    return p_values


def clopper_pearson_upper(losses: ArrayLike, confidence: float) -> float:
    """The upper confidence bound of the rate of 0/1 losses [n] (Clopper & Pearson 1934, one-sided)."""
    from scipy.stats import beta

    x = np.asarray(losses)
    count, n = int(x.sum()), len(x)
    return 1.0 if count == n else float(beta.ppf(confidence, count + 1, n - count))


def clopper_pearson_lower(losses: ArrayLike, confidence: float) -> float:
    """The lower confidence bound of the rate of 0/1 losses [n]."""
    return 1.0 - clopper_pearson_upper(1 - np.asarray(losses), confidence)


def hoeffding_bentkus_p_value(losses: ArrayLike, rate: ArrayLike) -> Array:
    """p-values [...] of "losses [..., n] in 0…1 have the mean `rate` or more" (Bates et al. 2021, §3.1.2).

    Looser than betting; it rests on the mean alone and so does not depend on the order of the rows.
    """
    from scipy.special import rel_entr
    from scipy.stats import binom

    x = np.asarray(losses, dtype=np.float64)
    n, mean = x.shape[-1], x.mean(-1)
    rate = np.asarray(rate, dtype=np.float64)
    capped = np.minimum(mean, rate)
    hoeffding = np.exp(-n * (rel_entr(capped, rate) + rel_entr(1 - capped, 1 - rate)))
    bentkus = math.e * binom.cdf(np.ceil(x.sum(-1) - 1e-9), n, rate)
    p_values: Array = np.minimum(1.0, np.minimum(hoeffding, bentkus))
    return p_values


def _level(confidence: float) -> float:
    """δ, a hair wider than floating point may put it."""
    return (1 - confidence) * (1 + 1e-9)


def rejected(p_values: ArrayLike, confidence: float) -> NDArray[np.bool_]:
    """Which hypotheses are rejected at this confidence."""
    return np.asarray(p_values) <= _level(confidence)


def rows_needed(values: ArrayLike, mean: float, confidence: float) -> int | None:
    """About how many rows like `values` [n] it takes to show that their mean is above `mean`; None: it is not.

    The rate at which the best constant bet in hindsight grows, and half as many rows again, for a test that wins more
    often than not.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.mean() <= mean:
        return None
    bets = np.geomspace(1e-3, _MOST_STAKED / max(mean, 1e-9), 200)
    growth = float(np.log1p(bets[:, None] * (x - mean)).mean(-1).max())
    return math.ceil(1.5 * -math.log1p(-confidence) / growth) if growth > 0 else None
