"""The benchmark of slow-down attacks runs to its end and its attacks slow down. How fast anything is, no test asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.criteria import Entropy
from tests.benchmarks.scripts import load_script
from tests.nodes.early_exit.tiny_encoders import COMMON, QUICK, encoder, one_thread, reviews


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact trained on `reviews.tsv` beside it."""
    from dynflow.nodes.early_exit_classifier.train import train

    folder = tmp_path_factory.mktemp("model")
    data, base = reviews(folder / "reviews.tsv"), encoder(folder / "bert", "bert")
    with one_thread():
        train([data], folder / "out", model=str(base), recipe=QUICK)
    return folder / "out"


def test_the_report_has_every_attack_and_says_whether_the_bar_is_kept(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("early_exit_attacks")
    monkeypatch.setattr(script, "LENGTHS", (4,))
    monkeypatch.setattr(load_script("early_exit_slowdown"), "_SUFFIX_TRIED", 4)
    monkeypatch.setattr(load_script("early_exit_slowdown"), "SIGNS", "")
    monkeypatch.setattr(script.Attacker, "signs", lambda attacker, count: [" ".join(COMMON)] * count)
    command = ["--train", str(model.parent / "reviews.tsv"), "--model", str(model), "--rows", "4", "--rounds", "1"]
    with one_thread():
        script.main([*command, "--out", str(tmp_path)])
    results = json.loads((tmp_path / "early_exit_attacks.json").read_text(encoding="utf-8"))
    assert len(results["depth"]) == 7
    assert {"voting, never sure, 4 words", "one row leaves at each layer"} <= set(results["seconds"])
    assert all(each > 0 for taken in results["seconds"].values() for pair in taken.values() for each in pair)
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "early_exit_attacks.md").read_text(encoding="utf-8")
    assert shown.count(" the worst case takes ") == 2


def test_a_search_slows_down_within_its_edits(model: Path) -> None:
    script = load_script("early_exit_slowdown")
    loaded = artefact.read(artefact.describe(str(model)))
    texts = [line.split("\t")[0] for line in (model.parent / "reviews.tsv").read_text().splitlines()[1:]]
    with one_thread():
        attacker = script.Attacker(loaded, Entropy(0.65), texts)
        found = attacker.words_replaced(texts[:12], lambda *_: None)
        before, after = attacker.slowness(texts[:12]), attacker.slowness(found)
    assert (after >= before).all()
    assert after.mean() > before.mean()
    for text, changed in zip(texts, found, strict=False):
        words = text.split()
        edits = sum(one != other for one, other in zip(words, changed.split(), strict=True))
        assert edits <= max(1, round(script.EDITS * len(words)))


def test_worst_cases_pay_every_exit_and_take_none(model: Path) -> None:
    script = load_script("early_exit_attacks")
    loaded = artefact.read(artefact.describe(str(model)))
    for name in ("entropy", "confidence", "patience", "voting"):
        found = loaded.classify(["the film with a great story"], script.unsure(loaded, name))
        assert found[0].layer == found[0].layers
