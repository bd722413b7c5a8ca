"""Training an early-exit classifier end to end, on tiny random encoders and a small sample."""

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynflow.cli.train import early_exit  # noqa: E402
from dynflow.errors import ArtefactError, InputError  # noqa: E402
from dynflow.nodes.early_exit_classifier import artefact  # noqa: E402
from dynflow.nodes.early_exit_classifier.train import Report, read_data, train  # noqa: E402
from dynflow.nodes.early_exit_classifier.training.recipe import METHODS, Recipe  # noqa: E402
from tests.nodes.early_exit.tiny_encoders import CONFIGS, QUICK, encoder, one_thread, reviews  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviews(tmp_path_factory.mktemp("data") / "reviews.tsv")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_an_architecture_learns_end_to_end(kind: str, data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / kind, kind)
    report = train([data], tmp_path / "out", model=str(base), recipe=QUICK, names={"0": "bad", "1": "good"})
    depth = CONFIGS[kind]().num_hidden_layers
    assert report.rows + int(report.figures["accuracy"]["rows"] or 0) == 240
    assert (report.figures["accuracy"][f"after {depth}"] or 0) > 0.9
    described = artefact.describe(str(tmp_path / "out"))
    assert described.facts.labels == ("bad", "good")
    assert described.facts.heads["norm"] is (kind == "modernbert"), "whose states are not normalised between layers"
    model = artefact.read(described)
    found = model.classify(["the film with a great story", "bleak and so very stale the plot"], None)
    assert [each.label for each in found] == ["good", "bad"]
    assert not (tmp_path / "out" / ".training").exists()


def test_a_classifier_of_transformers_learns_exits_under_its_own_head(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert", classifies=True)
    train([data], tmp_path / "out", model=str(base), recipe=QUICK, names={"0": "bad", "1": "good"})
    model = artefact.read(artefact.describe(str(tmp_path / "out")))
    found = model.classify(["the film with a great story", "bleak and so very stale the plot"], None)
    assert [each.label for each in found] == ["good", "bad"]


def test_a_tokenizer_that_reads_otherwise_than_in_training_is_refused(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    train([data], tmp_path / "out", model=str(base), recipe=QUICK)
    words = base / "tokenizer.json"
    facts = json.loads(words.read_text())
    words.write_text(json.dumps(facts, indent=8))  # written otherwise, and still the same
    artefact.read(artefact.describe(str(tmp_path / "out")))
    known = facts["model"]["vocab"]
    known["great"], known["stale"] = known["stale"], known["great"]
    words.write_text(json.dumps(facts))
    with pytest.raises(ArtefactError, match=r"for another tokenizer than that in .*bert"):
        artefact.read(artefact.describe(str(tmp_path / "out")))
    facts["model"]["vocab"] = {**known, "great": known["stale"], "stale": known["great"]}
    words.write_text(json.dumps({**facts, "normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ArtefactError, match="for another tokenizer"):
        artefact.read(artefact.describe(str(tmp_path / "out")))


def test_a_model_with_the_last_exit_alone_is_trained_and_judged(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    recipe = Recipe(**{**QUICK.as_dict(), "alone_epochs": 0, "epochs": 1, "exits": (2,)})
    report = train([data], tmp_path / "out", model=str(base), recipe=recipe)
    assert set(report.figures) == {"accuracy", "static, mean layers"}
    assert artefact.read(artefact.describe(str(tmp_path / "out"))).layers == (2,)


def test_the_artefact_says_what_it_was_made_of(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    report = train(
        [data], tmp_path / "out", model=str(base), recipe=QUICK, names={"0": "very bad"}, data_name="Reviews of 1999"
    )
    facts = json.loads((tmp_path / "out" / "artefact.json").read_text())
    assert facts["training"]["recipe"]["held_out"] == 24
    assert facts["training"]["rows"]["train"] == report.rows
    assert report.size == sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    rows = read_data([data], QUICK)
    described = artefact.describe(str(tmp_path / "out"))
    hashes = artefact.training_hashes(described)
    assert hashes == {artefact.row_hash(text) for text in rows.texts(rows.split.train)}
    assert not hashes & {artefact.row_hash(text) for text in rows.texts(rows.split.held_out)}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "entropy threshold" in card
    assert "curve.svg" in card
    assert f"{report.rows} rows of Reviews of 1999 (" in card
    assert "rows held out: so few that an accuracy may be off by 20 points." in card
    line = next(line for line in card.splitlines() if line.startswith("dynflow train early-exit --data reviews.tsv "))
    assert facts["training"]["command"] == line
    given = early_exit.make_context("early-exit", shlex.split(line)[3:]).params
    assert (given["names"], given["data_name"], given["model"]) == (("0=very bad",), "Reviews of 1999", str(base))
    assert {name: given[name] for name in facts["training"]["recipe"]} == facts["training"]["recipe"]
    assert (tmp_path / "out" / "curve.svg").read_text().startswith("<svg xmlns=")


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [("the encoder alone", 5), ("all exits", 7)])
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    at: tuple[str, int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynflow.learning.checkpoint._SECONDS", 0.0)
    base = encoder(tmp_path / "bert", "bert")
    begun: list[tuple[str, int]] = []

    def progress(done: int, _total: int, what: str) -> None:
        begun.append((what, done))
        if (what, done) == at and len(begun) > 1 and not killed:
            killed.append(at)
            raise Killed

    killed: list[tuple[str, int]] = []
    with pytest.raises(Killed):
        train([data], tmp_path / "cut", model=str(base), recipe=QUICK, progress=progress)
    begun.clear()
    train([data], tmp_path / "cut", model=str(base), recipe=QUICK, progress=progress)
    assert begun[0] == (at[0], at[1] - 1)  # the last state kept is that before the step it was killed at
    train([data], tmp_path / "whole", model=str(base), recipe=QUICK)
    for name in ("heads.safetensors", "deltas.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_what_it_says(method: Any, data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    recipe = Recipe(**{**QUICK.as_dict(), "method": method, "epochs": 1, "shared": method == "alternating"})
    report = train([data], tmp_path / "out", model=str(base), recipe=recipe)
    assert (report.figures["accuracy"]["after 2"] or 0) > 0.6


def test_two_stage_leaves_the_encoder_as_it_was_trained_alone(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    for epochs in (1, 2):
        recipe = Recipe(**{**QUICK.as_dict(), "method": "two-stage", "epochs": epochs})
        train([data], tmp_path / f"{epochs}", model=str(base), recipe=recipe)
    deltas = [(tmp_path / f"{epochs}" / "deltas.safetensors").read_bytes() for epochs in (1, 2)]
    heads = [(tmp_path / f"{epochs}" / "heads.safetensors").read_bytes() for epochs in (1, 2)]
    assert deltas[0] == deltas[1]
    assert heads[0] != heads[1]


def test_data_that_cannot_be_learnt_from_is_refused(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    alien = tmp_path / "alien.csv"
    alien.write_text(
        "text,label\n" + "".join(f"zzz yyy {row} film,{row % 2}\n" for row in range(40)) + "qqq rrr sss,1\n"
    )
    with pytest.raises(
        InputError, match=r"1 row cannot be read:\n  .*alien.csv, line 42, 'qqq rrr sss': the encoder knows no"
    ):
        train([data, alien], tmp_path / "out", model=str(base), recipe=QUICK)
    with pytest.raises(InputError, match="no row has the label 2"):
        train([data], tmp_path / "out", model=str(base), recipe=QUICK, names={"2": "none"})
    with pytest.raises(InputError, match="no exit after 3 layers"):
        train([data], tmp_path / "out", model=str(base), recipe=Recipe(**{**QUICK.as_dict(), "exits": (0, 3)}))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told_before_the_training(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    (tmp_path / "file").write_text("in the way")

    def progress(_done: int, _total: int, what: str) -> None:
        raise AssertionError(f"{what} began")

    with pytest.raises(InputError, match=r"file.out cannot be written .*: give another folder with --out"):
        train([data], tmp_path / "file" / "out", model=str(base), recipe=QUICK, progress=progress)


@pytest.mark.parametrize("name", ["README.md", "curve.svg", "heads.safetensors", "criteria-old.safetensors"])
def test_a_folder_of_something_else_is_left_as_it_was(name: str, data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(InputError, match=f"out holds something else, whose {name} would be overwritten: give another"):
        train([data], out, model=str(base), recipe=QUICK)
    assert [(file.name, file.read_text()) for file in out.iterdir()] == [(name, "mine")]


def test_a_model_is_trained_again_in_its_place(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("in nobody's way")
    for seed in (0, 1):
        train([data], tmp_path / "out", model=str(base), recipe=Recipe(**{**QUICK.as_dict(), "seed": seed}))
        facts = artefact.describe(str(tmp_path / "out")).facts
        assert facts.training["recipe"]["seed"] == seed
    assert (tmp_path / "out" / "notes.txt").read_text() == "in nobody's way"


def test_a_training_that_diverges_says_where(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    recipe = Recipe(**{**QUICK.as_dict(), "rate": 1e38, "heads_rate": 1e38})
    with pytest.raises(InputError, match=r"diverged: the encoder alone, step \d+ of \d+, .*; lower the rates"):
        train([data], tmp_path / "out", model=str(base), recipe=recipe)
    assert not (tmp_path / "out" / "artefact.json").exists()


def test_figures_of_few_rows_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for rows, said in ((199, True), (200, False)):
        report = Report(tmp_path, 1000, {"accuracy": {"rows": rows, "after 0": 0.5}}, 10)
        monkeypatch.setattr("dynflow.nodes.early_exit_classifier.train.train", lambda *_, report=report, **__: report)
        shown = CliRunner().invoke(early_exit, ["--data", "rows.csv", "--out", str(tmp_path)]).output
        assert (f"these rest on {rows} rows held out, few to judge by" in shown) is said


def test_files_of_one_name_are_told_apart(data: Path, tmp_path: Path) -> None:
    base = encoder(tmp_path / "bert", "bert")
    other = reviews(tmp_path / data.name, rows=20)
    train([data, other], tmp_path / "out", model=str(base), recipe=QUICK)
    facts = json.loads((tmp_path / "out" / "artefact.json").read_text())
    assert list(facts["training"]["data"]) == [str(data), str(other)]


def rows_of(path: Path, labels: list[str]) -> Path:
    path.write_text("text,label\n" + "".join(f"film number {row},{label}\n" for row, label in enumerate(labels)))
    return path


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1"] * 60, "rows.csv: every row has the label '1'; give rows of two labels or more"),
        (["1"], "rows.csv: 1 row is too few to learn from; give at least 20"),
        (["1", "0"] * 5, "rows.csv: 10 rows are too few to learn from; give at least 20"),
        ([f"l{row}" for row in range(60)], "no training row is left with the label .*: each label needs two rows or"),
    ],
)
def test_too_little_to_learn_from_is_told_by_file(labels: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        read_data([rows_of(tmp_path / "rows.csv", labels)], Recipe())


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "guess"},
        {"epochs": 0},
        {"distil": 2.0},
        {"rate": 0.0},
        {"rank": -1},
        {"decay": -0.1},
        {"rate": math.nan},
        {"temperature": math.inf},
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="this recipe cannot be trained by"):
        Recipe(**wrong)
