"""Conversations as the unit that is drawn: replayed turn by turn, split and resampled whole, and promised of."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dynflow
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.outcomes import OutcomeFile
from dynflow.calibration.promises import Kind, Promise, Sample, last_kept, variables
from dynflow.calibration.replay import Replay
from dynflow.calibration.report import report
from dynflow.errors import CalibrationError, OutcomeError
from dynflow.flow import Flow
from dynflow.nodes.runnable import RunnableOfHost
from dynflow.testing import FakeChat
from tests.calibration.test_calibrate import ROUTE, file_of
from tests.effort import EFFORT

BANDS = """
version: 1
params:
  bar: {default: 0.5, min: 0.2, max: 1, tune: true}
models:
  a: {provider: host, price: {input: 0, output: 0}}
  b: {provider: host, price: {input: 30, output: 30}}
nodes:
  difficulty: {type: runnable, name: difficulty, ports: {score: number}, on_failure: {score: 1}}
  route:
    type: router
    routes: [local, middle, cloud]
    score: ${difficulty.score}
    bands:
      - 0.2
      - ${params.bar}
    sticky: 0.1
  local: {type: chat, model: a}
  middle: {type: chat, model: a}
  cloud: {type: chat, model: b}
edges:
  - {from: start, to: difficulty}
  - {from: difficulty, to: cloud, when: difficulty.score > 0.95}
  - {from: difficulty, to: route}
  - {from: route, to: local, when: route.choice == 'local'}
  - {from: route, to: middle, when: route.choice == 'middle'}
  - {from: route, to: cloud}
  - {from: local, to: end}
  - {from: middle, to: end}
  - {from: cloud, to: end}
baseline: cloud
"""
CHEAPEST = (
    BANDS.replace("ports: {score: number}, on_failure: {score: 1}", "ports: {score: number, quality: record}")
    .replace("    score: ${difficulty.score}\n", "    objective: cheapest\n    quality: ${difficulty.quality}\n")
    .replace("    bands:\n      - 0.2\n      - ${params.bar}\n", "    floor: ${params.bar}\n    abstain: cloud\n")
)


def difficulty(text: str) -> dict[str, Any]:
    score = float(text)
    return {"score": score, "quality": {"local": 0.6 - score, "middle": 0.6 - score / 2, "cloud": 0.5}}


def flow(text: str = BANDS) -> Flow:
    return dynflow.loads(text, runnables={"difficulty": difficulty}, models={n: FakeChat(replies=[n]) for n in "ab"})


def drawn(count: int, seed: int = 0, most: int = 6, alike: float = 0.1) -> list[dict[str, Any]]:
    """Conversations whose scores wander, and whose answers are good or bad together (but for `alike` of them)."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in range(count):
        score, luck, better = rng.random(), rng.random(), rng.random() < 0.9
        for turn in range(rng.integers(1, most + 1)):
            score = float(np.clip(score + rng.normal(0, 0.12), 0, 1))
            luck, better = (rng.random(), rng.random() < 0.9) if rng.random() < alike else (luck, better)
            local, cloud = int(luck < 0.9 - 0.6 * score), int(better)
            outcomes = {"local": {"quality": local, "usd": 0.0001}, "cloud": {"quality": cloud, "usd": 0.005}}
            rows.append(
                {"id": f"{seed}/{name}/{turn}", "conversation": f"{seed}/{name}", "prompt": f"{score:.6f}"}
                | {"outcomes": outcomes | {"middle": outcomes["local"]}}
            )
    return rows


def alone(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows, as if each had been drawn by itself."""
    return [{key: value for key, value in row.items() if key != "conversation"} for row in rows]


# The file


def test_draws_and_turns_follow_the_lines(tmp_path: Path) -> None:
    names = ["x", None, "y", "x", 7, "x", None]
    rows = [{**drawn(1)[0], "id": place, "conversation": name} for place, name in enumerate(names)]
    file = file_of(tmp_path, rows)
    assert list(file.draws) == [0, 1, 2, 0, 3, 0, 4]
    assert list(file.turns) == [0, 0, 0, 1, 0, 2, 0]
    assert file.drawn == 5
    assert [row.id for row in file.first(2).rows] == ["0", "1", "2", "3", "4", "6"]
    assert not file_of(tmp_path, alone(rows)).conversational


def test_conversations_are_shuffled_and_split_whole(tmp_path: Path) -> None:
    file = file_of(tmp_path, drawn(60))
    for part in (*file.split(0.3), file.shuffled()):
        turns = {row.id: turn for row, turn in zip(part.rows, part.turns, strict=True)}
        assert all(turn == int(id.rpartition("/")[2]) for id, turn in turns.items())
    first, rest = file.split(0.3)
    assert first.drawn + rest.drawn == 60
    shuffled = [row.conversation for row in file.shuffled().rows]
    assert shuffled != [row.conversation for row in file.rows]
    assert sum(one != other for one, other in itertools.pairwise(shuffled)) == 59


@pytest.mark.parametrize("name", [True, 1.5, ["x"], ""])
def test_a_conversation_is_a_text_or_a_whole_number(tmp_path: Path, name: Any) -> None:
    with pytest.raises(OutcomeError, match=r'o.jsonl:1: "conversation" is a text or a whole number'):
        file_of(tmp_path, [{**drawn(1)[0], "conversation": name}])


# Replay


def answers(made: Flow, file: OutcomeFile, params: Mapping[str, Any]) -> list[str | None]:
    """What a flow answers when the conversations are held with it, all at once."""
    order = sorted(zip(file.turns, file.rows, strict=True), key=lambda each: each[0])
    found = {}
    for _, row in order:
        config = {"configurable": {**params, "thread_id": row.conversation}}
        found[row.id] = made.run(row.input, config).trace.answer  # type: ignore[arg-type]
    return [found[row.id] for row in file.rows]


@pytest.mark.parametrize("text", [BANDS, CHEAPEST], ids=["bands", "cheapest"])
def test_replay_goes_the_way_of_the_flow(tmp_path: Path, text: str) -> None:
    file = file_of(tmp_path, drawn(15)).shuffled()
    settings = [{"bar": bar} for bar in (0.2, 0.3, 0.42, 0.55, 0.8)]
    walked = Replay(flow(text), file).walk(settings)
    for place, params in enumerate(settings):
        assert [walked.nodes[each] for each in walked.answer[place]] == answers(flow(text), file, params)
    memoryless = Replay(flow(text), file_of(tmp_path, alone(drawn(15))).shuffled()).walk(settings)
    assert sorted(memoryless.answer.ravel()) != sorted(walked.answer.ravel())  # the memory matters here


def test_a_sub_graph_remembers_too(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(BANDS.replace("provider: host", "provider: litellm, model: x"), "utf-8")
    outer = "version: 1\nnodes: {part: {type: graph, uses: inner.yaml}}\n"
    (tmp_path / "outer.yaml").write_text(f"{outer}edges: [{{from: start, to: part}}, {{from: part, to: end}}]\n")
    made = dynflow.load(
        tmp_path / "outer.yaml",
        runnables={"part/difficulty": difficulty, "difficulty": difficulty},
        models={f"part/{n}": FakeChat(replies=[n]) for n in "ab"},
    )
    file = file_of(tmp_path, drawn(10))
    rows = [{**row, "outcomes": {f"part/{n}": each for n, each in row["outcomes"].items()}} for row in drawn(10)]
    walked = Replay(made, file_of(tmp_path, rows, "inner.jsonl")).walk([{}])
    assert [walked.nodes[each] for each in walked.answer[0]] == [f"part/{name}" for name in answers(flow(), file, {})]


# Promises


@pytest.mark.parametrize("kind", ["quality_of", "quality", "usd", "share"])
def test_a_conversation_counts_by_its_requests(kind: Kind) -> None:
    """The promise is one on the mean over requests: exactly where that is kept, the mean over draws is at the limit."""
    rng = np.random.default_rng(3)
    draws = np.repeat(np.arange(40), rng.integers(1, 8, 40))
    n = len(draws)
    called = rng.random((6, n)) < np.linspace(0.1, 0.9, 6)[:, None]
    sample = Sample(rng.random((6, n)), rng.random((6, n)), called, rng.random(n), 1.0, False, draws.tolist())
    for target in (0.3, 0.48, 0.52, 0.7):
        rows = variables(Promise(kind, target, "cloud", 0.9), sample)
        tested = variables(Promise(kind, target, "cloud", 0.9, turns=7), sample)
        assert tested.values.shape == (6, 40)
        assert ((tested.values >= 0) & (tested.values <= 1)).all()
        assert ((tested.values.mean(1) >= tested.limit) == (rows.values.mean(1) >= rows.limit)).all()
        assert [tested.mean(place) for place in range(6)] == pytest.approx([rows.mean(place) for place in range(6)])


def test_conversations_of_one_request_are_rows() -> None:
    rng = np.random.default_rng(3)
    quality = (rng.random((4, 50)) < 0.8).astype(float)
    sample = Sample(quality, quality, quality > 0, quality[0], 1.0, True, range(50))
    for target in rng.random(100):
        rows = variables(Promise("quality", target, "cloud", 0.9), sample)
        tested = variables(Promise("quality", target, "cloud", 0.9, turns=1), sample)
        assert tested.binary
        assert np.array_equal(tested.values, rows.values)  # exactly, for an exact test counts them


def test_requests_beyond_those_promised_of_are_refused() -> None:
    quality = np.ones((1, 3))
    sample = Sample(quality, quality, quality > 0, quality[0], 1.0, True, [0, 1, 1])
    with pytest.raises(ValueError, match="a conversation has 2 requests, and 1 of each are promised of"):
        variables(Promise("quality", 0.6, "cloud", 0.9, turns=1), sample)


def test_what_is_promised_of_conversations(tmp_path: Path) -> None:
    found = calibrate(flow(), file_of(tmp_path, drawn(400, 1)), kind="quality_of", target=0.8, confidence=0.9)
    calibration = found.calibration
    assert calibration.statement == (
        "on the first 6 requests of new conversations drawn like these, mean quality is at least 80 % of cloud's, "
        "unless this calibration was among the unlucky 10 %"
    )
    assert calibration.promise["turns"] == 6
    assert 250 < calibration.n < 350
    assert calibration.n + calibration.tuning_rows == 400
    assert calibration.requests is not None
    assert 3 * calibration.n < calibration.requests < 4 * calibration.n
    assert calibration.tested_on == f"{calibration.n} conversations of {calibration.requests:,} requests"
    assert 0.2 < calibration.params["bar"] < 1
    json.dumps(calibration.as_dict(), allow_nan=False)
    shown = report(evaluate(flow(), file_of(tmp_path, drawn(40)), times=20), "g", calibration)
    assert f"tested on {calibration.tested_on}" in shown
    assert "40 conversations of " in shown


def test_only_the_first_turns_may_be_promised_of(tmp_path: Path) -> None:
    found = calibrate(flow(), file_of(tmp_path, drawn(400, 1)), kind="quality_of", target=0.7, turns=1)
    assert found.calibration.requests == found.calibration.n
    assert found.calibration.statement.startswith("on the first request of new conversations drawn like these")
    assert any("requests after the first 1 of their conversations were not counted" in note for note in found.notes)
    with pytest.raises(CalibrationError, match="leave `turns` out"):
        calibrate(dynflow.loads(ROUTE, runnables={"difficulty": difficulty}), file_of(tmp_path, alone(drawn(50))),
                  kind="share", target=0.5, turns=3)  # fmt: skip


def test_too_few_conversations_are_refused_with_how_many_more(tmp_path: Path) -> None:
    file = file_of(tmp_path, drawn(120, 1))
    with pytest.raises(CalibrationError, match=r"\d+ conversations are too few .* about \d+ conversations more") as why:
        calibrate(flow(), file, kind="quality", target=0.85, of="cloud")
    assert why.value.code == "too_little_data"
    with pytest.raises(CalibrationError, match="40 conversations are too few to choose settings on one part"):
        calibrate(flow(), file_of(tmp_path, drawn(40)), kind="quality_of", target=0.7, of="cloud")
    few = file_of(tmp_path, [{**row, "conversation": f"few {row['conversation']}"} for row in drawn(5)], "few.jsonl")
    with pytest.raises(CalibrationError, match="5 conversations are too few to choose settings on: give at least 20"):
        calibrate(flow(), file, kind="quality_of", target=0.7, of="cloud", tuning=few)


def test_two_kinds_of_conversations_cannot_be_told_apart_in_a_row(tmp_path: Path) -> None:
    two = BANDS.replace(
        "  local: {type: chat",
        "  other:\n    type: router\n    routes: [local, cloud]\n    score: ${difficulty.score}\n    bands: [0.5]\n"
        "    sticky: 0.2\n    conversation: user\n  local: {type: chat",
    ).replace("to: route}", "to: other}\n  - {from: other, to: route}")
    with pytest.raises(CalibrationError, match=r"different keys \(thread_id, user\)") as why:
        calibrate(flow(two), file_of(tmp_path, drawn(120)), kind="share", target=0.5)
    assert why.value.code == "dependent"


def test_a_conversation_that_training_knows_is_left_out_whole(tmp_path: Path, monkeypatch: Any) -> None:
    rows = drawn(60)
    known = rows[0]["prompt"]
    monkeypatch.setattr(RunnableOfHost, "trained_on", lambda self, request: request.text == known, raising=False)
    found = evaluate(flow(), file_of(tmp_path, rows), times=20)
    assert found.n == 59
    assert found.trained_on == sum(row["conversation"] == rows[0]["conversation"] for row in rows)


def test_tuning_and_testing_share_no_conversation(tmp_path: Path) -> None:
    rows = drawn(200)
    tuning = file_of(tmp_path, rows[:200], "tuning.jsonl")
    with pytest.raises(OutcomeError, match="tuning has this conversation too"):
        calibrate(flow(), file_of(tmp_path, rows[199:]), kind="share", target=0.5, tuning=tuning)


def test_intervals_are_of_conversations(tmp_path: Path) -> None:
    """Rows that are all alike in a conversation tell no more than one of them."""
    rows = drawn(80, alike=0)
    whole, split = (evaluate(flow(text), file_of(tmp_path, each), times=300) for text, each in
                    ((BANDS, rows), (BANDS.replace("    sticky: 0.1\n", ""), alone(rows))))  # fmt: skip
    assert (whole.n, whole.requests) == (80, len(rows))
    assert (split.n, split.requests) == (len(rows), None)

    def width(found: Any) -> float:
        figure = found.baselines["always_strong"]["quality"]
        return float(figure.high - figure.low)

    assert width(whole) > 1.5 * width(split)


def sampled(count: int, seed: int) -> Sample:
    """Conversations under 30 thresholds: hard ones are longer, and their requests are good or bad together."""
    rng = np.random.default_rng(seed)
    score = rng.random(count)
    length = 1 + rng.binomial(11, 0.2 + 0.6 * score)
    draws = np.repeat(np.arange(count), length)
    weak, strong = rng.random(count) < 0.95 - 0.5 * score, rng.random(count) < 0.9
    called = score >= np.linspace(0, 1, 30)[:, None]
    quality = np.where(called, strong, weak).astype(np.float64)
    usd = np.zeros((30, len(draws)))
    return Sample(quality[:, draws], usd, called[:, draws], strong[draws].astype(float), draws=draws.tolist())


def test_rows_of_a_conversation_are_no_independent_draws() -> None:
    """Counted one by one they break the promise more often than stated; counted by conversation they do not."""
    truth = sampled(100_000, 0)
    keeps = truth.quality.mean(1) >= 0.9 * truth.reference.mean()
    assert keeps[0]
    assert not keeps[-1]
    draws, broken, shares = 100 * EFFORT, {None: 0, 12: 0}, []
    for seed in range(draws):
        sample = sampled(100, seed + 1)
        for turns in broken:
            tested = variables(Promise("quality_of", 0.9, "cloud", 0.9, turns), sample)
            chosen = max(last_kept(tested.kept(0.9)), 0)
            broken[turns] += not keeps[chosen]
        shares.append(truth.called[chosen].mean())
    error = math.sqrt(0.09 / draws)
    assert broken[12] / draws <= 0.1 + 2 * error
    assert broken[None] / draws > 0.1 + 4 * error
    assert np.mean(shares) < 0.99  # and something is gained
