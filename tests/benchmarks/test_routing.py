"""The routing benchmark measures what it says: hand-computed figures, groups that stay whole, labels read anew."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.scripts import load_script

data = load_script("routing_data")
protocol = load_script("routing_protocol")
trials = load_script("routing_trials")
regrade = load_script("routing_regrade")


def silent(done: int, total: int, what: str) -> None:
    pass


def test_groups_are_on_one_side_of_every_split() -> None:
    groups = np.repeat(np.arange(30), np.arange(30) % 4 + 1)
    train, test = data.labelled(groups, 20, 0)
    assert not set(groups[train]) & set(groups[test])
    assert sorted([*train, *test]) == list(range(len(groups)))
    assert 20 <= len(train) < 24
    assert list(train) != list(data.labelled(groups, 20, 1)[0])
    for split in (data.folds(groups, 5, 0), data.divided(groups.tolist(), 5, 0)):
        parts = list(split)
        assert sorted(np.concatenate([test for _, test in parts])) == list(range(len(groups)))
        assert all(not set(groups[train]) & set(groups[test]) for train, test in parts)


def test_figures_of_ten_rows_by_hand() -> None:
    """Rows in the order of their score; the strong model wins the first and the third and loses none.

    Of the gap of 2 rows one is won back by the first call, the other by the third: the curve is 0, ½, ½, 1, 1, … at
    0, 10, 20, 30, … %. Its trapezoids make 0.1 · (¼ + ½ + ¾ + 7) = 0.85. Half is reached at 10 %, 80 % on the line from
    ½ at 20 % to 1 at 30 %, at 26 %.
    """
    weak, strong = np.ones(10), np.ones(10)
    weak[[0, 2]] = 0
    scores = {"known": np.arange(10, 0, -1.0), "none": np.zeros(10)}
    trial = protocol.Trial(np.arange(10), scores)
    usd = {name: np.column_stack([np.full(10, 1.0), np.full(10, 11.0)]) for name in scores}
    found = protocol.judged([trial], np.column_stack([weak, strong]), np.arange(10), "none", usd=usd, replicates=50)
    figures = {key: figure["value"] for key, figure in found.routers["known"].items()}
    assert figures["apgr_exact"] == pytest.approx(0.85)
    assert figures["cpt50_exact"] == pytest.approx(0.1)
    assert figures["cpt80_exact"] == pytest.approx(0.26)
    assert figures["apgr"] == pytest.approx(0.85)  # ten bins of ten rows cut between all of them
    assert figures["usd_cpt50"] == pytest.approx(1 + 10 * figures["cpt50"])
    assert found.routers["none"]["apgr"]["value"] == pytest.approx(0.5)
    assert found.routers["none"]["cpt80"]["value"] == pytest.approx(0.8)
    assert found.gains["known"]["apgr"]["value"] == pytest.approx(0.35)
    assert found.gains["known"]["apgr"]["low"] <= 0.35 <= found.gains["known"]["apgr"]["high"]
    assert [found.curves["known"][0], found.curves["known"][-1]] == [0, 1]


def test_intervals_are_wider_where_rows_come_in_groups() -> None:
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.random(40), 10)
    gain = (np.repeat(rng.random(40), 10) < hard).astype(float)
    quality = np.column_stack([1 - gain, np.ones(400)])
    trial = protocol.Trial(np.arange(400), {"a": hard, "b": np.zeros(400)})
    widths = []
    for groups in (np.arange(400), np.repeat(np.arange(40), 10)):
        figure = protocol.judged([trial], quality, groups, "b", replicates=100).routers["a"]["apgr"]
        widths.append(figure["high"] - figure["low"])
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_entries_never_see_the_rows_that_they_judge() -> None:
    groups = np.arange(60) // 2

    def entry(train: np.ndarray, test: np.ndarray, those: np.ndarray) -> np.ndarray:
        assert not set(groups[train]) & set(groups[test])
        assert list(those) == list(groups[train])
        return test.astype(float)

    for found in (
        trials.labelled_trials({"a": entry}, groups, 20, silent, ""),
        trials.crossed_trials({"a": entry}, groups, silent, ""),
    ):
        assert len(found) == trials.SEEDS
        assert all(list(trial.scores["a"]) == list(trial.rows) for trial in found)
    topics = [f"topic {row % 20}" for row in range(60)]
    for labels, most in ((None, 57), (10, 10)):
        held = trials.topic_trials(
            {"a": lambda train, test, those: np.full(len(test), float(len(train)))}, topics, labels, silent, ""
        )
        assert all(trial.scores["a"].max() <= most and sorted(trial.rows) == list(range(60)) for trial in held)


@pytest.mark.parametrize(
    ("text", "recorded", "read"),
    [
        ("so $36.00 / 36 = $1.00 per bagel.", 0, 1.0),
        ("#### $1,250\n\nThat is 3 more.", 3, 1250.0),
        ("it is 3.18", 18, 3.18),
        ("below zero: -6", 6, -6.0),
        ("nothing", None, None),
    ],
)
def test_numbers_as_the_recorded_grader_reads_them_and_as_they_are(
    text: str, recorded: int | None, read: float | None
) -> None:
    assert regrade.recorded_reading(text) == recorded
    assert regrade.reading(text) == read


def test_grades_are_mended_where_decimals_were_misread() -> None:
    drafts = ["#### 20", "#### 0.84", "7.00", "#### 5", "-6"]
    others = ["it is $20.00.", "84", "$7.00", "6", "6 degrees below zero"]
    recorded = np.array([[1, 0], [1, 1], [0, 0], [0, 0], [1, 1]], dtype=float)
    assert regrade.regraded(drafts, others, recorded).tolist() == [[1, 1], [0, 1], [1, 1], [0, 0], [1, 1]]
