"""A signal that stops early runs whole once in a replay, and then once for each place where a request stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import dynflow
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.outcomes import OutcomeFile, read_outcomes
from dynflow.calibration.paths import path
from dynflow.calibration.replay import Replay
from dynflow.calibration.stops import Stops
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from tests.calibration.reviews import labelled
from tests.nodes.early_exit import tiny
from tests.nodes.early_exit.test_node import SIGNAL
from tests.nodes.early_exit.tiny_encoders import one_thread

PARAMS = "params:\n  sure_from: {default: 0.5, min: 0, max: 1, tune: true}\nmodels:"
GRAPH = SIGNAL.replace("models:", PARAMS).replace("threshold: 0.5", "threshold: '${params.sure_from}'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stops")
    tiny.artefact(place)
    return place


@pytest.fixture(scope="module")
def file(folder: Path) -> OutcomeFile:
    """What two answers are worth; one text is none that the encoder can read."""
    texts = ["雨", *(row.text for row in labelled()[:150])]
    rows = [
        {
            "id": place,
            "prompt": text,
            "outcomes": {"sure": {"quality": place % 2}, "unsure": {"quality": place % 3 / 2}},
        }
        for place, text in enumerate(texts)
    ]
    (folder / "outcomes.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_outcomes(folder / "outcomes.jsonl")


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Texts that went through the model: of whole runs below 0, of others above."""
    counts: list[int] = []
    real, record = EarlyExitModel.classify_tokens, EarlyExitModel.trajectories

    def classify(self: EarlyExitModel, tokens: Any, *args: Any, **options: Any) -> Any:
        counts.append(len(tokens))
        return real(self, tokens, *args, **options)

    def trajectories(self: EarlyExitModel, texts: Any, **options: Any) -> Any:
        counts.append(-len(texts))
        return record(self, texts, **options)

    monkeypatch.setattr(EarlyExitModel, "classify_tokens", classify)
    monkeypatch.setattr(EarlyExitModel, "trajectories", trajectories)
    return counts


@pytest.mark.parametrize("criterion", ["confidence", "entropy"])
def test_every_threshold_gives_what_running_with_it_gives(
    folder: Path, file: OutcomeFile, whole: list[int], monkeypatch: pytest.MonkeyPatch, criterion: str
) -> None:
    flow = dynflow.loads(GRAPH.replace("criterion: confidence", f"criterion: {criterion}"), base=folder)
    settings = [{"sure_from": value} for value in np.linspace(0, 1, 12).tolist()]
    with one_thread():
        quick = Replay(flow, file).walk(settings)
        texts = sum(count for count in whole if count > 0)
        assert sum(count for count in whole if count < 0) == -150
        assert texts <= 5 * 150 < 12 * 150 // 2
        monkeypatch.setattr(Stops, "rule", lambda *_: None)
        slow = Replay(flow, file).walk(settings)
    assert (quick.answer == slow.answer).all()
    assert len(np.unique(quick.called["sure"].mean(1))) > 3
    assert sum(count for count in whole if count > 0) - texts == 12 * 150


def test_scores_say_which_thresholds_are_worth_trying(folder: Path, file: OutcomeFile) -> None:
    flow = dynflow.loads(GRAPH, base=folder)
    with one_thread():
        settings = path(Replay(flow, file), "sure")
        assert len(settings) > 100
        made = calibrate(flow, file, kind="quality_of", target=0.5, of="sure").calibration
    assert made.params.keys() == {"sure_from"}
