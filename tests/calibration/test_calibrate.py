"""Calibrations keep their promises, refuse what they cannot keep, and never look at rows they should not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynflow
from dynflow.calibration.calibrate import Calibrated, calibrate
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.outcomes import OutcomeFile, read_outcomes
from dynflow.calibration.promises import Kind, Promise, Sample, last_kept, variables
from dynflow.calibration.replay import Replay
from dynflow.errors import CalibrationError, OutcomeError
from dynflow.flow import Flow
from dynflow.nodes.runnable import RunnableOfHost
from tests.cli.outcomes import write_rows
from tests.effort import EFFORT

ROUTE = """
version: 1
params:
  bar: {default: 0.5, min: 0, max: 1, tune: true}
models:
  a: {provider: host, price: {input: 1, output: 1}}
  b: {provider: host, price: {input: 30, output: 30}}
nodes:
  difficulty: {type: runnable, name: difficulty, ports: {score: number}, on_failure: {score: 1}}
  local: {type: chat, model: a}
  cloud: {type: chat, model: b}
edges:
  - {from: start, to: difficulty}
  - {from: difficulty, to: cloud, when: difficulty.score >= params.bar}
  - {from: difficulty, to: local}
  - {from: local, to: end}
  - {from: cloud, to: end}
limits: {usd_per_request: 0.02}
baseline: cloud
"""
HOST = {"difficulty": lambda text: {"score": float(text.split()[0])}}


def flow(text: str = ROUTE) -> Flow:
    return dynflow.loads(text, runnables=HOST)


def drawn(n: int, seed: int = 0, skill: float = 0.8) -> list[dict[str, Any]]:
    """Requests whose score tells where the weak answer fails."""
    rng = np.random.default_rng(seed)
    score, strong = rng.random(n), rng.random(n) < 0.9
    weak = rng.random(n) < 0.95 - skill * score
    usd = rng.uniform(0.001, 0.01, n)
    return [
        {
            "id": f"{seed}/{row}",
            "prompt": f"{score[row]:.6f}",
            "outcomes": {
                "local": {"quality": int(weak[row]), "usd": 0.0001},
                "cloud": {"quality": int(strong[row]), "usd": float(usd[row])},
            },
        }
        for row in range(n)
    ]


def file_of(folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "o.jsonl") -> OutcomeFile:
    return read_outcomes(write_rows(folder / name, rows))


def run(folder: Path, n: int, kind: Kind, target: float, seed: int = 0, **options: Any) -> Calibrated:
    return calibrate(flow(), file_of(folder, drawn(n, seed)), kind=kind, target=target, **options)


@pytest.mark.parametrize(("kind", "target"), [("quality_of", 0.9), ("quality", 0.8), ("usd", 0.003), ("share", 0.4)])
def test_promises_are_kept_and_worth_something(tmp_path: Path, kind: Kind, target: float) -> None:
    """Of many calibrations, no more than a tenth and two standard errors break the promise on new requests."""
    truth = Replay(flow(), file_of(tmp_path, drawn(20_000, 99), "truth.jsonl"))
    reference = truth.outcome_quality("cloud").mean()
    draws, broken, shares = 12 * EFFORT, 0, []
    for seed in range(draws):
        params = run(tmp_path, 500, kind, target, seed + 1).calibration.params
        walked = truth.walk([params])
        share = float(walked.called["cloud"].mean())
        shares.append(share)
        broken += {
            "quality_of": walked.quality.mean() < target * reference,
            "quality": walked.quality.mean() < target,
            "usd": walked.usd.mean() > target,
            "share": share > target,
        }[kind]
    assert broken / draws <= 0.1 + 2 * math.sqrt(0.09 / draws)
    assert 0.1 < np.mean(shares) < 0.9


def test_what_is_written_says_what_it_rests_on(tmp_path: Path) -> None:
    found = run(tmp_path, 600, "quality_of", 0.9)
    calibration = found.calibration
    assert calibration.graph_hash == flow().graph_hash
    assert calibration.statement == (
        "on new requests drawn like these, mean quality is at least 90 % of cloud's, "
        "unless this calibration was among the unlucky 10 %"
    )
    assert calibration.n + calibration.tuning_rows == 600
    assert 60 < calibration.tuning_rows < 180
    assert calibration.bound["value"] >= calibration.bound["limit"] == 0
    assert 0 < calibration.params["bar"] < 1
    expected = calibration.expected
    assert expected["quality"]["low"] < expected["quality"]["value"] < expected["quality"]["high"]
    assert expected["usd"]["value"] < expected["reference"]["usd"]["value"]
    again = run(tmp_path, 600, "quality_of", 0.9).calibration
    assert replace(again, made=calibration.made) == calibration


def test_the_order_comes_from_tuning_rows_alone(tmp_path: Path) -> None:
    """Whatever the calibration rows say, what is tried is the same."""
    tried: list[Any] = []
    walk = Replay.walk

    def noted(self: Replay, settings: Sequence[Any]) -> Any:
        tried.append([dict(setting) for setting in settings])
        return walk(self, settings)

    tuning = file_of(tmp_path, drawn(100, 7), "tuning.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "walk", noted)
        for seed in (1, 2):
            run(tmp_path, 400, "quality_of", 0.9, seed, tuning=tuning)
    assert tried[: len(tried) // 2] == tried[len(tried) // 2 :]
    assert tried[-1][0]["bar"] == 0  # always the reference comes first


def test_rows_that_choose_do_not_test(tmp_path: Path) -> None:
    tuning = file_of(tmp_path, drawn(100, 1)[:50], "tuning.jsonl")
    with pytest.raises(OutcomeError, match="tuning has this request too") as caught:
        run(tmp_path, 100, "quality_of", 0.9, 1, tuning=tuning)
    assert len(caught.value.faults) == 50


def test_the_order_of_the_file_does_not_count(tmp_path: Path) -> None:
    rows = drawn(400)
    found = [
        calibrate(flow(), file_of(tmp_path, each), kind="quality_of", target=0.9).calibration.params
        for each in (rows, sorted(rows, key=lambda row: row["outcomes"]["local"]["quality"]), rows[::-1])
    ]
    assert found[0] == found[1] == found[2]


def test_the_first_failure_ends_the_sequence() -> None:
    assert last_kept([True, True, False, True]) == 1
    assert last_kept([False, True]) == -1
    assert last_kept([True, True]) == 1


def test_what_the_rows_themselves_deny_is_not_promised() -> None:
    """A gambler may win early and the rows turn against him: the bound would allow it, we do not."""
    quality = np.array([[1.0] * 30 + [0.0] * 70])
    sample = Sample(quality, quality, quality > 2, np.full(100, 0.5))
    tested = variables(Promise("quality", 0.6, "cloud", 0.9), sample)
    assert not tested.kept(0.9).any()


def test_too_little_data_says_how_much_more(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"rows are too few .* about [\d,]+ rows more") as caught:
        run(tmp_path, 150, "quality_of", 0.99)
    assert caught.value.code == "too_little_data"
    with pytest.raises(CalibrationError, match="give at least 100"):
        run(tmp_path, 40, "quality_of", 0.9)


def test_what_no_setting_keeps_is_said(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no setting keeps the promise") as caught:
        run(tmp_path, 500, "quality", 0.97)
    assert caught.value.code == "broken_promise"


def test_a_safe_setting_that_saves_nothing_is_said(tmp_path: Path) -> None:
    rows = [{**row, "outcomes": {**row["outcomes"], "local": {"quality": 0, "usd": 0.0}}} for row in drawn(300)]
    found = calibrate(flow(), file_of(tmp_path, rows), kind="quality_of", target=0.98)
    assert found.calibration.expected["strong_share"]["value"] > 0.97


def test_a_cost_without_a_cap_is_not_promised(tmp_path: Path) -> None:
    text = ROUTE.replace("limits: {usd_per_request: 0.02}\n", "")
    with pytest.raises(CalibrationError, match="usd_per_request") as caught:
        calibrate(flow(text), file_of(tmp_path, drawn(300)), kind="usd", target=0.003)
    assert caught.value.code == "no_cap"
    every = "retries: 0, max_tokens: 200, capabilities: {context: 200}}"
    capped = text.replace("output: 1}}", f"output: 1}}, {every}").replace("output: 30}}", f"output: 30}}, {every}")
    found = calibrate(flow(capped), file_of(tmp_path, drawn(300)), kind="usd", target=0.0045)
    assert found.calibration.bound["value"] <= 0.0045
    with pytest.raises(CalibrationError, match="nothing to promise above that"):
        calibrate(flow(capped), file_of(tmp_path, drawn(300)), kind="usd", target=0.5)
    with pytest.raises(CalibrationError, match=r"a recorded request cost .* none costs more than \$0\.006:") as caught:
        calibrate(flow(capped.replace("200", "100")), file_of(tmp_path, drawn(300)), kind="usd", target=0.005)
    assert caught.value.code == "no_cap"


def test_rows_that_were_trained_on_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunnableOfHost, "trained_on", lambda self, request: request.text < "0.3")
    file = file_of(tmp_path, drawn(1_000))
    seen = sum(row.input < "0.3" for row in file.rows)
    found = calibrate(flow(), file, kind="quality_of", target=0.9).calibration
    assert found.trained_on == seen
    assert found.n + found.tuning_rows == 1_000 - seen
    evaluation = evaluate(flow(), file, times=20)
    assert (evaluation.trained_on, evaluation.n) == (seen, 1_000 - seen)
    monkeypatch.setattr(RunnableOfHost, "trained_on", lambda self, request: request.text < "0.98")
    with pytest.raises(CalibrationError, match=r"were trained on \('difficulty' on") as caught:
        calibrate(flow(), file, kind="quality_of", target=0.9)
    assert caught.value.code == "contaminated"


def test_evaluation_tells_the_curve(tmp_path: Path) -> None:
    found = evaluate(flow(), file_of(tmp_path, drawn(2_000)), times=100)
    figures = found.figures
    assert found.n == 2_000
    assert (found.ends.strong, found.ends.weak) == ("cloud", "local")
    assert 0.6 < figures["apgr"].low < figures["apgr"].value < figures["apgr"].high < 1
    assert figures["apgr_exact"].value == pytest.approx(figures["apgr"].value, abs=0.01)
    assert figures["cpt50"].value < 0.4 < figures["cpt80"].value < 0.8
    assert figures["strong_share"].value == pytest.approx(0.5, abs=0.04)
    assert figures["usd"].value == pytest.approx(0.5 * 0.0055 + 0.5 * 0.0001, rel=0.1)
    assert found.baselines["oracle"]["apgr"].value > figures["apgr"].value
    assert found.baselines["random"]["apgr"].value == pytest.approx(0.5)
    assert found.baselines["always_strong"]["quality"].value == pytest.approx(0.9, abs=0.03)
    shares = [point["strong_share"] for point in found.points]
    assert shares == sorted(shares, reverse=True)
    json.dumps(found.as_dict(), allow_nan=False)
    assert evaluate(flow(), file_of(tmp_path, drawn(2_000)), times=100).as_dict() == found.as_dict()


def test_evaluation_without_a_knob_tells_how_it_is(tmp_path: Path) -> None:
    found = evaluate(flow(ROUTE.replace(", tune: true", "")), file_of(tmp_path, drawn(200)), times=20)
    assert math.isnan(found.figures["apgr"].value)
    assert found.figures["quality"].value > 0.5
    assert any("tune: true" in note for note in found.notes)


def test_the_strong_path_is_the_baseline_the_dearest_or_what_is_said(tmp_path: Path) -> None:
    file = file_of(tmp_path, drawn(200))
    assert evaluate(flow(ROUTE.replace("baseline: cloud\n", "")), file, times=5).ends.strong == "cloud"
    assert evaluate(flow(), file, times=5, of="local").ends.strong == "local"
    with pytest.raises(OutcomeError, match="did you mean 'cloud'"):
        evaluate(flow(), file, times=5, of="clod")


def test_a_signal_that_always_fails_is_an_error(tmp_path: Path) -> None:
    rows = [{**row, "prompt": "no number"} for row in drawn(50)]
    with pytest.raises(ValueError, match="could not convert"):
        evaluate(flow(), file_of(tmp_path, rows), times=5)
    rows[10:] = drawn(50)[10:]
    found = evaluate(flow(), file_of(tmp_path, rows), times=5)
    assert found.failures == {"difficulty": 10}
    assert any("difficulty failed 10 times" in note for note in found.notes)


@pytest.mark.parametrize(
    ("kind", "target", "confidence", "told"),
    [
        ("mean_quality", 0.8, 0.9, "give one of quality_of, quality, usd, share"),
        ("quality", 1.0, 0.9, "from 0 to 1, both excluded: 1.0"),
        ("usd", math.nan, 0.9, "from 0 to inf, both excluded: nan"),
        ("share", 0.5, 90, "the confidence is a number from 0 to 1"),
    ],
)
def test_what_promises_nothing_is_refused(kind: Any, target: float, confidence: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Promise(kind, target, "cloud", confidence)
