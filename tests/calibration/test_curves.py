"""Curves and what is read off them: RouteLLM's figures, ties, intervals, baselines."""

from __future__ import annotations

import numpy as np
import pytest

from dynflow.calibration.curves import (
    BASELINES,
    MEASURES,
    Array,
    mean_interval,
    measures,
    resamples,
    score_curve,
    score_measures,
    swept_measures,
    with_intervals,
)


def rows(n: int = 400, seed: int = 0) -> tuple[Array, Array, Array]:
    """A score with some skill, and both paths' 0/1 qualities."""
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    strong = (rng.random(n) < 0.85).astype(float)
    weak = (rng.random(n) < 0.95 - 0.6 * score).astype(float)
    return score, weak, strong


def as_routellm_has_it(score: Array, weak: Array, strong: Array) -> tuple[float, float, float]:
    """RouteLLM's protocol written out: eleven quantiles as thresholds, trapezoids, interpolation."""
    thresholds = np.quantile(score, np.linspace(0, 1, 11))
    shares, qualities = [], []
    for index, threshold in enumerate(thresholds):
        taken = score > threshold if index == 10 else score >= threshold
        shares.append(taken.mean())
        qualities.append(np.where(taken, strong, weak).mean())
    x, y = np.array(shares[::-1]), np.array(qualities[::-1])
    gap = (y - weak.mean()) / (strong.mean() - weak.mean())
    return float(np.trapezoid(gap, x)), float(np.interp(0.5, gap, x)), float(np.interp(0.8, gap, x))


@pytest.mark.parametrize("n", [37, 400, 651, 7_093])
def test_the_figures_are_routellms(n: int) -> None:
    score, weak, strong = rows(n, seed=n)
    apgr, cpt50, cpt80 = as_routellm_has_it(score, weak, strong)
    found = dict(zip(MEASURES, score_measures(score, weak, strong), strict=True))
    # Where a quantile falls on a row, rounding decides whether that row reaches it: one row this way or that.
    assert found["apgr"] == pytest.approx(apgr, abs=1 / n if n == 651 else 1e-9)
    if n > 100:  # else the curve falls here and there, and interpolation means nothing
        assert found["cpt50"] == pytest.approx(cpt50, abs=2 / n if n == 651 else 1e-9)
        assert found["cpt80"] == pytest.approx(cpt80, abs=2 / n if n == 651 else 1e-9)
    assert found["apgr_exact"] == pytest.approx(found["apgr"], abs=0.03)


def test_the_exact_curve_is_every_thresholds() -> None:
    score, weak, strong = rows(50)
    curve = score_curve(score, weak, strong)
    for share, quality in zip(curve.share, curve.quality, strict=True):
        taken = score >= np.sort(score)[::-1][max(round(share * 50) - 1, 0)] if share else np.zeros(50, bool)
        assert quality == pytest.approx(np.where(taken, strong, weak).mean())
        assert share == pytest.approx(taken.mean())


def test_ties_give_what_a_random_order_gives_on_average() -> None:
    score, weak, strong = rows(120)
    coarse = np.round(score * 4)
    exact = score_measures(coarse, weak, strong)
    rng = np.random.default_rng(1)
    broken = np.mean([score_measures(coarse + 1e-6 * rng.random(120), weak, strong) for _ in range(600)], axis=0)
    assert exact[0] == pytest.approx(broken[0], abs=0.01)
    assert exact[3] == pytest.approx(broken[3], abs=0.01)


def test_random_recovers_in_proportion() -> None:
    length, weak, strong = rows()
    assert score_measures(BASELINES["random"](length, weak, strong), weak, strong) == pytest.approx(
        [0.5, 0.5, 0.8, 0.5, 0.5, 0.8]
    )


def test_nothing_beats_the_oracle() -> None:
    score, weak, strong = rows()
    best = score_measures(BASELINES["oracle"](score, weak, strong), weak, strong)
    mine = score_measures(score, weak, strong)
    assert best[0] >= mine[0]
    assert (best[1:3] <= mine[1:3]).all()
    assert best[0] > 0.9


def test_a_strong_path_that_is_no_better_has_no_figures() -> None:
    score, weak, _ = rows()
    assert np.isnan(score_measures(score, weak, weak)).all()
    figures = with_intervals(np.full(6, np.nan), np.full((10, 6), np.nan))
    assert figures["apgr"].as_dict() == {"value": None, "low": None, "high": None}


def test_trying_every_threshold_gives_the_score_s_curve() -> None:
    score, weak, strong = rows(80)
    thresholds = np.append(np.unique(score), 2.0)
    called = score[None, :] >= thresholds[:, None]
    quality = np.where(called, strong, weak)
    assert swept_measures(called, quality, weak, strong) == pytest.approx(score_measures(score, weak, strong), rel=1e-5)
    weights = resamples(80, 20, seed=3)
    assert swept_measures(called, quality, weak, strong, weights) == pytest.approx(
        score_measures(score, weak, strong, weights), rel=1e-4, nan_ok=True
    )


def test_resamples_are_weights_and_come_again() -> None:
    weights = resamples(30, 50, seed=1)
    assert weights.shape == (50, 30)
    assert (weights.sum(1) == 30).all()
    assert (weights == resamples(30, 50, seed=1)).all()
    assert (weights != resamples(30, 50, seed=2)).any()


def test_a_resample_s_figures_are_those_of_the_rows_drawn() -> None:
    score, weak, strong = rows(300)
    weights = resamples(300, 5, seed=4)
    drawn = score_measures(score, weak, strong, weights)
    for weight, figures in zip(weights, drawn, strict=True):
        index = np.repeat(np.arange(300), weight.astype(int))
        assert figures == pytest.approx(score_measures(score[index], weak[index], strong[index]), rel=1e-4)


def test_intervals_cover() -> None:
    """Of 200 samples, the 90 % interval of the mean quality and of APGR holds the population's nearly as often."""
    score, weak, strong = rows(20_000, seed=9)
    truth = score_measures(score, weak, strong)[3]
    rng = np.random.default_rng(5)
    hits = [0, 0]
    for draw in range(200):
        index = rng.integers(0, 20_000, 300)
        weights = resamples(300, 200, seed=draw)
        part = score[index], weak[index], strong[index]
        interval = with_intervals(score_measures(*part), score_measures(*part, weights), confidence=0.9)["apgr_exact"]
        mean = mean_interval(weak[index], weights, 0.9)
        hits[0] += interval.low <= truth <= interval.high
        hits[1] += mean.low <= weak.mean() <= mean.high
    assert min(hits) >= 165
    assert max(hits) <= 197


def test_a_curve_may_end_before_it_recovers_enough() -> None:
    figures = measures([0.0, 1.0], [0.5, 1.0], 0.5, 1.0, 10)
    assert figures[3:] == pytest.approx([0.5, 0.5, 0.8])
