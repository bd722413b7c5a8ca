"""Drift: new requests whose scores are spread otherwise are told of; those drawn alike hardly ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.drift import drift, spread
from dynflow.calibration.saved import Calibration
from tests.calibration.test_calibrate import drawn, file_of, flow


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    file = file_of(tmp_path_factory.mktemp("drift"), drawn(600))
    return calibrate(flow(), file, kind="quality_of", target=0.9).calibration


def records(calibration: Calibration, scores: Any, **changes: Any) -> list[dict[str, Any]]:
    """Trace records of requests with these scores."""
    return [
        {"graph_hash": calibration.graph_hash, "nodes": [{"node": "difficulty", "values": {"score": score}}], **changes}
        for score in scores
    ]


def test_the_file_keeps_how_scores_were_spread(calibration: Calibration) -> None:
    kept = calibration.signals["difficulty.score"]
    assert kept["n"] == calibration.n
    assert kept["shares"][-1][2] == 1
    assert len(kept["shares"]) == 51


def test_requests_drawn_alike_have_hardly_ever_drifted(calibration: Calibration) -> None:
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(200):
        drawn_anew = replace(calibration, signals=spread({"difficulty.score": rng.random(400)}))
        told += drift(drawn_anew, records(calibration, rng.random(200)))[0].drifted
    assert told <= 6


def test_new_conversations_are_no_more_independent_than_those_calibrated_on(calibration: Calibration) -> None:
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(200):
        signals = spread({"difficulty.score": np.repeat(rng.random(100), 5)}, 1 / 5)
        drawn_anew = replace(calibration, signals=signals, n=100, requests=500)
        told += drift(drawn_anew, records(calibration, np.repeat(rng.random(100), 5)))[0].drifted
    assert told <= 6


def test_other_requests_have(calibration: Calibration) -> None:
    rng = np.random.default_rng(0)
    (found,) = drift(calibration, records(calibration, rng.random(200) ** 2))
    assert found.drifted
    assert "calibrate again" in str(found)


def test_few_requests_and_those_of_other_graphs_say_nothing(calibration: Calibration) -> None:
    assert drift(calibration, records(calibration, np.zeros(49))) == []
    assert drift(calibration, records(calibration, np.zeros(500), graph_hash="other")) == []


def test_equal_scores_are_no_drift() -> None:
    kept = spread({"a.b": np.repeat([0.0, 1.0], [100, 300])})["a.b"]
    assert kept == {"n": 400, "shares": [[0.0, 0.0, 0.25], [1.0, 0.25, 1.0]]}


def test_the_last_bits_are_no_drift(calibration: Calibration) -> None:
    """One by one a signal gives a hair more or less than in a batch."""
    tiny = replace(calibration, signals=spread({"difficulty.score": np.repeat([0.00833549, 0.9], [300, 100])}))
    (found,) = drift(tiny, records(tiny, np.repeat([0.00833551, 0.8999996], [150, 50])))
    assert found.distance == 0
    for other in ([0.00833551] * 200, [0.9] * 200, [0.009] * 150 + [0.9] * 50, [0.008] * 150 + [0.9] * 50):
        assert drift(tiny, records(tiny, other))[0].drifted


@pytest.mark.parametrize(("scores", "drifted"), [([0.5] * 100, False), ([0.4] * 100, True), ([0.6] * 100, True)])
def test_a_number_that_was_always_the_same(calibration: Calibration, scores: list[float], drifted: bool) -> None:
    constant = replace(calibration, signals=spread({"difficulty.score": np.full(200, 0.5)}))
    (found,) = drift(constant, records(constant, scores))
    assert found.drifted == drifted
