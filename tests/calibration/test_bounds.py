"""Bounds that hold: checked against MAPIE and scipy where these have the same, and by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value, get_r_hat_plus
from scipy.stats import binomtest

from dynflow.calibration.bounds import (
    Array,
    betting_log_wealth,
    betting_lower,
    betting_p_value,
    betting_upper,
    binomial_p_value,
    clopper_pearson_lower,
    clopper_pearson_upper,
    hoeffding_bentkus_p_value,
    rejected,
    rows_needed,
    scaled,
)

Draw = Callable[[np.random.Generator, tuple[int, int]], Array]
DRAWS = 2_000
CONFIDENCE = 0.9
POPULATIONS: dict[str, tuple[float, Draw]] = {
    "coin": (0.8, lambda rng, shape: (rng.random(shape) < 0.8).astype(float)),
    "rare harm": (0.97, lambda rng, shape: (rng.random(shape) >= 0.03).astype(float)),
    "even": (0.5, lambda rng, shape: rng.random(shape)),
    "skewed": (1 / 11, lambda rng, shape: rng.beta(1, 10, shape)),
    "three values": (
        0.1 * 0.0 + 0.2 * 1.0 + 0.7 * 0.5,
        lambda rng, shape: rng.choice([0.0, 1.0, 0.5], size=shape, p=[0.1, 0.2, 0.7]),
    ),
    "heavy end": (0.01, lambda rng, shape: (rng.random(shape) < 0.01).astype(float)),
}


def most_failures(rate: float) -> float:
    """What a fair share of failures stays below: the rate and three standard errors."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / DRAWS)


@pytest.mark.parametrize("n", [20, 150])
@pytest.mark.parametrize("name", POPULATIONS)
def test_no_test_rejects_the_truth_more_often_than_it_may(name: str, n: int) -> None:
    mean, draw = POPULATIONS[name]
    values = draw(np.random.default_rng(1), (DRAWS, n))
    wrong = {
        "betting": rejected(betting_p_value(values, mean, CONFIDENCE), CONFIDENCE).mean(),
        "betting, other side": rejected(betting_p_value(1 - values, 1 - mean, CONFIDENCE), CONFIDENCE).mean(),
        "Hoeffding-Bentkus": rejected(hoeffding_bentkus_p_value(1 - values, 1 - mean), CONFIDENCE).mean(),
    }
    if set(np.unique(values)) <= {0.0, 1.0}:
        wrong["binomial"] = rejected(binomial_p_value(1 - values, 1 - mean), CONFIDENCE).mean()
    assert max(wrong.values()) <= most_failures(1 - CONFIDENCE), wrong


def test_bets_are_fair_at_every_level() -> None:
    values = POPULATIONS["three values"][1](np.random.default_rng(2), (20_000, 60))
    p_values = betting_p_value(values, POPULATIONS["three values"][0], 0.99)
    for level in (0.02, 0.05, 0.2, 0.5):
        assert (p_values <= level).mean() <= level + 3 * math.sqrt(level / 20_000)


def test_betting_has_power_near_that_of_a_normal_approximation() -> None:
    values = POPULATIONS["three values"][1](np.random.default_rng(3), (DRAWS, 300))
    mean, sigma = POPULATIONS["three values"][0], float(values.std())
    shift = 2 * sigma / math.sqrt(300)  # where z-tests at 90 % confidence reject 76 % of the time
    betting = rejected(betting_p_value(values, mean - shift, CONFIDENCE), CONFIDENCE).mean()
    other = rejected(hoeffding_bentkus_p_value(1 - values, 1 - mean + shift), CONFIDENCE).mean()
    assert betting > 0.65
    assert betting > other + 0.2


@pytest.mark.parametrize("name", ["coin", "skewed", "heavy end"])
def test_bounds_cover(name: str) -> None:
    mean, draw = POPULATIONS[name]
    samples = draw(np.random.default_rng(4), (200, 60))
    low = np.array([betting_lower(sample, CONFIDENCE) for sample in samples])
    high = np.array([betting_upper(sample, CONFIDENCE) for sample in samples])
    allowed = 0.1 + 3 * math.sqrt(0.09 / 200)
    assert (low > mean).mean() <= allowed
    assert (high < mean).mean() <= allowed
    assert (low <= samples.mean(1)).all()
    assert (high >= samples.mean(1)).all()


def test_a_bound_agrees_with_its_test() -> None:
    sample = np.random.default_rng(5).beta(4, 2, 200)
    low = betting_lower(sample, 0.95)
    assert low == pytest.approx(round(low * 2_000) / 2_000)  # one of the means that are tried
    assert rejected(betting_p_value(sample, low, 0.95), 0.95)
    assert not rejected(betting_p_value(sample, low + 1 / 2_000, 0.95), 0.95)


def test_many_candidates_side_by_side_are_each_alone() -> None:
    values = np.random.default_rng(6).random((5, 40))
    together = betting_log_wealth(values, [0.3, 0.4, 0.45, 0.5, 0.0], 0.9)
    for index, mean in enumerate([0.3, 0.4, 0.45, 0.5, 0.0]):
        assert together[index] == pytest.approx(float(betting_log_wealth(values[index], mean, 0.9)))


@pytest.mark.parametrize("mean", [0.0, 1e-12, 0.5, 1.0])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_extremes_stay_finite(mean: float, value: float) -> None:
    for n in (1, 10_000):
        wealth = float(betting_log_wealth(np.full(n, value), mean, 0.9))
        assert math.isfinite(wealth)
        assert wealth == 0 or value > mean


def test_hoeffding_bentkus_is_that_of_mapie() -> None:
    rng = np.random.default_rng(7)
    losses = rng.beta(1, 8, (6, 120))
    for rate in (0.05, 0.12, 0.3):
        theirs = compute_hoeffding_bentkus_p_value(losses.mean(1), 120, rate)[:, 0]
        assert hoeffding_bentkus_p_value(losses, rate) == pytest.approx(np.minimum(theirs, 1))


def test_the_betting_bound_is_about_that_of_mapie() -> None:
    """Theirs bets on the same rows, without a look at what is still to be won.

    They cut the rows in two and add up the best wealth of each half, which is more than the gambler ever has: a little
    tighter than it may be, so that ours, with the better bets, comes out about the same.
    """
    rng = np.random.default_rng(8)
    lambdas = np.linspace(0, 1, 101)
    apart = []
    for _ in range(10):
        losses = rng.choice([0.0, 1.0, 0.5], size=200, p=[0.7, 0.1, 0.2])
        risks = np.repeat(losses[:, None], len(lambdas), axis=1)
        _, upper = get_r_hat_plus(risks, lambdas, "rcps", "wsr", 0.1, 0.25)
        apart.append(betting_upper(losses, 0.9) - upper[0])
    assert np.mean(apart) == pytest.approx(0, abs=0.02)
    assert np.abs(apart).max() < 0.1


@pytest.mark.parametrize(("count", "n"), [(0, 30), (1, 30), (7, 50), (50, 50)])
def test_clopper_pearson_is_that_of_scipy(count: int, n: int) -> None:
    losses = np.arange(n) < count
    exact = binomtest(count, n).proportion_ci(0.8)  # two-sided 80 %: 90 % on each side
    assert clopper_pearson_upper(losses, 0.9) == pytest.approx(exact.high)
    assert clopper_pearson_lower(losses, 0.9) == pytest.approx(exact.low)
    assert binomial_p_value(losses, 0.2) == pytest.approx(binomtest(count, n, 0.2, alternative="less").pvalue)


def test_rows_needed_are_about_enough() -> None:
    rng = np.random.default_rng(9)
    few = rng.choice([0.0, 1.0], size=100, p=[0.1, 0.9])
    needed = rows_needed(few, 0.8, 0.9)
    assert needed is not None
    values = rng.choice([0.0, 1.0], size=(1_000, needed), p=[1 - few.mean(), few.mean()])
    assert rejected(betting_p_value(values, 0.8, 0.9), 0.9).mean() > 0.5
    assert rows_needed(few, 0.95, 0.9) is None


def test_scaling_refuses_what_lies_outside() -> None:
    assert scaled([-0.95, 0, 1], -0.95, 1) == pytest.approx([0, 0.95 / 1.95, 1])
    with pytest.raises(ValueError, match="between -1 and 1"):
        scaled([1.5], -1, 1)
