"""The comparison with static depths finds a difference that is there, and none that is not."""

from __future__ import annotations

import numpy as np

from tests.benchmarks.scripts import load_script

depths = load_script("early_exit_depths")
ROWS = 3000


def trial(seed: int, gain: float) -> object:
    """Ours: exits after 0, 1 and 2 layers, of which the last is best, and rows that are sure of themselves early. The
    static encoder of one layer is as good as they are where half of the rows leave at once, less `gain`."""
    rng = np.random.default_rng(seed)
    sure = np.repeat(rng.random((ROWS, 1)), 3, axis=1)
    chance = np.stack([0.7 + 0.25 * sure[:, 0], np.full(ROWS, 0.9), np.full(ROWS, 0.95)], axis=1)
    share = np.where(sure[:, 0] >= 0.5, chance[:, 0], chance[:, 2]).mean()
    return depths.Trial(
        ours=rng.random((ROWS, 3)) < chance,
        sure=sure,
        layers=np.array([0, 1, 2]),
        static={1: rng.random(ROWS) < share - gain},
        alone=0.9,
        clusters=rng.integers(0, ROWS // 5, ROWS),
        seed=seed,
    )


def test_the_threshold_is_chosen_on_rows_that_do_not_judge() -> None:
    each = trial(0, 0.0)
    right, layers, rows = each.at(1.0)
    assert abs(layers - 1.0) < 0.05  # half of the rows leave at once, half take both layers
    assert len(right) == len(rows)
    assert not set(each.clusters[rows]) & set(np.delete(each.clusters, rows))
    assert each.at(0.5)[1] < each.at(1.0)[1] < each.at(1.5)[1]


def test_a_gain_is_found_where_there_is_one() -> None:
    better = depths.compared([trial(seed, 0.05) for seed in range(3)], 1)["same"]["gain"]
    assert 0 < better["low"] < 0.05 < better["high"]
    level = depths.compared([trial(seed, 0.0) for seed in range(3)], 1)["same"]["gain"]
    assert level["low"] < 0 < level["high"]
    worse = depths.compared([trial(seed, -0.05) for seed in range(3)], 1)["same"]["gain"]
    assert worse["high"] < 0
