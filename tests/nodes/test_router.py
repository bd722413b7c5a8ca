"""The router in a graph: objectives, filters, conversations, abstaining, baselines, and what the record says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

import dynflow
from dynflow import GraphError, NodeFailed, loads
from dynflow.compile import check_text
from dynflow.errors import MissingDependency
from dynflow.testing import FakeChat

GRAPH = """
version: 1
params:
  floor: {default: 0.7, min: 0, max: 1, tune: true}
models:
  tiny: {provider: host, price: {input: 0, output: 0}, capabilities: {images: false, context: 100}}
  mid: {provider: host, price: {input: 1, output: 2}, capabilities: {images: false}}
  large: {provider: host, price: {input: 10, output: 20}, max_tokens: 100}
nodes:
  s:
    type: runnable
    name: s
    ports: {score: number, confidence: number, quality: record, label: string}
  r:
    type: router
    routes: [small, middle, big]
OPTIONS
  small: {type: chat, model: tiny}
  middle: {type: chat, model: mid}
  big: {type: chat, model: large}
edges:
  - {from: start, to: s}
  - {from: s, to: big, when: s.failed}
  - {from: s, to: r}
  - {from: r, to: small, when: r.choice == 'small'}
  - {from: r, to: middle, when: r.choice == 'middle'}
  - {from: r, to: big}
  - {from: small, to: end}
  - {from: middle, to: end}
  - {from: big, to: end}
"""
CHEAPEST = "    objective: cheapest\n    floor: ${params.floor}\n    quality: ${s.quality}"
BEST = "    objective: best\n    max_usd: 0.001\n    quality: ${s.quality}"
BANDS = "    score: ${s.score}\n    bands: [0.4, 0.8]"


def flow(options: str, graph: str = GRAPH, **measured: Any) -> dynflow.Flow:
    """The graph with this router, over a signal that gives what is handed over; a list: one after the other."""
    ports = {"score": 0.5, "confidence": 1.0, "quality": {}, "label": "x", **measured}

    def signal(_: str) -> dict[str, Any]:
        return {name: value.pop(0) if isinstance(value, list) else value for name, value in ports.items()}

    models = {name: FakeChat(replies=[name]) for name in ("tiny", "mid", "large")}
    return loads(graph.replace("OPTIONS", options), runnables={"s": signal}, models=models)


def chosen(options: str, config: Any = None, request: Any = "hello", **measured: Any) -> tuple[str, str, str]:
    """Choice, reason and first note for one request."""
    visit = next(visit for visit in flow(options, **measured).run(request, config).trace.visits if visit.node == "r")
    return visit.values["choice"], visit.values["reason"], visit.notes[0]


QUALITY = {"small": 0.5, "middle": 0.75, "big": 0.9}


def test_cheapest_from_a_floor_and_its_record() -> None:
    result = flow(CHEAPEST, quality=QUALITY).run("hello there")
    visit = next(visit for visit in result.trace.visits if visit.node == "r")
    assert visit.values["choice"] == "middle"
    assert visit.values["score"] == 0.75
    assert visit.values["quality"] == QUALITY
    # 3 tokens in; 256 out, but for `large`, whose max_tokens are 100
    assert visit.values["prices"] == pytest.approx({"small": 0, "middle": 515e-6, "big": 2030e-6})
    assert visit.notes == (
        "middle is the cheapest from 0.7: predicted small 0.5 at $0, middle 0.75 at $0.000515, big 0.9 at $0.00203",
    )


@pytest.mark.parametrize(
    ("floor", "route", "reason"),
    [(0.5, "small", "rule"), (0.76, "big", "rule"), (0.95, "big", "missed")],
)
def test_the_floor_is_a_param(floor: float, route: str, reason: str) -> None:
    found = chosen(CHEAPEST, {"configurable": {"floor": floor}}, quality=QUALITY)
    assert found[:2] == (route, reason)


def test_best_within_a_price() -> None:
    assert chosen(BEST, quality=QUALITY)[:2] == ("middle", "rule")
    assert chosen(BEST.replace("0.001", "0"), quality=QUALITY)[:2] == ("small", "rule")
    assert chosen(BEST + "\n    answer_tokens: 10", quality=QUALITY)[0] == "big"


def test_qualities_may_be_given_one_by_one() -> None:
    options = (
        "    objective: cheapest\n    floor: 0.7\n    quality:\n      small: ${s.quality.weak}\n"
        "      middle: 0.6\n      big: ${s.quality.strong}"
    )
    assert chosen(options, quality={"weak": 0.8, "strong": 0.9})[0] == "small"
    assert chosen(options, quality={"strong": 0.9})[0] == "big"


def test_what_a_request_needs_closes_routes() -> None:
    image = [HumanMessage([{"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": "data:x"}])]
    result = flow(CHEAPEST, quality=dict.fromkeys(QUALITY, 0.9)).run(image)
    visit = next(visit for visit in result.trace.visits if visit.node == "r")
    assert visit.values["choice"] == "big"
    assert visit.notes[1:] == (
        "closed: small (model 'tiny' reads no images)",
        "closed: middle (model 'mid' reads no images)",
    )
    long = chosen(BANDS, request="word " * 200, score=0.1)
    assert long == (
        "middle",
        "closed",
        "middle in the place of small, which is closed; by itself: score 0.1: small below 0.4",
    )


STICKY = "\n    sticky: 0.1"


def routes_taken(options: str, thread: str | None, turns: int, **measured: Any) -> list[str]:
    made = flow(options, **measured)
    config: Any = {"configurable": {"thread_id": thread}} if thread else None
    return [made.run(f"turn {turn}", config).trace.answer or "" for turn in range(turns)]


def test_a_conversation_keeps_its_route_until_the_margin_is_crossed() -> None:
    scores = [0.35, 0.45, 0.49, 0.51, 0.41, 0.31, 0.29]
    kept = ["small", "small", "small", "middle", "middle", "middle", "small"]
    assert routes_taken(BANDS + STICKY, "t1", 7, score=list(scores)) == kept
    alone = ["small", "middle", "middle", "middle", "middle", "small", "small"]
    assert routes_taken(BANDS + STICKY, None, 7, score=list(scores)) == alone


def test_the_key_of_the_conversation_may_be_another() -> None:
    made = flow(BANDS + STICKY + "\n    conversation: session_id", score=[0.35, 0.45, 0.45])
    config: Any = {"configurable": {"session_id": 7, "thread_id": "x"}}
    assert [made.run("x", config).trace.answer for _ in range(2)] == ["small", "small"]
    assert made.run("x", {"configurable": {"session_id": 8}}).trace.answer == "middle"


def test_a_kept_route_that_is_closed_is_left() -> None:
    made = flow(BANDS + STICKY, score=[0.35, 0.38, 0.38])
    config: Any = {"configurable": {"thread_id": "t"}}
    assert made.run("short", config).trace.answer == "small"
    assert made.run("word " * 200, config).trace.answer == "middle"
    assert made.run("short", config).trace.answer == "middle"


async def test_a_sticky_floor_over_all_faces() -> None:
    made = flow(CHEAPEST + STICKY, quality=[{**QUALITY, "small": each} for each in (0.72, 0.65, 0.59, 0.75, 0.81)])
    config: Any = {"configurable": {"thread_id": "t"}}
    taken = [made.invoke("a", config).text, (await made.ainvoke("b", config)).text]
    taken += ["".join(chunk.text for chunk in made.stream("c", config))]
    taken += [made.batch(["d"], config)[0].text, made.as_chat_model().invoke("e", config).text]
    assert taken == ["tiny", "tiny", "mid", "mid", "tiny"]


UNSURE = BANDS + "\n    abstain: big\n    unsure: [0.3, 0.5]"


@pytest.mark.parametrize(
    ("options", "measured", "route", "reason"),
    [
        (UNSURE, {"score": 0.29}, "small", "rule"),
        (UNSURE, {"score": 0.3}, "big", "abstained"),
        (UNSURE, {"score": 0.5}, "middle", "rule"),
        (UNSURE, {"score": None}, "big", "abstained"),
        (BANDS + "\n    abstain: big\n    confidence: ${s.confidence}\n    sure_from: 0.2", {}, "middle", "rule"),
        (
            BANDS + "\n    abstain: big\n    confidence: ${s.confidence}\n    sure_from: 0.2",
            {"confidence": 0.1},
            "big",
            "abstained",
        ),
        (CHEAPEST + "\n    abstain: small", {"quality": {"small": 0.1, "big": 0.2}}, "big", "missed"),
        (CHEAPEST + "\n    abstain: middle", {"quality": None}, "middle", "abstained"),
        ("    label: ${s.label}\n    labels: {a: small}\n    abstain: big", {"label": "secret"}, "big", "abstained"),
    ],
)
def test_abstaining(options: str, measured: dict[str, Any], route: str, reason: str) -> None:
    found = chosen(options, **measured)
    assert found[:2] == (route, reason)
    assert "secret" not in found[2]


def test_abstain_is_the_route_of_labels_without_one() -> None:
    broken = (Path(__file__).parents[1] / "language/broken/router_labels_uncovered.yaml").read_bytes()
    assert [problem.code for problem in check_text(broken, None)[0].sorted()] == ["uncovered_label"]
    source, graph = check_text(broken.replace(b"    labels:", b"    abstain: small\n    labels:"), None)
    assert graph is not None
    assert "uncovered_label" not in [problem.code for problem in source.sorted()]


def test_a_kept_route_is_preferred_to_abstaining() -> None:
    assert routes_taken(UNSURE + STICKY, "t", 2, score=[0.2, 0.4]) == ["small", "small"]


def test_no_prediction_and_nowhere_to_go_is_a_failure() -> None:
    with pytest.raises(NodeFailed, match="no quality is predicted for any route"):
        flow(CHEAPEST, quality={"other": 1.0}).invoke("x")


def test_always_and_its_param() -> None:
    assert chosen("    always: middle") == ("middle", "rule", "always middle")
    named = GRAPH.replace("floor: {default: 0.7, min: 0, max: 1, tune: true}", "way: big")
    made = flow("    always: ${params.way}", named)
    assert made.invoke("x").text == "large"
    assert made.invoke("x", {"configurable": {"way": "small"}}).text == "tiny"
    with pytest.raises(NodeFailed, match="none of the routes small, middle, big"):
        made.invoke("x", {"configurable": {"way": "huge"}})


@pytest.mark.parametrize(
    ("options", "measured", "words"),
    [
        ("    score: ${s.score}\n    bands: ${s.label}", {"label": [[0.5]]}, "routes take bands one fewer"),
        ('    score: ${s.score}\n    bands: ["${params.floor}", 0.2]', {}, "the bands must ascend"),
        (BANDS, {"score": float("nan")}, "no band holds it"),
        (CHEAPEST.replace("${params.floor}", "${s.score}"), {"score": None, "quality": QUALITY}, "`floor` is null"),
        (CHEAPEST, {"quality": None}, "no quality is predicted"),
        ("    always: ${s.label}", {"label": None}, "`always` is None"),
        (UNSURE.replace("[0.3, 0.5]", "${s.label}"), {"label": [[0.1]]}, "`unsure` takes two bounds"),
    ],
)
def test_what_references_give_is_checked(options: str, measured: dict[str, Any], words: str) -> None:
    with pytest.raises(NodeFailed, match=words):
        flow(options, GRAPH.replace("label: string", "label: any"), **measured).invoke("x")


def test_a_prediction_that_is_no_number_is_none() -> None:
    assert chosen(CHEAPEST, quality={**QUALITY, "middle": float("nan")})[0] == "big"
    sure = BANDS + "\n    abstain: big\n    confidence: ${s.confidence}\n    sure_from: 0.2"
    assert chosen(sure, confidence=float("nan"))[:2] == ("big", "abstained")


def test_random_is_the_same_for_the_same_request() -> None:
    options = "    scorer: random\n    seed: 3\n    bands: [0.5, 0.75]"
    made, again = flow(options), flow(options)
    first = [made.run(f"q{each}").trace.answer for each in range(12)]
    assert [again.run(f"q{each}").trace.answer for each in reversed(range(12))] == first[::-1]
    assert len(set(first)) == 3


def test_litellms_scores_and_tiers() -> None:
    pytest.importorskip("litellm")
    scored = "    scorer: litellm\n    bands: [0.1, 0.5]"
    assert chosen(scored, request="What is the capital of France?")[0] == "small"
    tiers = "    scorer: litellm\n    labels: {SIMPLE: small, MEDIUM: middle, COMPLEX: big, REASONING: big}"
    assert chosen(tiers, request="What is the capital of France?")[2] == "label SIMPLE: small"
    hard = "Think step by step and analyze this algorithm, prove its complexity."
    assert chosen(tiers, request=hard)[2] == "label REASONING: big"


UTTERANCES = """    scorer: litellm
    abstain: middle
    utterances:
      small: [what is the capital of Italy?]
      big: [why does this SQL query return duplicate rows?, prove this theorem]"""


async def test_litellms_auto_router_on_local_embeddings() -> None:
    pytest.importorskip("semantic_router")
    made = flow(UTTERANCES)
    assert made.invoke("What is the capital of France?").text == "tiny"
    assert (await made.ainvoke("Why does my SQL query with two joins return duplicate rows?")).text == "large"
    assert chosen(UTTERANCES, request="hm") == ("middle", "abstained", "middle in doubt: semantic_no_match")


def test_litellms_auto_router_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("litellm")
    monkeypatch.setitem(sys.modules, "semantic_router", None)
    monkeypatch.setitem(sys.modules, "semantic_router.routers", None)
    with pytest.raises(MissingDependency, match=r'pip install "litellm\[semantic-router\]"'):
        flow(UTTERANCES).invoke("x")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("    score: ${s.score}\n    bands: [0.4, 0.8]\n    always: big", "exclusive_options"),
        ("    always: bigg", "unknown_node"),
        ("    scorer: random\n    bands: [0.4]", "bad_bands"),
        ("    scorer: litellm\n    bands: [0.1, 0.2]\n    seed: 1", "exclusive_options"),
        ("    scorer: litellm\n    bands: [0.1, 0.2]\n    labels: {SIMPLE: small}", "exclusive_options"),
        (CHEAPEST + "\n    unsure: [0.1, 0.2]\n    abstain: big", "exclusive_options"),
        (CHEAPEST.replace("${s.quality}", "{small: 1.5, middle: 1, big: 1}"), "bad_value"),
        (BANDS + "\n    abstain: big\n    sure_from: 0.2", "exclusive_options"),
        (BANDS + "\n    abstain: big\n    unsure: [0.2]", "bad_bands"),
        (BANDS + "\n    conversation: session_id", "exclusive_options"),
        ("    objective: cheapest\n    floor: 0.5", "missing_key"),
        (UTTERANCES.replace("    abstain: middle\n", ""), "missing_key"),
        (UTTERANCES.replace("small:", "smal:"), "unknown_node"),
        (UTTERANCES.replace("[what is the capital of Italy?]", "[]"), "too_few"),
        (UTTERANCES + "\n    bands: [0.1, 0.2]", "exclusive_options"),
        (UTTERANCES.replace("scorer: litellm", "scorer: random"), "exclusive_options"),
    ],
)
def test_faulty_routers(options: str, code: str) -> None:
    with pytest.raises(GraphError) as caught:
        flow(options)
    assert code in [problem.code for problem in caught.value.problems]
