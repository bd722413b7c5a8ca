"""The shipped graphs, with the real embedded models."""

from __future__ import annotations

from pathlib import Path

import pytest

import dynflow
from dynflow import graphs
from dynflow.compile import check_text

EASY = "What is the capital of France?"
HARD = "Why does my SQL query with two left joins return duplicate rows?"
FILES = sorted(Path(graphs.__file__).parent.glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_graph_is_clean(file: Path) -> None:
    source, graph = check_text(file.read_bytes(), str(file))
    assert graph is not None
    assert {problem.code for problem in source.sorted()} <= {"missing_environment"}


def test_path_names_the_graphs_there_are() -> None:
    assert graphs.path("quickstart").is_file()
    with pytest.raises(FileNotFoundError, match="quickstart"):
        graphs.path("quikstart")


def test_quickstart_answers_an_easy_question_locally() -> None:
    result = dynflow.load(graphs.path("quickstart")).run(EASY)
    assert result.trace.path == ["start", "difficulty", "local", "end"]
    assert "Paris" in result.value.text
    assert not result.trace.degraded
    assert result.ledger.usd == 0
    assert result.ledger.saved_usd is not None
    assert result.ledger.saved_usd > 0


def test_quickstart_without_a_key_says_which_variable_to_set() -> None:
    result = dynflow.load(graphs.path("quickstart")).run(HARD)
    assert result.trace.path == ["start", "difficulty", "cloud", "stand_in", "end"]
    assert result.trace.degraded
    failed = next(visit for visit in result.trace.visits if not visit.ok)
    assert failed.error == "auth"
    assert "export OPENAI_API_KEY" in (failed.message or "")
    assert result.value.text.strip()


def test_cascade_keeps_a_draft_that_passes_and_degrades_without_a_key() -> None:
    flow = dynflow.load(graphs.path("cascade"))
    kept = flow.run("What is 2 + 2?", {"configurable": {"doubt_above": 1.0}})
    assert kept.trace.path == ["start", "difficulty", "draft", "check", "end"]
    doubted = flow.run("What is 2 + 2?", {"configurable": {"doubt_above": 0.0}})
    assert doubted.trace.path == ["start", "difficulty", "draft", "check", "cloud", "end"]
    assert 0 < doubted.trace.decisions[-2].values["check.score"] <= 1
    assert doubted.trace.degraded
    assert doubted.trace.answer == "draft"
    assert doubted.value.text == kept.value.text


def test_sentiment_leaves_the_encoder_early_where_a_review_is_plain() -> None:
    pytest.importorskip("transformers")
    flow = dynflow.load(graphs.path("sentiment"))
    review = "a gorgeous , witty , seductive movie"
    early, whole = flow.run(review), flow.run(review, {"configurable": {"unsure_above": 0.0}})
    assert early.value.label == whole.value.label == "positive"
    layers = [result.trace.visits[0].values["layer"] for result in (early, whole)]
    assert layers[0] < layers[1] == 6


def test_triage_asks_the_chat_model_about_what_the_encoder_doubts() -> None:
    pytest.importorskip("transformers")
    flow = dynflow.load(graphs.path("triage"))
    settled = flow.run("a gorgeous , witty , seductive movie")
    assert settled.trace.path == ["start", "sentiment", "end"]
    doubted = flow.run("a gorgeous , witty , seductive movie", {"configurable": {"ask_below": 1.0}})
    assert doubted.trace.path == ["start", "sentiment", "question", "ask", "end"]
    assert doubted.trace.answer == "ask"
    assert doubted.value.label in ("negative", "positive")
    assert not doubted.trace.degraded


def test_diffusion_draws_and_says_what_it_took() -> None:
    pytest.importorskip("diffusers")
    flow = dynflow.load(graphs.path("diffusion"))
    prompt = "two red circles above a blue square"
    whole, early = flow.run(prompt, {"configurable": {"calm_below": 0.0}}), flow.run(prompt)
    assert whole.value.response_metadata["steps"] == 50
    assert 2 <= early.value.response_metadata["steps"] < 50
    assert early.value.content[0]["mime_type"] == "image/png"
    assert early.trace.visits[0].notes[0].endswith("s saved")
