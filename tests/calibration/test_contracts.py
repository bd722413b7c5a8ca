"""Promises that a graph states: the cheapest setting that keeps one on new requests, chosen on recorded runs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from dynflow.calibration.contracts import Tries, choose, way
from dynflow.errors import CalibrationError
from tests.effort import EFFORT

SHARE, CONFIDENCE = 0.95, 0.9
POOL = 3_000


def pool(outputs, seed=0, requests=POOL, guessed=0.35):
    """Images whose hidden need of steps a plan guesses from the prompt (up) and a stop rule from the run (across)."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(3.3, 0.6, requests)
    need = np.clip(2 ** (hard[:, None] + rng.normal(0, 0.5, (requests, outputs))), 2, 50)
    guess = hard + rng.normal(0, guessed, requests)
    plans = np.stack([2 ** (guess + sure) for sure in (np.inf, 1.2, 1.0, 0.75, 0.6, 0.3, 0.1, -0.2)])
    seen = need * np.exp(rng.normal(0, 0.3, (requests, outputs)))
    patience = np.concatenate([[np.inf], np.geomspace(4, 0.5, 19)])
    steps = np.ceil(np.clip(np.minimum(plans[:, None, :, None], patience[:, None, None] * seen), 2, 50))
    kept = (steps >= need).mean(-1)
    settings = [[(a, b) for b in range(20)] for a in range(8)]
    return Tries(settings, kept, steps.mean(-1), outputs == 1)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_promise_is_kept_on_new_requests_and_saves_nearly_what_there_is(outputs):
    draws, requests = (50 if EFFORT == 1 else 500), 400
    whole = pool(outputs)
    lost, cost = 1 - whole.kept.mean(-1), whole.cost.mean(-1)
    rng = np.random.default_rng(1)
    broken, saved, possible = [], [], []
    for draw in range(draws):
        drawn = whole.of(rng.integers(0, POOL, requests))
        a, b = choose(drawn, SHARE, CONFIDENCE, seed=draw).setting
        broken.append(lost[a, b] > 1 - SHARE)
        saved.append(cost[0, 0] - cost[a, b])
        plain = np.where(1 - drawn.kept.mean(-1) <= 1 - SHARE, drawn.cost.mean(-1), np.inf)
        possible.append(cost[0, 0] - cost.flat[plain.argmin()])
    doubt = 1 - CONFIDENCE
    assert np.mean(broken) <= doubt + 2 * math.sqrt(doubt * (1 - doubt) / draws)
    assert np.mean(saved) >= 0.7 * np.mean(possible)
    assert np.mean(possible) > 0.5 * cost[0, 0]


def test_a_plain_choice_breaks_it_more_often():
    whole = pool(1)
    lost = 1 - whole.kept.mean(-1)
    rng = np.random.default_rng(2)
    broken = []
    for _ in range(60):
        drawn = whole.of(rng.integers(0, POOL, 400))
        plain = np.where(1 - drawn.kept.mean(-1) <= 1 - SHARE, drawn.cost.mean(-1), np.inf)
        broken.append(lost.flat[plain.argmin()] > 1 - SHARE)
    assert np.mean(broken) > 1.5 * (1 - CONFIDENCE)


def test_too_few_rows_to_choose_on_are_refused_with_the_number_needed():
    with pytest.raises(CalibrationError, match="95 prompts are too few: give 100 or more") as raised:
        choose(pool(1, requests=95), SHARE, CONFIDENCE)
    assert raised.value.code == "too_little_data"
    assert choose(pool(1, requests=100), 0.8, CONFIDENCE).n == 80


def test_a_hard_promise_is_refused_with_about_the_number_that_it_takes():
    small, share = pool(1, seed=3, requests=150), 0.99
    with pytest.raises(CalibrationError) as raised:
        choose(small, share, CONFIDENCE)
    assert raised.value.code == "too_little_data"
    more = int(str(raised.value).split("about ")[1].split(" more")[0].replace(",", ""))
    assert 100 < more < 2_000
    assert choose(pool(1, seed=4, requests=150 + 2 * more), share, CONFIDENCE).cost < 50


def test_where_nothing_but_whole_runs_keeps_it_that_is_said():
    kept, cost = np.zeros((2, 3, 500)), np.full((2, 3, 500), 5.0)
    kept[0, 0], cost[0, 0] = 1.0, 50.0
    with pytest.raises(
        CalibrationError, match="nothing but whole runs keeps this promise for 95 % of images"
    ) as raised:
        choose(Tries([["w", "b", "c"], ["d", "e", "f"]], kept, cost, True), SHARE, CONFIDENCE)
    assert raised.value.code == "broken_promise"


def test_a_way_through_the_grid_begins_with_the_whole_run_and_gets_looser_notch_by_notch():
    tries = pool(1, requests=500)
    found = way(tries, 1 - SHARE)
    assert found[0] == (0, 0)
    assert all((a2 - a) + (b2 - b) == 1 and a2 >= a and b2 >= b for (a, b), (a2, b2) in itertools.pairwise(found))
    cost = np.array([tries.cost[place].mean() for place in found])
    assert np.all(np.diff(cost) <= 1e-9)
    loss = np.array([1 - tries.kept[place].mean() for place in found])
    cheapest = np.where(1 - tries.kept.mean(-1) <= 1 - SHARE, tries.cost.mean(-1), np.inf).min()
    assert cost[loss <= 1 - SHARE].min() < 1.1 * cheapest
