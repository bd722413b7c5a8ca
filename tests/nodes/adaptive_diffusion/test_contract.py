"""`dynflow calibrate` of an image's promise: on recorded runs, and kept where the node reads it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import dynflow
from dynflow.calibration.contracts import calibrate_contract
from dynflow.errors import CalibrationError, GraphError
from dynflow.nodes.adaptive_diffusion import contract, predictor
from dynflow.nodes.adaptive_diffusion.recordings import read_recording
from dynflow.nodes.adaptive_diffusion.train import train
from dynflow.nodetable import calibrating
from tests.nodes.adaptive_diffusion.test_training import COUNTS, SETTINGS, prompts, recorded

GRAPH = """
version: 1
name: pictures
models:
  painter: {provider: diffusers, model: somebody/pictures}
nodes:
  draw:
    type: adaptive_diffusion
    model: painter
    steps: 40
    predict: {artefact: ./steps}
    quality: {metric: ssim, to: 40 steps, at_least: 0.9, for: 0.8}
edges:
  - {from: start, to: draw}
  - {from: draw, to: end}
"""
OTHERS = [f"{shade} {tone}" for shade in ("dark", "pale", "bright") for tone in ("amber", "coral", "khaki", "ochre")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("promises")
    recorded(place / "steps" / "runs.jsonl")
    train(SETTINGS, prompts(), place / "steps", counts=COUNTS)
    (place / "pictures.yaml").write_text(GRAPH, encoding="utf-8")
    recorded(place / "pictures.runs.jsonl", of=prompts(OTHERS))
    (place / "prompts.txt").write_text("\n".join([*prompts(OTHERS), *prompts()[:5]]), encoding="utf-8")
    return place


def test_a_promise_of_the_graph_is_calibrated_and_then_kept(folder, invoke):
    graph = str(folder / "pictures.yaml")
    with pytest.raises(
        GraphError, match=r"was not calibrated for ssim to 40 steps at least 0\.9 for 0\.8; `dynflow calib"
    ):
        dynflow.load(graph)
    dry = invoke("calibrate", graph, "--data", str(folder / "prompts.txt"), "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    told = json.loads(dry.stdout)
    assert not predictor.describe(str(folder / "steps")).contracts
    assert (told["n"], told["tuning_rows"], told["trained_on"], told["outputs"]) == (115, 29, 5, 2)
    assert 0.8 <= told["bound"] <= told["kept"]
    assert told["steps"] < 30 < told["whole"] == 40
    made = invoke("calibrate", graph, "--data", str(folder / "prompts.txt"))
    assert made.exit_code == 0, made.output
    assert (
        "ssim to 40 steps is at least 0.9 for at least 80 % of images, unless this calibration was among" in made.output
    )
    assert "tested on 115 prompts, 5 left out (trained on); 29 others chose what to try" in made.output
    [kept] = predictor.describe(str(folder / "steps")).contracts
    assert [kept.quantile, kept.threshold] == told["setting"]
    assert kept.rests_on["confidence"] == 0.9
    assert not dynflow.load(graph).warnings
    again = invoke("calibrate", graph, "--data", str(folder / "prompts.txt"), "--confidence", "0.8")
    assert again.exit_code == 0, again.output
    [other] = predictor.describe(str(folder / "steps")).contracts
    assert other.rests_on["confidence"] == 0.8


def test_what_is_tried_is_what_the_node_would_do(folder):
    recording = read_recording(folder / "pictures.runs.jsonl")
    found = predictor.Predictor(predictor.describe(str(folder / "steps")))
    promise = predictor.Contract("ssim", 40, 0.9, 0.8, predictor.WHOLE)
    tries = contract.tries(recording, found, promise)
    assert tries.settings[0][0] == (predictor.WHOLE, None)
    assert np.all(tries.kept[0, 0] == 1)
    assert np.all(tries.cost[0, 0] == 40)
    quantiles = [row[0][0] for row in tries.settings]
    assert quantiles == sorted(quantiles, reverse=True)
    row = quantiles.index(0.9)
    planned = [count or 40 for count in found.counts(recording.prompts, [0.9])[0]]
    assert tries.cost[row, 0].tolist() == planned
    ends = [recording.runs[count].metrics["ssim"][2 * place : 2 * place + 2, -1] for place, count in enumerate(planned)]
    assert tries.kept[row, 0].tolist() == [(each >= 0.9).mean() for each in ends]
    assert np.all(np.diff(tries.cost, axis=1) <= 0)


def test_a_promise_is_of_the_pictures_that_are_finished(folder, tmp_path, invoke):
    recorded(tmp_path / "pictures.runs.jsonl", of=prompts(OTHERS), finish=4)
    shutil.copytree(folder / "steps", tmp_path / "steps")
    text = GRAPH.replace("    quality:", "    converge: {finish: 4}\n    quality:")
    (tmp_path / "pictures.yaml").write_text(text, encoding="utf-8")
    given = ("--data", str(folder / "prompts.txt"))
    found = predictor.Predictor(predictor.describe(str(tmp_path / "steps")))
    recording = read_recording(tmp_path / "pictures.runs.jsonl")
    promise = predictor.Contract("ssim", 40, 0.9, 0.8, predictor.WHOLE, finish=4)
    tries = contract.tries(recording, found, promise)
    column = [setting[1] for setting in tries.settings[0]].index(30.0)
    assert tries.cost[0, column].tolist() == [2 + 4] * len(recording.prompts)
    assert np.all(tries.kept[0, column] == 0)
    made = invoke("calibrate", str(tmp_path / "pictures.yaml"), *given)
    assert made.exit_code == 0, made.output
    *_, kept = predictor.describe(str(tmp_path / "steps")).contracts
    assert kept.finish == 4
    assert str(kept).endswith("finished in 4 steps")
    assert not dynflow.load(tmp_path / "pictures.yaml").warnings
    plain = invoke("calibrate", str(folder / "pictures.yaml"), *given, "--runs", str(tmp_path / "pictures.runs.jsonl"))
    assert plain.exit_code != 0
    assert "finished in 4, not of" in plain.output


def load(folder, text=GRAPH):
    with calibrating():
        return dynflow.loads(text, base=folder)


def test_what_cannot_be_promised_is_refused_in_words(folder, tmp_path, invoke):
    runs = folder / "pictures.runs.jsonl"
    with pytest.raises(CalibrationError, match="96 of 96 prompts were trained on") as raised:
        calibrate_contract(load(folder), prompts(), runs)
    assert raised.value.code == "contaminated"
    with pytest.raises(CalibrationError, match="60 prompts are too few: give 100 or more"):
        calibrate_contract(load(folder), prompts(OTHERS)[:60], runs)
    with pytest.raises(CalibrationError, match=r"compares with 50 steps, and the predictor in .* with 40"):
        calibrate_contract(load(folder, GRAPH.replace("40 steps", "50 steps")), prompts(OTHERS), runs)
    with pytest.raises(CalibrationError, match="write `50 steps`"):
        calibrate_contract(load(folder, GRAPH.replace("40 steps", "forty")), prompts(OTHERS), runs)
    hard = GRAPH.replace("at_least: 0.9, for: 0.8", "at_least: 0.96, for: 0.95")
    with pytest.raises(CalibrationError, match="nothing but whole runs keeps this promise"):
        calibrate_contract(load(folder, hard), prompts(OTHERS), runs)
    with pytest.raises(CalibrationError, match="'drow' is no node that states a promise \\(did you mean 'draw'"):
        calibrate_contract(load(folder), prompts(OTHERS), runs, of="drow")
    plain = GRAPH.replace("    quality: {metric: ssim, to: 40 steps, at_least: 0.9, for: 0.8}\n", "")
    with pytest.raises(CalibrationError, match="no node states what it promises"):
        calibrate_contract(load(folder, plain.replace("./steps}", "./steps, quantile: 0.9}")), prompts(OTHERS), runs)
    both = invoke("calibrate", str(folder / "pictures.yaml"), "--data", str(runs), "--gap", "0.1", "--captions", "3")
    assert both.exit_code == 2
    seeds = invoke("calibrate", str(folder / "pictures.yaml"), "--data", str(runs), "--gap", "0.1", "--seeds", "3")
    assert "with a promise given here, --seeds would say nothing" in seeds.output


def test_a_model_that_has_changed_since_the_training_is_refused(folder, tmp_path, monkeypatch):
    from dynflow.nodes.adaptive_diffusion import recording

    monkeypatch.setattr(recording, "model_digest", lambda settings, place: "another")
    recorded(tmp_path / "runs.jsonl", of=prompts(OTHERS), digest="another")
    with pytest.raises(CalibrationError, match=r"has changed since the predictor in .* was trained"):
        calibrate_contract(load(folder), prompts(OTHERS), tmp_path / "runs.jsonl")
