"""The difficulty classifier over the encoder of an early-exit model: one encoder serves both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dynflow
from dynflow.errors import ArtefactError, GraphError, InputError
from dynflow.learning.shared_encoder import shared_encoder
from dynflow.nodes.difficulty_classifier import artefact
from dynflow.nodes.difficulty_classifier.train import train
from dynflow.nodes.early_exit_classifier import artefact as exits
from tests.nodes.early_exit import tiny

GRAPH = """
version: 1
models:
  tone: {provider: encoder, model: artefact}
nodes:
  hard: {type: difficulty_classifier, estimator: ./difficulty}
  tone: {type: early_exit_classifier, model: tone, exit: {criterion: confidence, threshold: 0.9}}
edges:
  - {from: start, to: hard}
  - {from: hard, to: tone, when: hard.failed}
  - {from: hard, to: tone}
  - {from: tone, to: end}
"""
TEXTS = ["a fine film", "it was not worth one moment", "the dreadful film", "", "😀 😀", "half \ud83d a film"]


def outcomes(file: Path) -> Path:
    """Where a text says `not`, only the strong route does well."""
    rows = []
    for number, text in enumerate(dict.fromkeys(tiny.texts(160, longest=12))):
        weak = 0.0 if "not" in text.split() else 1.0
        qualities = {"weak": {"quality": weak}, "strong": {"quality": 1.0}}
        rows.append(json.dumps({"id": f"made/{number % 7}/{number}", "prompt": text, "outcomes": qualities}))
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an early-exit model whose encoder was changed, and the difficulty classifier over it."""
    place = tmp_path_factory.mktemp("made")
    draw = torch.Generator().manual_seed(5)
    name = "encoder.layer.0.output.dense.weight"
    tiny.artefact(place, deltas={f"{name}.delta": 0.3 * torch.randn(tiny.WIDTH, 48, generator=draw)})
    train([outcomes(place / "rows.jsonl")], "encoder", place / "difficulty", encoder=str(place / "artefact"))
    return place


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copied"))


def test_it_learns_and_survives_the_disk_and_a_move(made: Path, copied: Path) -> None:
    facts = json.loads((made / "difficulty" / "head.json").read_text())
    assert (facts["kind"], facts["encoder"]) == ("encoder", "../artefact")
    assert facts["figures"]["all"]["auc"] > 0.65, "of random weights"
    first, second = (artefact.load(str(place / "difficulty")) for place in (made, copied))
    assert first.predict(TEXTS) == second.predict(TEXTS)
    alone = [first.predict([text])[0].score for text in TEXTS]
    assert [each.score for each in first.predict(TEXTS)] == pytest.approx(alone, abs=1e-4)
    easy, hard = first.predict(["a fine film", "not not not a film"])
    assert easy.score < hard.score
    assert first.trained_on(tiny.texts(1, longest=12)[0])
    assert "--kind encoder --encoder" in (made / "difficulty" / "README.md").read_text()


def test_the_states_are_those_of_the_encoder_as_training_changed_it(made: Path) -> None:
    model = exits.load(exits.describe("artefact", made))
    ids, _ = model.reader.batch([model.reader.read("a fine film")])
    with torch.inference_mode():
        hidden = model.encoder.base_model(ids, output_hidden_states=True).hidden_states
    wanted = np.concatenate([np.asarray(hidden[layer].mean(1)[0]) for layer in (2, 3)]).reshape(2, -1)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = shared_encoder("artefact", made).states(["a fine film"], (2, 3))
    assert found == pytest.approx(wanted.reshape(1, -1), abs=1e-5)


def test_both_nodes_share_one_encoder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    real = exits.read
    monkeypatch.setattr(exits, "read", lambda described: reads.append(described) or real(described))
    flow = dynflow.loads(GRAPH, base=made)
    answers = flow.batch(["a fine film", "it was not worth one moment"])
    assert all(answer.label in tiny.LABELS for answer in answers)
    assert len(reads) <= 1, "an earlier test may still hold it"


def test_what_it_depends_on_follows_the_encoder(made: Path, copied: Path) -> None:
    described = copied / "artefact" / exits.DESCRIPTION
    facts = json.loads(described.read_text())
    described.write_text(json.dumps({**facts, "training": {"note": "other exits"}}))
    load = artefact.load
    assert load(str(copied / "difficulty")).digest == load(str(made / "difficulty")).digest
    described.write_text(json.dumps({**facts, "max_tokens": 9}))
    with pytest.raises(ArtefactError, match=r"was trained over another encoder than that of \.\./artefact is now"):
        load(str(copied / "difficulty"))
    train([made / "rows.jsonl"], "encoder", copied / "again", encoder=str(copied / "artefact"))
    assert load(str(copied / "again")).digest != load(str(made / "difficulty")).digest


def test_naming_one_loads_nothing(made: Path) -> None:
    program = (
        "import sys\nfrom dynflow.nodes.difficulty_classifier import artefact\n"
        f"artefact.load({str(made / 'difficulty')!r}).digest\n"
        "assert not {'torch', 'numpy', 'transformers', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_encoder_that_is_gone_is_told_before_anything_loads(copied: Path) -> None:
    shutil.rmtree(copied / "artefact")
    with pytest.raises(
        GraphError, match=r"reads with the encoder of an early-exit model: there is no early-exit model in"
    ):
        dynflow.loads(GRAPH, base=copied)


def test_what_cannot_be_trained_is_said(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an encoder is given, and the kind 'surface' reads with its own"):
        train([made / "rows.jsonl"], "surface", tmp_path / "out", encoder="embedded/sst2-minilm")
    with pytest.raises(ArtefactError, match="did you mean 'embedded/sst2-minilm'"):
        train([made / "rows.jsonl"], "encoder", tmp_path / "out", encoder="embedded/sst2-minlm")
    assert not (tmp_path / "out").exists()
