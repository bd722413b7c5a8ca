"""The early-exit benchmark runs to its end and reports what it says it does. How fast anything is, no test asks."""

from __future__ import annotations

import json
import tarfile
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
    assert results["shift"]["development set"]["rows"] == 240
    assert results["held out"]["full"] == max(results["held out"]["accuracy"][-1], results["held out"]["alone"])
    assert 0.4 < results["held out"]["embeddings alone"] <= 1
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


def test_bars_are_missed_where_they_are() -> None:
    verdicts = load_script("early_exit").verdicts
    seconds = {
        way: {"stock": 6.0, "entropy, 99 %": 2.0} for way in ("batch 1", "batch 32", "batch 32, sorted by length")
    }
    told = verdicts({"layers": {"entropy, 99 %": 1.5}, "seconds": seconds}, 6)
    assert [verdict.split(":")[0] for verdict in told] == ["kept", "kept", "kept", "MISSED", "MISSED"]
    assert "0.75 of the 4.00 times fewer layers" in told[3]
    assert told[4] == "MISSED: entropy keeps 98 % at no threshold"


def test_the_shift_is_clear_sentences_of_three_domains_and_never_film_reviews(tmp_path: Path) -> None:
    files = {
        name: f"1\t{rating}\t{name} says\n2\t0.1\tso so\n"
        for name, rating in (("amazonReviewSnippets", 2.5), ("nytEditorialSnippets", -1), ("tweets", 0.5))
    } | {"movieReviewSnippets": "1\t3\tno rating\tat all"}
    inner = tmp_path / "hutto_ICWSM_2014.tar.gz"
    with tarfile.open(inner, "w:gz") as archive:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
            archive.add(tmp_path / name, f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
    with tarfile.open(tmp_path / "sdist.tar.gz", "w:gz") as archive:
        archive.add(inner, f"vaderSentiment-3.3.2/additional_resources/{inner.name}")
    assert load_script("early_exit_shift").read_shift(tmp_path / "sdist.tar.gz") == {
        "product reviews": (["amazonReviewSnippets says"], [True]),
        "newspaper editorials": (["nytEditorialSnippets says"], [False]),
        "tweets": (["tweets says"], [True]),
    }
