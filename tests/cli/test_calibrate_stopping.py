"""`dynflow calibrate --data`: when a node may stop early, told, written and applied; and what it cannot mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import dynflow
from dynflow.calibration.saved import Calibration, path_for
from tests.calibration.reviews import labelled
from tests.cli.conftest import Invoke
from tests.nodes.early_exit import tiny
from tests.nodes.early_exit.test_node import GRAPH
from tests.nodes.early_exit.tiny_encoders import one_thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph beside its artefact, and texts with the labels 0, 1, 2 and without any."""
    place, rows = tmp_path_factory.mktemp("folder"), labelled()
    tiny.artefact(place)
    (place / "reviews.yaml").write_text(GRAPH, encoding="utf-8")
    lines = [f"{tiny.LABELS.index(row.label)}\t{row.text}" for row in rows]
    (place / "texts.tsv").write_text("\n".join(["label\tsentence", *lines]), encoding="utf-8")
    (place / "texts.txt").write_text("\n\n".join(row.text for row in rows), encoding="utf-8")
    return place


def test_a_calibration_is_told_written_and_applied(folder: Path, invoke: Invoke) -> None:
    graph, names = folder / "reviews.yaml", [f"--name={place}={label}" for place, label in enumerate(tiny.LABELS)]
    with one_thread():
        found = invoke("calibrate", str(graph), "--data", str(folder / "texts.tsv"), "--gap", "0.2", *names)
    assert found.exit_code == 0, found.output
    assert "at most 20 % more of tone's answers are wrong than if it never stopped early" in found.stdout
    assert "layers per text" in found.stdout
    made = Calibration.read(path_for(graph))
    assert dynflow.load(graph).params["sure"].default == made.params["sure"] != 0.9
    assert "calibrated (sure = " in invoke("check", str(graph)).stdout
    path_for(graph).unlink()


def test_texts_alone_are_enough_but_for_a_gap(folder: Path, invoke: Invoke) -> None:
    graph, texts = str(folder / "reviews.yaml"), str(folder / "texts.txt")
    with one_thread():
        found = invoke("calibrate", graph, "--data", texts, "--layers", "3", "--within", "0.2", "--dry-run", "--json")
    made = json.loads(found.stdout)
    assert made["expected"]["cost"]["value"] == pytest.approx(3, rel=0.05)
    assert "quality" not in made["expected"]
    assert not path_for(Path(graph)).exists()


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--data", "texts.txt", "--gap", "0.1"), 1, "texts.txt is none of .tsv, .csv"),
        (("--data", "texts.tsv", "--gap", "0.1"), 1, "--name 0=bad"),
        (("--data", "texts.tsv", "--usd", "0.1"), 2, "with --data give one promise"),
        (("--data", "texts.tsv", "--gap", "0.1", "--layers", "3"), 2, "with --data give one promise"),
        (("--outcomes", "texts.txt", "--gap", "0.1"), 2, "with --outcomes give one promise"),
        (("--data", "texts.txt", "--layers", "3", "--turns", "2"), 2, "with --data, --turns would say nothing"),
        (("--data", "texts.txt", "--layers", "3", "--outcome", "a=b"), 2, "with --data, --outcome would say nothing"),
        (
            ("--outcomes", "texts.txt", "--usd", "0.1", "--within", "0.1", "--name", "0=bad"),
            2,
            "with --outcomes, --name and --within would say nothing",
        ),
        (("--gap", "0.1"), 2, "give recorded --outcomes, or --data"),
        (("--data", "texts.txt", "--disagreement", "0.001"), 1, "error[too_little_data]"),
        (("--data", "none.tsv", "--gap", "0.1"), 1, "none.tsv"),
    ],
)
def test_what_the_command_line_cannot_mean_is_said(
    folder: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, told: str
) -> None:
    monkeypatch.chdir(folder)
    with one_thread():
        found = invoke("calibrate", "reviews.yaml", *options)
    assert found.exit_code == code
    assert told in found.stderr
    assert not Path("reviews.calibration.json").exists()
