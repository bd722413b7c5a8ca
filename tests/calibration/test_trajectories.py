"""Trajectories: every stop rule tried on one recorded run, and promises kept by it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dynflow.calibration.promises import Promise, last_kept, variables
from dynflow.calibration.trajectories import Trajectories
from tests.effort import EFFORT


def drawn(n: int, seed: int, layers: int = 6) -> Trajectories:
    """An encoder whose layers get surer and better; a sure one is mostly right."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0.2, 1, layers)
    score = np.clip(depth + 0.4 * rng.random((n, 1)) - 0.2 + 0.05 * rng.standard_normal((n, layers)), 0, 1)
    quality = (rng.random((n, 1)) < np.clip(0.3 + 0.7 * score, 0, 0.97)).astype(float)
    return Trajectories(np.broadcast_to(np.arange(1.0, layers + 1), (n, layers)), score, quality)


def test_a_run_stops_where_its_score_reaches_the_threshold() -> None:
    found = Trajectories(
        np.array([[1.0, 2, 3], [1, 2, 3]]), np.array([[0.2, 0.6, 0.1], [0.9, 0.1, 0.1]]), np.eye(3)[:2]
    )
    assert found.stops([0.0, 0.5, 0.8, math.inf]).tolist() == [[0, 0], [1, 0], [2, 0], [2, 2]]
    sample = found.under([0.5, math.inf])
    assert sample.usd.tolist() == [[2, 1], [3, 3]]
    assert sample.quality.tolist() == [[0, 0], [0, 0]]
    assert sample.called.tolist() == [[False, False], [True, True]]
    assert (sample.cap, sample.binary) == (3, True)


def test_a_score_is_a_number() -> None:
    whole = np.ones((1, 2))
    with pytest.raises(ValueError, match="a score is a number"):
        Trajectories(whole, np.array([[np.nan, 1.0]]), whole)


def test_stop_rules_keep_their_promise_like_routes() -> None:
    truth = drawn(20_000, 0)
    thresholds = drawn(200, 1).thresholds()
    promise = Promise("quality_of", 0.95, "the whole run", 0.9)
    draws, broken, saved = 30 * EFFORT, 0, []
    for seed in range(draws):
        tested = variables(promise, drawn(400, seed + 2).under(thresholds))
        chosen = last_kept(tested.kept(0.9))
        sample = truth.under(thresholds[[max(chosen, 0)]])
        broken += sample.quality.mean() < 0.95 * sample.reference.mean()
        saved.append(1 - sample.usd.mean() / 6)
    assert broken / draws <= 0.1 + 2 * math.sqrt(0.09 / draws)
    assert np.mean(saved) > 0.1


def test_records_are_read_back_whole() -> None:
    found = drawn(5, 3)
    rows = [json.loads(line) for line in found.as_rows([str(row) for row in range(5)])]
    again = Trajectories.of_rows(rows)
    assert (again.cost == found.cost).all()
    assert (again.score == found.score).all()
    assert (again.quality == found.quality).all()


@pytest.mark.parametrize(
    ("cost", "quality", "told"),
    [
        (np.ones((2, 3)), np.ones((2, 2)), "one number for each"),
        (np.array([[2.0, 1.0]]), np.ones((1, 2)), "cannot fall"),
        (np.ones((1, 2)), np.full((1, 2), 1.5), "from 0 to 1"),
    ],
)
def test_what_is_no_trajectory_is_refused(cost: np.ndarray, quality: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Trajectories(cost, np.ones(cost.shape), quality)
    with pytest.raises(ValueError, match="same number"):
        Trajectories.of_rows([{"trajectory": []}, {"trajectory": [{}]}])
