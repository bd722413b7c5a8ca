"""The early-exit benchmark runs to its end and reports what it says it does. How fast anything is, no test asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynflow.errors import InputError
from tests.benchmarks.scripts import load_script
from tests.nodes.early_exit.tiny_encoders import QUICK, encoder, one_thread, reviews


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact trained on `reviews.tsv` beside it."""
    from dynflow.nodes.early_exit_classifier.train import train

    folder = tmp_path_factory.mktemp("model")
    data, base = reviews(folder / "reviews.tsv"), encoder(folder / "bert", "bert")
    with one_thread():
        train([data], folder / "out", model=str(base), recipe=QUICK)
    return folder / "out"


def measure(model: Path, data: Path, *more: str) -> None:
    command = ["--train", str(data), "--model", str(model), "--rows", "8", "--rounds", "1", *more]
    with one_thread():
        load_script("early_exit").main(command)


def test_the_report_has_every_criterion_and_way_of_batching(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = model.parent / "reviews.tsv"
    measure(model, data, "--dev", str(data), "--out", str(tmp_path))
    results = json.loads((tmp_path / "early_exit.json").read_text(encoding="utf-8"))
    assert {"entropy", "patience", "static"} <= set(results["held out"]["curves"])
    assert results["dev"]["rows"] == 240
    assert set(results["wall-clock"]["seconds"]) == {"batch 1", "batch 32", "batch 32, sorted by length"}
    assert all(taken > 0 for each in results["wall-clock"]["seconds"].values() for taken in each.values())
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "early_exit.md").read_text(encoding="utf-8")
    assert "| entropy |" in shown


def test_rows_that_were_trained_on_are_refused(model: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer.tsv"  # from which others are held out
    fewer.write_text("".join((model.parent / "reviews.tsv").read_text().splitlines(keepends=True)[:200]))
    with pytest.raises(InputError, match="are among those that"):
        measure(model, fewer)
