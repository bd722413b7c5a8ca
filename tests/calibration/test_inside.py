"""Sub-graphs are replayed from the inside: their nodes and params are `node/inner`, and what is read of them holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynflow
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.contamination import without_training_rows
from dynflow.calibration.drift import drift
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.outcomes import read_outcomes
from dynflow.calibration.paths import path, read_by_signals, values
from dynflow.calibration.replay import Replay
from dynflow.calibration.saved import path_for
from dynflow.errors import OutcomeError
from dynflow.flow import Flow
from dynflow.nodes.runnable import RunnableOfHost
from tests.calibration.test_replay import HOST, answering, rows, write

INNER = """
version: 1
params:
  easy_below: {default: 0.5, min: 0, max: 1, tune: true}
  trust_above: {default: 0.5, min: 0, max: 1, tune: true}
models:
  small: {provider: host, price: {input: 1, output: 2}}
  large: {provider: host, price: {input: 10, output: 20}}
nodes:
  difficulty: {type: runnable, name: difficulty, ports: {score: number, kind: string}}
  local: {type: chat, model: small}
  check: {type: runnable, name: check, input: "${local.text}", ports: {confidence: number}}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: difficulty}
  - {from: difficulty, to: cloud, when: difficulty.failed or difficulty.score >= params.easy_below}
  - {from: difficulty, to: local}
  - {from: local, to: cloud, when: local.failed}
  - {from: local, to: check}
  - {from: check, to: cloud, when: check.failed or check.confidence < params.trust_above}
  - {from: check, to: end}
  - {from: cloud, to: end}
baseline: cloud
"""
OUTER = """
version: 1
params:
  short: {default: 15, min: 0, max: 30, tune: true}
  trust: {default: 0.4, min: 0, max: 1, tune: true}
models: {brief: {provider: host, price: {input: 1, output: 1}}}
nodes:
  length: {type: runnable, name: length, ports: {words: integer}, on_failure: {words: 99}}
  quick: {type: chat, model: brief}
  tutor:
    type: graph
    uses: inner.yaml
    with:
      trust_above: ${params.trust}
  sorry: {type: prompt, role: answer, template: Sorry.}
edges:
  - {from: start, to: length}
  - {from: length, to: quick, when: length.words < params.short}
  - {from: length, to: tutor}
  - {from: quick, to: tutor, when: quick.failed}
  - {from: quick, to: end}
  - {from: tutor, to: sorry, when: tutor.failed}
  - {from: tutor, to: quick2, when: tutor.degraded and len(tutor.text) < 23}
  - {from: tutor, to: end}
  - {from: sorry, to: end}
  - {from: quick2, to: end}
baseline: tutor
""".replace("  sorry: {type", "  quick2: {type: chat, model: brief}\n  sorry: {type")
NAMES = ["quick", "quick2", "tutor/local", "tutor/cloud", "sorry"]


def flow(folder: Path, **models: Any) -> Flow:
    (folder / "inner.yaml").write_text(INNER, encoding="utf-8")
    (folder / "outer.yaml").write_text(OUTER, encoding="utf-8")
    return dynflow.load(folder / "outer.yaml", runnables=HOST, **models)


def recorded(count: int = 60) -> list[dict[str, Any]]:
    found = rows(NAMES, count)
    for row in found:
        row["outcomes"]["sorry"] = {"quality": 0.0}
    return found


def test_it_goes_the_way_the_flow_goes(tmp_path: Path) -> None:
    outcomes = recorded()
    models = {"brief": "quick", "tutor/small": "tutor/local", "tutor/large": "tutor/cloud"}
    for row in outcomes:
        row["outcomes"]["quick2"] = dict(row["outcomes"]["quick"])  # one model answers both
    real = flow(tmp_path, models={name: answering(outcomes, node) for name, node in models.items()})
    settings = [
        {"short": short, "tutor/easy_below": easy, "trust": trust}
        for short in (0, 12)
        for easy in (0.0, 0.4, 1.0)
        for trust in (0.0, 0.6, 1.0)
    ]
    replay = Replay(flow(tmp_path), read_outcomes(write(tmp_path, outcomes)))
    walked = replay.walk(settings)
    ends = set()
    for setting, params in enumerate(settings):
        for index, row in enumerate(outcomes):
            answer = walked.answer[setting, index]
            try:
                result = real.run(row["prompt"], {"configurable": params})
            except Exception:
                assert answer == -1, (params, row)
                continue
            name = result.trace.answer
            inner = result.trace.inner.get("tutor")
            if inner is not None:
                assert walked.called["tutor/local"][setting, index] == ("local" in inner.path)
                assert walked.called["tutor/cloud"][setting, index] == ("cloud" in inner.path)
            whole = f"tutor/{inner.answer}" if name == "tutor" and inner is not None else str(name)
            assert walked.nodes[answer] == whole, (params, row, result.trace.path)
            assert walked.quality[setting, index] == row["outcomes"][whole]["quality"]
            ends.add(whole)
    assert ends == {"quick", "quick2", "tutor/local", "tutor/cloud", "sorry"}


def test_its_params_are_tried_and_the_best_are_promised_and_applied(tmp_path: Path) -> None:
    file = read_outcomes(write(tmp_path, recorded(400)))
    replay = Replay(flow(tmp_path), file)
    assert list(replay.knobs) == ["short", "trust", "tutor/easy_below"]  # `with:` sets the other one
    assert replay.answers == ("quick", "tutor/local", "tutor/cloud", "quick2")
    assert replay.baseline == "tutor/cloud"
    settings = path(replay, "tutor/cloud")
    assert len({setting["tutor/easy_below"] for setting in settings}) > 5
    found = evaluate(flow(tmp_path), file, times=20)
    assert (found.ends.strong, found.params["tutor/easy_below"]) == ("tutor/cloud", 0.5)
    calibration = calibrate(flow(tmp_path), file, kind="share", target=0.6).calibration
    assert calibration.params.keys() == replay.knobs.keys()
    assert {"length.words", "tutor/difficulty.score", "tutor/check.confidence"} >= calibration.signals.keys()
    path_for(tmp_path / "outer.yaml").write_text(json.dumps(calibration.as_dict()), encoding="utf-8")
    applied = flow(tmp_path)
    assert not [warning for warning in applied.warnings if warning.code == "calibration"]
    assert applied.params["tutor/easy_below"].default == calibration.params["tutor/easy_below"]
    assert applied.resources.subflows["tutor"].params["easy_below"].default == calibration.params["tutor/easy_below"]
    again = evaluate(applied, file, times=20)
    assert again.params["tutor/easy_below"] == calibration.params["tutor/easy_below"]


def test_a_param_that_is_handed_on_is_tried_where_it_counts(tmp_path: Path) -> None:
    replay = Replay(flow(tmp_path), read_outcomes(write(tmp_path, recorded(200))))
    assert not read_by_signals(replay, replay.knobs)
    even = {float(value) for value in np.linspace(0, 1, 41)}
    between = set(values(replay, "trust", replay.knobs["trust"], 60)) - even
    assert len(between) > 40  # values of `check`, which the inner graph compares its own param with


def test_outcomes_of_the_whole_are_read_instead(tmp_path: Path) -> None:
    outcomes = rows(["quick", "quick2", "sorry"], 30)
    for row in outcomes:
        row["outcomes"]["tutor"] = {"quality": 1, "usd": 0.1, "response": "yes", "ports": {"degraded": False}}
    file = read_outcomes(write(tmp_path, outcomes))
    replay = Replay(flow(tmp_path), file)
    assert not replay.inside
    assert list(replay.knobs) == ["short", "trust"]
    with pytest.raises(OutcomeError, match="'tutor/easy_below' cannot be set: outcomes of 'tutor' are read as a whole"):
        evaluate(flow(tmp_path), file, params={"tutor/easy_below": 0.1}, times=5)


def test_what_is_missing_inside_is_told(tmp_path: Path) -> None:
    outcomes = recorded(20)
    del outcomes[4]["outcomes"]["tutor/cloud"]
    with pytest.raises(OutcomeError, match=r":5: no outcome of 'tutor/cloud'"):
        Replay(flow(tmp_path), read_outcomes(write(tmp_path, outcomes)))
    file = read_outcomes(write(tmp_path, rows(["quick", "quick2", "sorry", "weak", "strong"], 20)))
    with pytest.raises(OutcomeError, match=r"node 'tutor/local' .*give outcomes of 'tutor' as a whole"):
        Replay(flow(tmp_path), file)
    bound = {"weak": ["tutor/local"], "strong": ["tutor/cloud"]}
    assert Replay(flow(tmp_path), file, bound).recorded_nodes.keys() == set(NAMES)
    with pytest.raises(OutcomeError, match=r"the graph has no node 'tutor/clod'.*did you mean 'tutor/cloud'"):
        Replay(flow(tmp_path), file, {"weak": ["tutor/local"], "strong": ["tutor/clod"]})
    (tmp_path / "inner.yaml").write_text(INNER, encoding="utf-8")
    text = OUTER.replace("tutor.degraded and len(tutor.text) < 23", "tutor.tokens < 9")
    read = dynflow.loads(text, base=tmp_path, runnables=HOST)
    with pytest.raises(OutcomeError, match=r"reads tutor\.tokens: give outcomes of 'tutor' as a whole"):
        Replay(read, read_outcomes(write(tmp_path, recorded(20))))


def test_rows_that_an_inner_artefact_was_trained_on_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunnableOfHost, "trained_on", lambda self, request: self.id == "check" and request.text < "0.3")
    file = read_outcomes(write(tmp_path, recorded(100)))
    kept, dropped = without_training_rows(flow(tmp_path), file)
    assert dropped == sum(row.input < "0.3" for row in file.rows) > 5
    assert len(kept.rows) + dropped == 100


def test_drift_sees_inside(tmp_path: Path) -> None:
    file = read_outcomes(write(tmp_path, recorded(300)))
    calibration = calibrate(flow(tmp_path), file, kind="share", target=0.6).calibration
    port = "tutor/difficulty.score"
    assert port in calibration.signals
    inner = [{"nodes": [{"node": "difficulty", "values": {"score": 0.01 * (row % 3)}}]} for row in range(60)]
    records = [{"graph_hash": calibration.graph_hash, "nodes": [], "inner": {"tutor": each}} for each in inner]
    assert [each.port for each in drift(calibration, records) if each.drifted] == [port]
    assert np.isfinite(drift(calibration, records)[0].distance)
