"""What decides and where it is cut; whether probabilities mean what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dynflow
from dynflow.calibration.measurements import Predicted, predictions, scores
from dynflow.calibration.outcomes import read_outcomes
from dynflow.calibration.reliability import reliability
from dynflow.calibration.replay import Replay
from tests.calibration.test_calibrate import drawn, file_of
from tests.calibration.test_inside import flow as nested
from tests.calibration.test_inside import recorded
from tests.calibration.test_replay import BANDS, HOST, rows, write
from tests.calibration.test_report import JUDGED, difficulty


def test_thresholds_stand_beside_what_they_cut(tmp_path: Path) -> None:
    flow = dynflow.loads(JUDGED, runnables={"difficulty": difficulty})
    replay = Replay(flow, file_of(tmp_path, drawn(50)))
    (found,) = scores(replay.walking([{"bar": 0.3}]))
    assert (found.name, found.thresholds, len(found.values)) == ("difficulty.score", {"bar": 0.3}, 50)


def test_thresholds_that_a_router_reads_count_too(tmp_path: Path) -> None:
    file = read_outcomes(write(tmp_path, rows(["small", "middle", "big", "sorry"])))
    found = scores(Replay(dynflow.loads(BANDS, runnables=HOST), file).walking([{}]))
    assert {each.name: each.thresholds for each in found} == {"difficulty.score": {"low": 0.3, "high": 0.7}}


def test_those_inside_are_told_by_their_whole_names(tmp_path: Path) -> None:
    file = read_outcomes(write(tmp_path, recorded()))
    found = {each.name: each for each in scores(Replay(nested(tmp_path), file).walking([{}]))}
    assert found.keys() == {"length.words", "tutor/difficulty.score", "tutor/check.confidence"}
    assert found["tutor/check.confidence"].thresholds == {"tutor/trust_above": 0.4}  # as the outer graph hands it
    assert len(found["tutor/check.confidence"].values) < len(found["tutor/difficulty.score"].values) < 60


def test_predictions_stand_beside_the_answers_that_they_are_of(tmp_path: Path) -> None:
    flow = dynflow.loads(JUDGED, runnables={"difficulty": difficulty})
    data = drawn(200)
    found = predictions(Replay(flow, file_of(tmp_path, data)).walking([{}]), "local", "cloud")
    assert [(each.signal, each.of) for each in found] == [
        ("difficulty.quality.weak", "local"),
        ("difficulty.quality.strong", "cloud"),
    ]
    assert found[0].quality.tolist() == [row["outcomes"]["local"]["quality"] for row in data]
    assert found[0].probability == pytest.approx([0.95 - 0.8 * float(row["prompt"]) for row in data])


def test_true_probabilities_lie_on_the_diagonal_and_wrong_ones_off_it() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(5_000)
    quality = (rng.random(5_000) < probability).astype(float)
    found = reliability(Predicted("check.quality.weak", "local", probability, quality))
    assert sum(each.n for each in found.bins) == found.n == 5_000
    assert found.error < 0.03
    assert found.brier == pytest.approx(1 / 6, abs=0.01)
    assert all(each.observed.low <= each.observed.value <= each.observed.high for each in found.bins)
    inside = [each.observed.low <= each.predicted <= each.observed.high for each in found.bins]
    assert sum(inside) >= 8
    assert reliability(Predicted("s", "local", 1 - probability, quality)).error > 0.4


@pytest.mark.parametrize(("probability", "quality"), [([0.5], [1.0]), ([0.7] * 9, [0.0] * 9), ([0.0, 1.0], [0.0, 1.0])])
def test_few_rows_and_ties_have_their_bins(probability: list[float], quality: list[float]) -> None:
    found = reliability(Predicted("s", "local", np.array(probability), np.array(quality)))
    assert len(found.bins) <= len(set(probability))
    assert sum(each.n for each in found.bins) == len(quality)
    assert all(0 <= each.observed.low <= each.observed.high <= 1 for each in found.bins)
