"""`dynflow train early-exit`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.nodes.early_exit.tiny_encoders import encoder, one_thread, reviews

QUICK = ["--alone-epochs", "1", "--epochs", "3", "--batch-rows", "16", "--rate", "0.01", "--heads-rate", "0.02"]
GRAPH = """\
version: 1
models:
  reviews: {provider: encoder, model: ./mine}
nodes:
  mood:
    type: early_exit_classifier
    model: reviews
    exit: {criterion: entropy, threshold: 0.1}
edges:
  - {from: start, to: mood}
  - {from: mood, to: end}
"""


def test_it_makes_an_artefact_that_a_graph_can_use(invoke, tmp_path: Path) -> None:
    data, base = reviews(tmp_path / "reviews.tsv"), encoder(tmp_path / "bert", "bert")
    out = tmp_path / "mine"
    command = ["train", "early-exit", "--data", str(data), "--model", str(base), "--out", str(out), "--held-out", "24"]
    with one_thread():
        result = invoke(*command, "--name", "0=bad", "--name", "1=good", "--exits", "0,2", *QUICK)
        assert result.exit_code == 0, result.stderr
        assert f"wrote {out}" in result.stdout
        assert "entropy, mean layers: at 99.5 %" in result.stdout
        assert f"use it with `model: {out}`" in result.stdout
        assert "all exits" in result.stderr
        graph = tmp_path / "graph.yaml"
        graph.write_text(GRAPH, encoding="utf-8")
        assert "good" in invoke("run", str(graph), "the film with a great story").stdout
        assert "bad" in invoke("run", str(graph), "bleak and so very stale the plot").stdout


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--exits", "0,two"], "is no list of layers"),
        (["--name", "0"], "is not LABEL=NAME"),
        (["--epochs", "0"], "is not in the range"),
        (["--method", "guess"], "is not one of"),
        (["--text-column", "words"], "has no column 'words'; it has 'text', 'label'"),
        (["--method", "two-stage", "--alone-epochs", "0"], "needs an epoch for the encoder alone"),
        (["--model", "embedded/absent"], "there is no model 'embedded/absent'"),
    ],
)
def test_what_cannot_be_is_said(invoke, tmp_path: Path, more: list[str], said: str) -> None:
    data = reviews(tmp_path / "reviews.tsv")
    result = invoke("train", "early-exit", "--data", str(data), "--out", str(tmp_path / "out"), *more)
    assert result.exit_code != 0
    assert said in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
