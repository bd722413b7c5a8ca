"""Replay walks as the flow itself does, for every setting and row, and calls no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import BaseMessage

import dynflow
from dynflow.calibration.outcomes import read_outcomes
from dynflow.calibration.replay import Replay
from dynflow.errors import OutcomeError
from dynflow.testing import FakeChat
from tests.cli.outcomes import write_rows

CASCADE = """
version: 1
params:
  easy_below: {default: 0.5, min: 0, max: 1, tune: true}
  trust_above: {default: 0.5, min: 0, max: 1, tune: true}
models:
  small: {provider: host, price: {input: 1, output: 2}}
  large: {provider: host, price: {input: 10, output: 20}, capabilities: {context: 30}}
nodes:
  difficulty: {type: runnable, name: difficulty, ports: {score: number, kind: string}}
  local: {type: chat, model: small}
  check: {type: runnable, name: check, input: "${local.text}", ports: {confidence: number}}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: difficulty}
  - from: difficulty
    to: cloud
    when: difficulty.failed or difficulty.score >= params.easy_below and difficulty.kind != 'chat'
  - {from: difficulty, to: local}
  - {from: local, to: cloud, when: local.failed}
  - {from: local, to: check}
  - {from: check, to: cloud, when: check.failed or check.confidence < params.trust_above}
  - {from: check, to: end}
  - {from: cloud, to: end, when: cloud.failed and local.ok}
  - {from: cloud, to: end}
"""
BANDS = """
version: 1
params:
  low: {default: 0.3, min: 0, max: 1, tune: true}
  high: {default: 0.7, min: 0, max: 1, tune: true}
models: {a: {provider: host}, b: {provider: host}, c: {provider: host}}
nodes:
  difficulty: {type: runnable, name: difficulty, ports: {score: number, kind: string}, on_failure: {score: 0, kind: x}}
  pick:
    type: router
    routes: [small, middle, big]
    score: ${difficulty.score}
    bands:
      - ${params.low}
      - ${params.high}
  small: {type: chat, model: a}
  middle: {type: chat, model: b}
  big: {type: chat, model: c}
  sorry: {type: prompt, role: answer, template: Sorry.}
edges:
  - {from: start, to: difficulty}
  - {from: difficulty, to: pick}
  - {from: pick, to: sorry, when: pick.failed}
  - {from: pick, to: small, when: pick.choice == 'small'}
  - {from: pick, to: middle, when: pick.choice == 'middle'}
  - {from: pick, to: big, when: pick.choice == 'big'}
  - {from: small, to: middle, when: small.failed}
  - {from: small, to: end}
  - {from: middle, to: end}
  - {from: big, to: end}
  - {from: sorry, to: end}
"""
SIDE_BY_SIDE = """
version: 1
params: {bar: {default: 0.5, min: 0, max: 1, tune: true}}
models: {a: {provider: host}, b: {provider: host}}
nodes:
  both: {type: parallel, of: [difficulty, length]}
  difficulty: {type: runnable, name: difficulty, ports: {score: number, kind: string}, on_failure: {score: 1, kind: x}}
  length: {type: runnable, name: length, ports: {words: integer}}
  local: {type: chat, model: a}
  cloud: {type: chat, model: b}
edges:
  - {from: start, to: both, when: input.tokens > 4 or input.turns > 1}
  - {from: start, to: local}
  - {from: both, to: cloud, when: both.failed}
  - {from: both, to: cloud, when: "max(difficulty.score, length.words / 10) > params.bar"}
  - {from: both, to: local}
  - {from: local, to: end}
  - {from: cloud, to: end}
"""


def write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    return Path(write_rows(folder / "outcomes.jsonl", rows))


def rows(names: Sequence[str], count: int = 40) -> list[dict[str, Any]]:
    """Requests whose prompt begins with its score, and outcomes that fail now and then."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        outcomes: dict[str, Any] = {}
        for name in names:
            answer = {"quality": float(rng.integers(0, 2)), "response": f"{rng.random():.3f} from {name}"}
            outcomes[name] = {"error": "timeout"} if rng.random() < 0.15 else answer
        words = " word" * int(rng.integers(0, 30))
        found.append({"id": number, "prompt": f"{rng.random():.3f} {number}{words}", "outcomes": outcomes})
    return found


def difficulty(text: str) -> dict[str, Any]:
    score = float(text.split()[0])
    if 0.45 < score < 0.55:
        raise ValueError("undecided")
    return {"score": score, "kind": "chat" if score > 0.9 else "task"}


def check(text: str) -> dict[str, Any]:
    return {"confidence": float(text.split()[0])}


def length(text: str) -> dict[str, Any]:
    words = len(text.split())
    if words % 7 == 0:
        raise ValueError("unlucky")
    return {"words": words}


HOST = {"difficulty": difficulty, "check": check, "length": length}


def answering(outcomes: Sequence[Mapping[str, Any]], name: str) -> FakeChat:
    """A model that gives the recorded answers."""
    by_prompt = {row["prompt"]: row["outcomes"][name] for row in outcomes}

    def reply(messages: list[BaseMessage]) -> str:
        outcome = by_prompt[str(messages[-1].text)]
        if "error" in outcome:
            raise TimeoutError("recorded")
        return str(outcome["response"])

    return FakeChat(replies=reply)


GRAPHS: list[tuple[str, str, dict[str, str], list[dict[str, float]]]] = [
    (
        "cascade",
        CASCADE,
        {"local": "small", "cloud": "large"},
        [{"easy_below": easy, "trust_above": trust} for easy in (0.0, 0.3, 0.8, 1.0) for trust in (0.0, 0.4, 1.0)],
    ),
    (
        "bands",
        BANDS,
        {"small": "a", "middle": "b", "big": "c", "sorry": ""},
        [{"low": low, "high": high} for low in (0.0, 0.2, 0.6) for high in (0.1, 0.6, 0.9)],
    ),
    ("side by side", SIDE_BY_SIDE, {"local": "a", "cloud": "b"}, [{"bar": bar} for bar in (0.0, 0.3, 0.5, 0.9, 1.0)]),
]


@pytest.mark.parametrize(
    ("text", "models", "settings"), [case[1:] for case in GRAPHS], ids=[case[0] for case in GRAPHS]
)
def test_replay_goes_the_way_the_flow_goes(
    tmp_path: Path, text: str, models: dict[str, str], settings: list[dict[str, float]]
) -> None:
    recorded = rows([*models])
    flow = dynflow.loads(
        text,
        runnables=HOST,
        models={model: answering(recorded, node) for node, model in models.items() if model},
    )
    walked = Replay(dynflow.loads(text, runnables=HOST), read_outcomes(write(tmp_path, recorded))).walk(settings)
    paths = set()
    for setting, params in enumerate(settings):
        for index, row in enumerate(recorded):
            called = {name for name in models if walked.called[name][setting, index]}
            answer = walked.answer[setting, index]
            try:
                result = flow.run(row["prompt"], {"configurable": params})
            except Exception:
                assert answer == -1, (params, row)
                assert walked.quality[setting, index] == 0
                continue
            path = result.trace.path
            paths.add(tuple(path))
            assert walked.nodes[answer] == result.trace.answer, (params, row, path)
            assert called == set(models) & set(path), (params, row, path)
            quality = (
                0.0
                if "error" in row["outcomes"][result.trace.answer]
                else row["outcomes"][result.trace.answer]["quality"]
            )
            assert walked.quality[setting, index] == quality
    assert len(paths) >= 3


def test_no_model_is_made_or_called(tmp_path: Path) -> None:
    """The host handed over none, so that asking for one would raise."""
    replay = Replay(dynflow.loads(CASCADE, runnables=HOST), read_outcomes(write(tmp_path, rows(["local", "cloud"]))))
    assert replay.walk([{}]).quality.shape == (1, 40)


def counted(function: Callable[[str], Any], calls: list[str]) -> Callable[[str], Any]:
    def run(text: str) -> Any:
        calls.append(text)
        return function(text)

    return run


def test_a_signal_runs_once_for_each_request_whatever_the_settings(tmp_path: Path) -> None:
    calls: list[str] = []
    flow = dynflow.loads(CASCADE, runnables={**HOST, "difficulty": counted(difficulty, calls)})
    replay = Replay(flow, read_outcomes(write(tmp_path, rows(["local", "cloud"]))))
    replay.walk([{"easy_below": bar / 50} for bar in range(51)])
    replay.walk([{}])
    assert len(calls) == 40
    assert replay.failures["difficulty"] == len([1 for text in calls if 0.45 < float(text.split()[0]) < 0.55]) > 0


def test_costs_are_given_or_estimated(tmp_path: Path) -> None:
    prompt = "0.1 " + "abcd" * 9  # ten tokens
    outcomes = {"local": {"quality": 1, "response": "1.0 " + "x" * 36}, "cloud": {"quality": 1, "usd": 0.5}}
    replay = Replay(
        dynflow.loads(CASCADE, runnables=HOST),
        read_outcomes(write(tmp_path, [{"id": 1, "prompt": prompt, "outcomes": outcomes}])),
    )
    assert replay.walk([{}]).usd[0, 0] == pytest.approx((10 * 1 + 10 * 2) / 1e6)
    assert replay.walk([{"easy_below": 0}]).usd[0, 0] == 0.5
    assert replay.walk([{"trust_above": 1}, {"easy_below": 0}]).usd[:, 0] == pytest.approx([3e-5, 0.5])
    assert replay.recorded.nodes["local"].estimated == 1
    assert replay.recorded.nodes["cloud"].estimated == 0


def test_what_a_request_is_too_long_for_is_closed(tmp_path: Path) -> None:
    recorded = rows(["local", "cloud"])
    replay = Replay(dynflow.loads(CASCADE, runnables=HOST), read_outcomes(write(tmp_path, recorded)))
    long = np.array([request.tokens > 30 for request in replay.requests])
    assert 0 < long.sum() < 40
    walked = replay.walk([{"easy_below": 0.0}])
    assert not walked.called["cloud"][0, long].any()
    assert walked.called["cloud"][0, ~long].any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: row["outcomes"].pop("cloud"), "line|:2: no outcome of 'cloud'"),
        (lambda row: row["outcomes"]["local"].pop("response"), ":2: the outcome of 'local' has no \"response\""),
        (
            lambda row: row["outcomes"].update(local={"ports": {}}),
            ":2: the outcome of 'local', an answer, has no quality",
        ),
    ],
)
def test_rows_that_lack_what_the_graph_needs_are_told(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    recorded = [row for row in rows(["local", "cloud"]) if "error" not in row["outcomes"]["local"]][:3]
    change(recorded[1])
    with pytest.raises(OutcomeError, match=told):
        Replay(dynflow.loads(CASCADE, runnables=HOST), read_outcomes(write(tmp_path, recorded)))


def test_outcomes_are_bound_by_name(tmp_path: Path) -> None:
    file = read_outcomes(write(tmp_path, rows(["weak", "strong"])))
    flow = dynflow.loads(CASCADE, runnables=HOST)
    with pytest.raises(OutcomeError, match=r"no row has an outcome of the node 'local' .*--outcome weak=local"):
        Replay(flow, file)
    with pytest.raises(OutcomeError, match="did you mean 'weak'"):
        Replay(flow, file, {"waek": ["local"]})
    with pytest.raises(OutcomeError, match="did you mean 'cloud'"):
        Replay(flow, file, {"strong": ["clod"]})
    with pytest.raises(OutcomeError, match="'check' is run for real"):
        Replay(flow, file, {"strong": ["check"]})
    replay = Replay(flow, file, {"weak": ["local"], "strong": ["cloud"]})
    assert replay.recorded.names == {"local": "weak", "cloud": "strong"}


def test_models_give_their_name_too(tmp_path: Path) -> None:
    replay = Replay(dynflow.loads(CASCADE, runnables=HOST), read_outcomes(write(tmp_path, rows(["small", "large"]))))
    assert replay.recorded.names == {"local": "small", "cloud": "large"}
