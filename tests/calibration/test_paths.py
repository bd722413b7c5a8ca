"""Which settings are tried, and in which order."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import dynflow
from dynflow.calibration.outcomes import read_outcomes
from dynflow.calibration.paths import hull, path, tunable
from dynflow.calibration.replay import Replay
from dynflow.errors import CalibrationError
from tests.calibration.test_replay import BANDS, CASCADE, HOST, rows, write


def replay(text: str, tmp_path: Path, names: list[str], count: int = 80) -> Replay:
    return Replay(dynflow.loads(text, runnables=HOST), read_outcomes(write(tmp_path, rows(names, count))))


ROUTE = """
version: 1
params:
  %s
models: {a: {provider: host}, b: {provider: host}}
nodes:
  difficulty: {type: runnable, name: difficulty, ports: {score: number, kind: string}, on_failure: {score: 1, kind: x}}
  local: {type: chat, model: a}
  cloud: {type: chat, model: b}
edges:
  - {from: start, to: difficulty}
  - {from: difficulty, to: cloud, when: %s}
  - {from: difficulty, to: local}
  - {from: local, to: end}
  - {from: cloud, to: end}
"""
BAR = "bar: {default: 0.5, min: 0, max: 1, tune: true}"


@pytest.mark.parametrize("when", ["difficulty.score >= params.bar", "params.bar <= difficulty.score"])
def test_one_param_goes_from_always_to_never(tmp_path: Path, when: str) -> None:
    found = replay(ROUTE % (BAR, when), tmp_path, ["local", "cloud"])
    settings = path(found, "cloud")
    share = found.walk(settings).called["cloud"].mean(1)
    assert share[0] == 1
    assert share[-1] == pytest.approx(np.mean([0.45 < float(r.text.split()[0]) < 0.55 for r in found.requests]))
    assert (np.diff(share) <= 0).all()
    assert len(np.unique(share)) > 60  # nearly every score is told from the next


def test_a_param_of_the_other_sense_goes_the_other_way(tmp_path: Path) -> None:
    found = replay(ROUTE % (BAR, "difficulty.score <= params.bar"), tmp_path, ["local", "cloud"])
    share = found.walk(path(found, "cloud")).called["cloud"].mean(1)
    assert (np.diff(share) <= 0).all()


def test_a_whole_number_stays_one(tmp_path: Path) -> None:
    param = "bar: {default: 5, min: 0, max: 10, tune: true}"
    found = replay(ROUTE % (param, "10 * difficulty.score >= params.bar"), tmp_path, ["local", "cloud"])
    values = [setting["bar"] for setting in path(found, "cloud")]
    assert values == list(range(11))
    assert all(type(value) is int for value in values)


def test_several_params_go_one_way_that_is_worth_it(tmp_path: Path) -> None:
    found = replay(CASCADE.replace("context: 30", "context: 3000"), tmp_path, ["local", "cloud"], 200)
    settings = path(found, "cloud")
    walked = found.walk(settings)
    assert walked.called["cloud"][0].all()
    assert {tuple(setting) for setting in settings} == {("easy_below", "trust_above")}
    grid = [dict(zip(settings[0], point, strict=True)) for point in itertools.product(np.linspace(0, 1, 9), repeat=2)]
    other = found.walk(grid)
    usd, quality = walked.usd.mean(1), walked.quality.mean(1)
    best = [quality[usd <= cost * 1.0001].max(initial=-1) for cost in other.usd.mean(1)]
    assert (np.array(best) >= other.quality.mean(1) - 0.02).mean() > 0.9


@pytest.mark.parametrize(
    ("score", "most"),
    [
        ("${difficulty.score}", 200),  # a router tells that it only compares them
        ("${difficulty.score ?? params.low}", 60),  # it gives the value itself, and so runs for each of them
    ],
)
def test_params_that_signals_read_are_swept_too(tmp_path: Path, score: str, most: int) -> None:
    text = BANDS.replace("${difficulty.score}", score)
    settings = path(found := replay(text, tmp_path, ["small", "middle", "big", "sorry"]), "big")
    assert len(np.unique(found.walk(settings).called["big"].mean(1))) > 5
    assert most / 4 < len(settings) < most


def test_without_a_knob_there_is_nothing_to_try(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="tune: true") as caught:
        tunable(replay(CASCADE.replace(", tune: true", ""), tmp_path, ["local", "cloud"]))
    assert caught.value.code == "no_knob"


def test_the_hull_keeps_what_no_mix_of_others_beats() -> None:
    cost = np.array([0.0, 1.0, 2.0, 3.0, 2.0, 4.0])
    quality = np.array([0.0, 0.6, 0.7, 1.0, 0.9, 0.9])
    assert hull(cost, quality) == [3, 4, 1, 0]
    assert hull(np.zeros(2), np.array([0.1, 0.2])) == [1]
