"""A larger classifier that a training imitates."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dynflow.errors import InputError  # noqa: E402
from dynflow.nodes.early_exit_classifier import artefact  # noqa: E402
from dynflow.nodes.early_exit_classifier.train import read_data, train  # noqa: E402
from dynflow.nodes.early_exit_classifier.training import teacher as teachers  # noqa: E402
from dynflow.nodes.early_exit_classifier.training.figures import recorded  # noqa: E402
from tests.nodes.early_exit.tiny_encoders import CONFIGS, QUICK, encoder, one_thread, reviews  # noqa: E402

CONTRARY = {0: "good", 1: "bad"}
"""Classes of the teacher: in another order than the data's."""


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return reviews(tmp_path / "reviews.tsv")


def classifier(folder: Path, names: dict[int, str]) -> Path:
    """A tiny classifier that calls every text the first class, and says so by 3 to 1."""
    config = CONFIGS["bert"]()
    config.id2label, config.label2id = names, {name: place for place, name in names.items()}
    encoder(folder, "bert")
    model = transformers.BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([3.0, 0.0]).log1p())
    model.save_pretrained(folder)
    return folder


def test_exits_imitate_it_rather_than_the_labels(data: Path, tmp_path: Path) -> None:
    base, teacher = encoder(tmp_path / "base", "bert"), classifier(tmp_path / "teacher", CONTRARY)
    recipe = replace(QUICK, distil=1.0, temperature=1.0)
    named = {"0": "bad", "1": "good"}
    train([data], tmp_path / "out", model=str(base), teacher=str(teacher), recipe=recipe, names=named)
    rows = read_data([data], recipe, None, named)
    model = artefact.read(artefact.describe(str(tmp_path / "out")))
    logits = torch.tensor(recorded(model, rows.texts(rows.split.held_out), lambda done, total, what: None))
    good = logits.softmax(-1)[..., 1]  # as the teacher has it: log 4 against log 1, and no text differs
    assert torch.allclose(good, torch.full_like(good, 0.8), atol=0.05)


def test_the_artefact_names_it(data: Path, tmp_path: Path) -> None:
    base, teacher = encoder(tmp_path / "base", "bert"), classifier(tmp_path / "teacher", CONTRARY)
    found = teachers.find_teacher(str(teacher))
    train(
        [data], tmp_path / "out", model=str(base), teacher=str(teacher), recipe=QUICK, names={"0": "bad", "1": "good"}
    )
    told = json.loads((tmp_path / "out" / "artefact.json").read_text())["training"]
    assert told["teacher"] == {"model": str(teacher), "sha256": found.sha256}
    assert f"--teacher {teacher}" in told["command"]
    assert found.sha256 in (tmp_path / "out" / "README.md").read_text()


def test_what_it_said_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = teachers.find_teacher(str(classifier(tmp_path / "teacher", CONTRARY)))
    texts = [f"the film with {word} plot" for word in ("fine", "dull", "great")]
    asked: list[int] = []

    def progress(done: int, total: int, what: str) -> None:
        asked.append(done)

    first = found.logits(texts, ["bad", "good"], tmp_path / "kept", progress)
    assert first.tolist() == [pytest.approx([0.0, torch.tensor(4.0).log().item()])] * 3
    again = found.logits(texts, ["bad", "good"], tmp_path / "kept", progress)
    assert again.equal(first)
    assert asked == [0, 3, 3]
    assert not found.logits(texts, ["good", "bad"], tmp_path / "kept", progress).equal(first)


def test_classes_without_names_are_taken_in_order(tmp_path: Path) -> None:
    found = teachers.find_teacher(str(classifier(tmp_path / "teacher", {0: "LABEL_0", 1: "LABEL_1"})))
    said = found.logits(["the film"], ["bad", "good"], tmp_path, lambda done, total, what: None)
    assert said.argmax().item() == 0


def test_texts_are_cut_where_the_teacher_ends(tmp_path: Path) -> None:
    found = teachers.find_teacher(str(classifier(tmp_path / "teacher", CONTRARY)))
    said = found.logits(["film " * 60], ["bad", "good"], tmp_path / "kept", lambda done, total, what: None)
    assert said.isfinite().all()


def test_a_teacher_of_other_labels_is_refused(data: Path, tmp_path: Path) -> None:
    base, teacher = encoder(tmp_path / "base", "bert"), classifier(tmp_path / "teacher", CONTRARY)
    with pytest.raises(InputError, match="tells good, bad apart, and the data 0, 1: give a teacher of these labels"):
        train([data], tmp_path / "out", model=str(base), teacher=str(teacher), recipe=QUICK)
    with pytest.raises(InputError, match="is no classifier: its class is BertModel"):
        train([data], tmp_path / "out", model=str(base), teacher=str(base), recipe=QUICK)
