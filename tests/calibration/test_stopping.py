"""When a node may stop early: promised on whole runs alone, which tell what every threshold would have given."""

from __future__ import annotations

import json
import math
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import dynflow
from dynflow.calibration import stopping
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.outcomes import read_outcomes
from dynflow.calibration.promises import Promise, last_kept, variables
from dynflow.calibration.rules import StopRule
from dynflow.calibration.saved import path_for
from dynflow.calibration.stopping import Tried, calibrate_stopping, grid
from dynflow.calibration.trajectories import Runs
from dynflow.errors import ArtefactError, CalibrationError, InputError
from dynflow.flow import Flow
from dynflow.language.spec import ParamBody
from dynflow.learning.labelled import Labelled
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.whole_runs import lines
from tests.calibration.reviews import SEEN, labelled
from tests.effort import EFFORT
from tests.nodes.early_exit import tiny
from tests.nodes.early_exit.test_node import GRAPH, SIGNAL
from tests.nodes.early_exit.tiny_encoders import one_thread


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    folder = tmp_path_factory.mktemp("reviews")
    tiny.artefact(folder)
    return dynflow.loads(GRAPH, base=folder)


@pytest.fixture(scope="module")
def rows() -> list[Labelled]:
    return labelled()


def test_what_is_promised_of_recorded_runs_is_what_real_runs_do(
    flow: Flow, rows: list[Labelled], tmp_path: Path
) -> None:
    with one_thread():
        made = calibrate_stopping(flow, rows, kind="disagreement", target=0.3, confidence=0.9).calibration
        assert made.statement == (
            "on new requests drawn like these, at most 30 % of tone's answers are others than if it never stopped "
            "early, unless this calibration was among the unlucky 10 %"
        )
        config = {"configurable": dict(made.params)}
        early = flow.batch([{"input": row.text} for row in rows], config)
        whole = flow.batch([{"input": row.text} for row in rows], {"configurable": {"sure": 1.0}})
    agreement = np.mean([one.label == other.label for one, other in zip(early, whole, strict=True)])
    assert agreement == pytest.approx(made.expected["agreement"]["value"])
    assert 0.7 < 1 - made.bound["value"] < agreement < 1
    layers = [flow.run(row.text, config).ports["layer"] for row in rows[:40]]
    assert 0 < np.mean(layers) < 4
    assert made.expected["cost"]["value"] < made.expected["reference"]["cost"]["value"] == 4
    assert made.audit == {"node": "tone", "limit": 0.3, "promised": True}
    assert made.artefacts == {"tone": flow.resources.cold_node("tone").fingerprint()}
    assert set(made.signals) == {"tone.confidence", "tone.layer"}


def test_a_gap_is_to_the_labels(flow: Flow, rows: list[Labelled]) -> None:
    with one_thread():
        made = calibrate_stopping(flow, rows, kind="gap", target=0.1, confidence=0.9).calibration
        loose = calibrate_stopping(flow, rows, kind="gap", target=0.3, confidence=0.9).calibration
    lost = made.expected["reference"]["quality"]["value"] - made.expected["quality"]["value"]
    assert lost <= made.bound["value"] <= made.bound["limit"] == 0.1
    assert made.bound["method"].startswith("betting")
    assert loose.expected["cost"]["value"] <= made.expected["cost"]["value"]


def test_a_budget_is_met_from_both_sides(flow: Flow, rows: list[Labelled]) -> None:
    with one_thread():
        made = calibrate_stopping(flow, rows, kind="budget", target=2.5, within=0.2).calibration
        assert made.expected["cost"]["value"] == pytest.approx(2.5, rel=0.05)
        assert 2 <= made.bound["least"] < 2.5 < made.bound["value"] <= 3
        assert made.promise == {
            "kind": "budget", "target": 2.5, "of": "tone", "confidence": 0.9, "unit": "layers", "within": 0.2
        }  # fmt: skip
        with pytest.raises(CalibrationError, match=r"takes about .* rows more") as refused:
            calibrate_stopping(flow, rows, kind="budget", target=2.5, within=0.01)
        assert refused.value.code == "too_little_data"
        with pytest.raises(CalibrationError, match="to 4 layers on average, whatever its threshold: 5 is not among"):
            calibrate_stopping(flow, rows, kind="budget", target=5)


def test_milliseconds_are_those_of_this_machine(flow: Flow, rows: list[Labelled]) -> None:
    rule = flow.resources.cold_node("tone").stop_rule({"sure": 0.9})
    assert rule is not None
    with one_thread():
        runs = rule.runs([row.text for row in rows[:30]], lambda done, total, what: None, True)
    assert (np.diff(runs.cost, axis=1) >= 0).all()
    assert 0 < runs.cost[:, -1].max() <= runs.cap
    assert (runs.cost[:, 0] < runs.cost[:, -1]).all()
    said = Promise("budget", 2.0, "tone", 0.9, within=0.03, unit="milliseconds").statement()
    assert "2 milliseconds on average, give or take 3 %, as measured here, on this machine and load, unless" in said


def test_times_are_told_by_a_line_that_does_not_fall() -> None:
    tokens = np.array([2.0, 4.0, 6.0])
    rising, falling = [1.0, 2.0, 3.0], [9.0, 8.0, 5.5]
    told = lines(tokens, np.stack([rising, falling], 1), np.array([2.0, 8.0]))
    assert told == pytest.approx(np.array([[1.0, 7.5], [4.0, 7.5]]))
    assert lines(tokens[:1], np.array([[3.0]]), tokens).tolist() == [[3.0]] * 3


def test_static_is_timed_with_the_one_head_that_it_runs(
    flow: Flow, rows: list[Labelled], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dynflow.loads(GRAPH.replace("criterion: confidence", "criterion: static"), base=flow.resources.folder)
    rule = other.resources.cold_node("tone").stop_rule({"sure": 0.9})
    assert rule is not None
    heads: list[int] = []
    real = EarlyExitModel.exit

    def exit(self: EarlyExitModel, layer: int, *args: Any) -> Any:
        heads.append(layer)
        return real(self, layer, *args)

    with one_thread():
        rule.runs([rows[0].text], lambda done, total, what: None, False)
        monkeypatch.setattr(EarlyExitModel, "exit", exit)
        rule.runs([rows[0].text], lambda done, total, what: None, True)
    assert heads[-15:] == [0, 1, 2, 3, 4] * 3


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (100, {"target": 0.005}, "100 rows are too few .* it takes about .* rows more"),
        (1, {}, "1 rows are too few"),
        (600, {"of": "ton"}, r"'ton' is no node that stops early .* \(did you mean 'tone'\?\)"),
    ],
)
def test_what_cannot_be_promised_is_said(
    flow: Flow, rows: list[Labelled], count: int, changes: dict[str, Any], told: str
) -> None:
    with one_thread(), pytest.raises(CalibrationError, match=told):
        calibrate_stopping(flow, rows[:count], **{"kind": "disagreement", "target": 0.1, **changes})


def test_rows_that_cannot_be_used_are_named(flow: Flow, rows: list[Labelled]) -> None:
    with one_thread():
        with pytest.raises(InputError, match=r"labels '0', '1'; the node tells apart .* --name 0=bad"):
            calibrate_stopping(flow, [Labelled("a film", "0"), Labelled("film", "1")], kind="gap", target=0.1)
        bad = Labelled("雨", "bad", "texts", 7)
        with pytest.raises(InputError, match=r"1 texts cannot be read:\n  line 7: the encoder knows no word"):
            calibrate_stopping(flow, [*rows, bad], kind="gap", target=0.1)
        seen = [Labelled(SEEN, "bad")] * 5
        with pytest.raises(CalibrationError, match="5 of 5 rows were trained on"):
            calibrate_stopping(flow, seen, kind="gap", target=0.1)
        assert calibrate_stopping(flow, [*rows, *seen], kind="gap", target=0.3).calibration.trained_on == 5


def test_a_graph_whose_threshold_is_no_param_has_none(flow: Flow, rows: list[Labelled]) -> None:
    other = dynflow.loads(SIGNAL, base=flow.resources.folder)
    with pytest.raises(CalibrationError, match="no node stops early by a param marked `tune: true`"):
        calibrate_stopping(other, rows, kind="gap", target=0.1)


def test_values_tried_depend_on_no_row_and_begin_strict(flow: Flow) -> None:
    rule = flow.resources.cold_node("tone").stop_rule({"sure": 0.9})
    assert rule is not None
    values = grid(flow.params["sure"], rule)
    assert (values[0], values[-1]) == (1.0, 0.0)
    assert sorted(values, reverse=True) == values
    assert values[1] > 0.9999
    whole = ParamBody(default=2, min=0, max=6, tune=True)
    assert grid(whole, rule) == [1, 0]  # more than 1 makes no sense of a confidence
    assert grid(whole, replace(rule, most=math.inf, falling=True)) == list(range(7))
    with pytest.raises(CalibrationError, match=r"'sure' takes whole numbers.*write its default as 0\.0"):
        grid(ParamBody(default=0, min=0, max=0.69, tune=True), rule)
    with pytest.raises(CalibrationError, match="mend its `min` and `max`"):
        grid(ParamBody(default=2.0, min=1.5, max=6, tune=True), rule)


@pytest.mark.parametrize(
    ("criterion", "most"), [("entropy", math.log(3)), ("voting", 5**0.5), ("patience", 5), ("static", 4)]
)
def test_what_no_text_can_reach_is_not_tried(flow: Flow, criterion: str, most: float) -> None:
    text = GRAPH.replace("criterion: confidence", f"criterion: {criterion}").replace("max: 1", "max: 1000")
    other = dynflow.loads(text, base=flow.resources.folder)
    rule = other.resources.cold_node("tone").stop_rule({"sure": 0.9})
    assert rule is not None
    values = grid(other.params["sure"], rule)
    assert max(values) == pytest.approx(most)
    assert len(values) > 500


def test_damaged_weights_are_no_certainty(flow: Flow, rows: list[Labelled], monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: EarlyExitModel, texts: Any, **options: Any) -> Any:
        return np.full((len(texts), 5, 3), np.nan, dtype=np.float32)

    monkeypatch.setattr(EarlyExitModel, "trajectories", damaged)
    with one_thread(), pytest.raises(ArtefactError, match="gives no numbers: its weights are damaged"):
        calibrate_stopping(flow, rows, kind="disagreement", target=0.1)


def test_settings_are_tested_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows need no more memory than few, and say the same."""
    runs, values = pool(400, 3), np.linspace(1, 0, 50).tolist()
    budget = Promise("budget", 3.0, "tone", 0.9, within=0.2, unit="layers")
    for promise in (Promise("disagreement", 0.3, "tone", 0.9), Promise("gap", 0.3, "tone", 0.9), budget):
        monkeypatch.setattr(stopping, "CELLS", 2**22)
        together = Tried(promise, RULE, runs, values, None)
        monkeypatch.setattr(stopping, "CELLS", 400 * 7)
        apart = Tried(promise, RULE, runs, values, None)
        assert 0 < apart.chosen() == together.chosen()
        assert apart.bound(apart.chosen()) == together.bound(together.chosen())
        assert (apart.cost == together.cost).all()


def test_memory_is_bounded() -> None:
    """600 values on 40,000 rows would be 190 MB for each array of them."""
    runs = pool(40_000, 0)
    tracemalloc.start()
    try:
        Tried(Promise("disagreement", 0.2, "tone", 0.9), RULE, runs, np.linspace(1, 0, 600).tolist(), None).chosen()
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


def test_a_budget_above_the_dearest_run_is_kept_on_that_side() -> None:
    """Within 10 % of 6 layers there is more than a run can take."""
    runs = pool(600, 3)
    dear = replace(runs, score=np.zeros_like(runs.score))
    tried = Tried(Promise("budget", 6.0, "tone", 0.9, within=0.1, unit="layers"), RULE, dear, [1.0, 0.5], None)
    assert tried.chosen() == 0
    assert tried.bound(0)["value"] == 6


def pool(n: int, seed: int) -> Runs:
    """Runs of an encoder that is surer and better with each layer; its exits and labels are known."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, 1))
    score = np.sort(np.clip(truth + 0.5 * rng.standard_normal((n, 6)), 0, 1), axis=1)
    wrong = rng.random((n, 6)) > np.clip(0.6 + 0.45 * score, 0, 0.97)
    output = np.where(wrong, "bad", "good").astype(object)
    cost = np.broadcast_to(np.arange(1.0, 7.0), (n, 6))
    return Runs(cost, score, output, output[:, -1], {}, 6.0)


RULE = StopRule(
    "sure", False, 1.0, "layers", ("bad", "good"), lambda texts, progress, timed: pool(0, 0), lambda _: None, None
)


@pytest.mark.parametrize("kind", ["gap", "disagreement"])
def test_a_promise_is_broken_no_more_often_than_stated(kind: Any) -> None:
    """Many calibrations on rows drawn from a pool, whose own mean says whether they broke their word."""
    runs, draws, n, target, confidence = pool(4_000, 0), 100 * EFFORT, 400, 0.06, 0.9
    thresholds = np.linspace(1.01, 0, 60)
    trajectories = runs.against(np.full(4_000, "good", dtype=object) if kind == "gap" else runs.whole)
    sample = trajectories.under(thresholds, runs.cap)
    lost = sample.reference - sample.quality if kind == "gap" else 1 - sample.quality
    broken = lost.mean(1) > target
    promise = Promise(kind, target, "tone", confidence)
    drawn = np.random.default_rng(1).integers(0, 4_000, (draws, n))
    tested = variables(promise, trajectories_at(sample, drawn))
    chosen = np.array([last_kept(flags) for flags in tested.kept(confidence)])
    plain = np.array([last_kept(flags) for flags in tested.values.mean(-1) >= tested.limit])
    most = 1 - confidence + 2 * math.sqrt(confidence * (1 - confidence) / draws)
    assert (broken[chosen] & (chosen >= 0)).mean() <= most
    assert (broken[plain] & (plain >= 0)).mean() > 0.25  # without a bound about every second one is
    best = sample.usd.mean(1)[~broken].min()
    assert 6 - sample.usd.mean(1)[chosen].mean() > 0.6 * (6 - best)


def test_a_budget_is_missed_no_more_often_than_stated() -> None:
    runs, draws, target = pool(4_000, 0), 30 * EFFORT, 3.0
    thresholds = np.linspace(1.01, 0, 60)
    promise = Promise("budget", target, "tone", 0.9, within=0.1, unit="layers")
    means = runs.against(runs.whole).under(thresholds, runs.cap).usd.mean(1)
    rng = np.random.default_rng(2)
    missed = refused = 0
    for _ in range(draws):
        rows = rng.integers(0, 4_000, 300)
        drawn = Runs(runs.cost[rows], runs.score[rows], runs.output[rows], runs.whole[rows], {}, runs.cap)
        tried = Tried(promise, RULE, drawn, thresholds.tolist(), None)
        try:
            missed += abs(means[tried.chosen()] / target - 1) > 0.1
        except CalibrationError:
            refused += 1
    assert missed / draws <= 0.1 + 2 * math.sqrt(0.09 / draws)
    assert refused / draws < 0.5


def trajectories_at(sample: Any, drawn: Any) -> Any:
    """The same settings on each draw of rows: [draws, t, n]."""
    quality = sample.quality[:, drawn].swapaxes(0, 1)
    return type(sample)(quality, quality, quality > 0, sample.reference[drawn][:, None, :], sample.cap, sample.binary)


@pytest.mark.parametrize(
    "exit", ["criterion: voting", "criterion: patience_and_confidence, patience: 2", "criterion: static"]
)
def test_every_criterion_s_runs_are_those_of_the_model(flow: Flow, rows: list[Labelled], exit: str) -> None:
    text = GRAPH.replace("criterion: confidence", exit.replace(", ", "\n      ")).replace("max: 1", "max: 4")
    other = dynflow.loads(text, base=flow.resources.folder)
    rule = other.resources.cold_node("tone").stop_rule({"sure": 0.9})
    assert rule is not None
    texts = [row.text for row in rows[:60]]
    with one_thread():
        runs = rule.runs(texts, lambda done, total, what: None, False)
        for value in (0.4, 0.8, 1.0, 1.2, 2.0):
            if value > rule.most:
                continue
            found = [other.run(text, {"configurable": {"sure": value}}) for text in texts]
            stops = runs.against(runs.whole).stops([value])[0]
            places = np.arange(len(texts))
            assert [each.value.label for each in found] == runs.output[places, stops].tolist()
            assert [each.ports["layer"] for each in found] == runs.cost[places, stops].tolist()
            shares = runs.ports["confidence"][places, stops].tolist()
            assert [each.value.confidence for each in found] == pytest.approx(shares, abs=1e-5)


ASK_BELOW = "  ask_below: {default: 0.5, min: 0, max: 1, tune: true}\nmodels:"
TRIAGE = f"""{GRAPH.partition("edges:")[0].replace("models:", ASK_BELOW)}
  ask: {{type: prompt, role: answer, template: good}}
edges:
  - {{from: start, to: tone}}
  - {{from: tone, to: ask, when: tone.failed or tone.confidence < params.ask_below}}
  - {{from: tone, to: end}}
  - {{from: ask, to: end}}
"""


def test_what_comes_after_is_calibrated_on_outcomes_and_keeps_the_threshold(
    flow: Flow, rows: list[Labelled], tmp_path: Path
) -> None:
    tiny.artefact(tmp_path)
    graph, file = tmp_path / "triage.yaml", tmp_path / "outcomes.jsonl"
    graph.write_text(TRIAGE, encoding="utf-8")
    with one_thread():
        first = calibrate_stopping(dynflow.load(graph), rows, kind="disagreement", target=0.3).calibration
        path_for(graph).write_text(json.dumps(first.as_dict()), encoding="utf-8")
        triage = dynflow.load(graph)
        lines = []
        for row in rows[:300]:
            said = triage.run(row.text, {"configurable": {"ask_below": 0.0}}).ports
            tone = {"quality": float(said["label"] == row.label), "ports": {"confidence": said["confidence"]}}
            ask = {"quality": float(row.label == "good" or row.line % 4 > 0)}
            lines.append(json.dumps({"id": row.line, "prompt": row.text, "outcomes": {"tone": tone, "ask": ask}}))
        file.write_text("\n".join(lines), encoding="utf-8")
        after = calibrate(triage, read_outcomes(file), kind="quality_of", target=0.8, of="ask")
        second = after.calibration
        assert after.notes[-1].startswith("sure keeps what an earlier calibration set")
        assert after.notes[-1].endswith(first.statement)
        assert second.params["sure"] == first.params["sure"]
        assert second.params.keys() == {"sure", "ask_below"}
        path_for(graph).write_text(json.dumps(second.as_dict()), encoding="utf-8")
        assert second.audit == first.audit == {"node": "tone", "limit": 0.3, "promised": True}
        third = calibrate_stopping(dynflow.load(graph), rows, kind="disagreement", target=0.2)
    assert third.calibration.params["ask_below"] == second.params["ask_below"]
    assert third.notes[0].startswith("ask_below keeps what an earlier calibration set")
    with one_thread(), pytest.raises(CalibrationError, match=r"'sure' decides where 'tone' stops.*calibrate --data"):
        calibrate(flow, read_outcomes(file), kind="quality", target=0.5)


def test_what_another_node_decides_cannot_be_set(flow: Flow, rows: list[Labelled]) -> None:
    """A patience that only a request tells makes each threshold another rule."""
    exit = "criterion: patience_and_confidence\n      patience: ${input.exits}"
    text = GRAPH.replace("criterion: confidence", exit).replace("params:", "inputs: {exits: integer}\nparams:")
    other = dynflow.loads(text, base=flow.resources.folder)
    with pytest.raises(CalibrationError, match="no node stops early by a param"):
        calibrate_stopping(other, rows, kind="disagreement", target=0.1)
