"""Audits: a promise that new requests break is told of, and one that they keep hardly ever, however often one looks."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

import dynflow
from dynflow.calibration.artefacts import fingerprints
from dynflow.calibration.audits import audited, lower_sequence, most_log_wealth
from dynflow.calibration.saved import Calibration, path_for
from dynflow.calibration.stopping import calibrate_stopping
from dynflow.cli.app import cli
from dynflow.learning.labelled import Labelled
from tests.effort import EFFORT
from tests.nodes.early_exit import tiny
from tests.nodes.early_exit.test_node import GRAPH
from tests.nodes.early_exit.tiny_encoders import one_thread

AUDITED = GRAPH.replace("    exit:\n", "    audit: 0.5\n    exit:\n")
AROUND = """
version: 1
nodes:
  inner: {type: graph, uses: reviews.yaml}
edges:
  - {from: start, to: inner}
  - {from: inner, to: end}
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that audits half of its requests, calibrated to disagree on few."""
    folder = tmp_path_factory.mktemp("audited")
    tiny.artefact(folder)
    path = folder / "reviews.yaml"
    path.write_text(AUDITED, encoding="utf-8")
    rows = [Labelled(text, text) for text in tiny.texts(400, seed=5)]
    with one_thread():
        made = calibrate_stopping(dynflow.load(path), rows, kind="disagreement", target=0.1).calibration
    path_for(path).write_text(json.dumps(made.as_dict()), encoding="utf-8")
    return path


def test_a_share_of_the_requests_runs_whole_and_says_so(graph: Path) -> None:
    texts = tiny.texts(60, seed=6)
    flow = dynflow.load(graph)
    plain = dynflow.loads(GRAPH, base=graph.parent)
    config = {"configurable": {"sure": 0.5}}
    with one_thread():
        results = [flow.run(text, config) for text in texts]
        whole = [each.label for each in plain.batch(texts, {"configurable": {"sure": 1.0}})]
        early = [each.label for each in plain.batch(texts, config)]
    told = [result.trace.visits[0].values["disagrees"] for result in results]
    assert 15 < sum(each is not None for each in told) < 45
    assert [result.value.label for result in results] == early
    for said, label, full in zip(told, early, whole, strict=True):
        assert said in (None, label != full)
    assert True in told


def test_the_request_s_id_decides_and_a_batch_is_audited_too(graph: Path, tmp_path: Path) -> None:
    flow = dynflow.load(graph, trace=tmp_path / "traces.jsonl")
    ids = [UUID(int=place) for place in range(40)]
    with one_thread():
        first = [flow.run("a fine film", {"run_id": each}).ports["disagrees"] is not None for each in ids]
        again = [flow.run("not one moment", {"run_id": each}).ports["disagrees"] is not None for each in ids]
        flow.batch(["a fine film"] * 40)
    assert first == again
    assert 8 < sum(first) < 32
    lines = (tmp_path / "traces.jsonl").read_text(encoding="utf-8").splitlines()[80:]
    told = [json.loads(line)["nodes"][0]["values"]["disagrees"] for line in lines]
    assert 8 < sum(each is not None for each in told) < 32


def test_a_share_is_a_share(tmp_path: Path) -> None:
    tiny.artefact(tmp_path)
    with pytest.raises(dynflow.GraphError, match="audit"):
        dynflow.loads(AUDITED.replace("0.5", "1.5"), base=tmp_path)


def records(calibration: Calibration, losses: Any, **changes: Any) -> list[dict[str, Any]]:
    """Trace records of requests that were audited so, or (None) not."""
    base = {"record": 1, "graph_hash": calibration.graph_hash, "params": dict(calibration.params), **changes}
    return [{**base, "nodes": [{"node": "tone", "values": {"disagrees": loss}}]} for loss in losses]


def test_a_broken_promise_raises_an_alarm(graph: Path, tmp_path: Path) -> None:
    calibration = Calibration.read(path_for(graph))
    rng = np.random.default_rng(0)
    good, bad = ([bool(each) for each in rng.random(600) < rate] for rate in (0.08, 0.25))
    for losses, broken in ((good, False), (bad, True)):
        file = tmp_path / "traces.jsonl"
        lines = records(calibration, [loss if place % 2 else None for place, loss in enumerate(losses)])
        file.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
        found = CliRunner().invoke(cli, ["check", str(graph), "--traces", str(file)])
        assert found.exit_code == 0
        assert ("warning[drift]: tone disagrees with its whole runs on" in found.stdout) == broken, found.stdout
    audit = audited(calibration, records(calibration, bad))
    assert audit is not None
    assert 0.1 == audit.limit < audit.least < 0.25
    assert audited(calibration, records(calibration, bad, graph_hash="another")) is None
    assert audited(calibration, records(calibration, bad, params={"sure": 0.123})) is None
    assert "at most 10 % was promised, which does not hold" in str(audit)
    assert calibration.audit is not None
    told = str(audited(replace(calibration, audit={**calibration.audit, "promised": False}), records(calibration, bad)))
    assert "more often than on the texts calibrated on (10 % at most), so that the promise may not hold" in told
    assert audited(replace(calibration, audit=None), records(calibration, bad)) is None


def test_with_another_artefact_a_calibration_is_not_applied(graph: Path, tmp_path: Path) -> None:
    """A model that was trained anew into the same folder has other scores."""
    folder = tmp_path / "anew"
    shutil.copytree(graph.parent, folder)
    path, described = folder / graph.name, folder / "artefact" / "artefact.json"
    applied = dynflow.load(path)
    assert applied.calibration is not None
    facts = json.loads(described.read_text(encoding="utf-8"))
    facts["training"]["rows"] = 12
    described.write_text(json.dumps(facts), encoding="utf-8")
    flow = dynflow.load(path)
    assert flow.calibration is None
    assert flow.params["sure"].default == 0.9
    [warning] = flow.warnings
    assert "another artefact of 'tone' than there is now: calibrate again" in warning.text
    around = folder / "around.yaml"
    around.write_text(AROUND, encoding="utf-8")
    assert list(fingerprints(dynflow.load(around))) == ["inner/tone"]
    plain = {name: value for name, value in applied.calibration.as_dict().items() if name != "artefacts"}
    path_for(path).write_text(json.dumps(plain), encoding="utf-8")  # as they were before
    assert dynflow.load(path).calibration is not None


def test_an_alarm_is_hardly_ever_false_however_often_one_looks() -> None:
    rng = np.random.default_rng(0)
    streams, rate = 200 * EFFORT, 0.02

    def alarms(true: float) -> float:
        told = [most_log_wealth((rng.random(2_000) < true).tolist(), rate) >= -math.log(0.05) for _ in range(streams)]
        return float(np.mean(told))

    assert alarms(rate) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / streams)
    assert alarms(2 * rate) > 0.9  # nor is it missing
    losses = (rng.random(1_000) < 0.1).tolist()
    bound = lower_sequence(losses, chance=0.05)
    assert 0.06 < bound < 0.1
    assert most_log_wealth(losses, bound) == pytest.approx(-math.log(0.05), rel=1e-4)
    assert lower_sequence([False] * 50) == pytest.approx(0, abs=1e-6)
