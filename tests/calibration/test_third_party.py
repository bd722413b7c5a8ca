"""Signals of another package in a replay: what they remember, and what they give that they did not declare."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import dynflow
from dynflow import node
from dynflow.calibration.calibrate import calibrate
from dynflow.calibration.evaluate import evaluate
from dynflow.calibration.replay import Replay
from dynflow.errors import CalibrationError, NodeFailed
from dynflow.flow import Flow
from dynflow.language.types import any_type, integer, number
from dynflow.node import Call, Memory, Node, Output
from dynflow.testing import FakeChat
from tests.calibration.test_calibrate import file_of

GRAPH = """
version: 1
params: {bar: {default: 2.5, min: 0, max: 10, tune: true}}
models: {m: {provider: host, price: {input: 0, output: 0}}}
nodes:
  turn: {type: counting}
  local: {type: chat, model: m}
  cloud: {type: chat, model: m}
edges:
  - {from: start, to: turn}
  - {from: turn, to: cloud, when: turn.failed or turn.count > params.bar}
  - {from: turn, to: local}
  - {from: local, to: end}
  - {from: cloud, to: end}
baseline: cloud
"""


class Counting(Node):
    """Counts the requests of a conversation."""

    type = "counting"
    ports: ClassVar[Any] = {"count": integer("requests so far"), "share": number(), "words": any_type()}
    told: ClassVar[Any] = Memory("thread_id", "count")
    gives: ClassVar[Any] = {"share": 0.5, "words": []}

    @property
    def remembers(self) -> Any:
        return self.told

    def run(self, call: Call) -> Output:
        return Output({"count": (call.remembered or 0) + 1, **self.gives})


class Together(Counting):
    """The same in batches, one of which goes wrong."""

    batches = True
    told = None
    fails: ClassVar[Any] = None

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        if self.fails is not None:
            raise self.fails
        return [self.run(call) for call in calls[1:]]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Registers a class as the node type `counting`, as the entry point of another package does."""
    package = ModuleType("another_package")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    registered = {**node._registered(), "counting": EntryPoint("counting", "another_package:Type", "dynflow.nodes")}
    monkeypatch.setattr(node, "_registered", lambda: registered)

    def made(cls: type[Node], **changed: Any) -> Flow:
        package.Type = type(cls.__name__, (cls,), changed)  # type: ignore[attr-defined]
        node.node_type.cache_clear()
        return dynflow.loads(GRAPH, models={"m": FakeChat()})

    yield made
    node.node_type.cache_clear()


def rows(count: int = 120) -> list[dict[str, Any]]:
    outcomes = {"local": {"quality": 1, "usd": 0.001}, "cloud": {"quality": 1, "usd": 0.01}}
    return [{"id": n, "conversation": n // 4, "prompt": f"number {n}", "outcomes": outcomes} for n in range(count)]


def test_what_it_remembers_is_carried_from_turn_to_turn(tmp_path: Path, register: Any) -> None:
    walked = Replay(register(Counting), file_of(tmp_path, rows(8))).walk([{"bar": 2.5}, {"bar": 1.5}])
    assert [[walked.nodes[each] for each in setting] for setting in walked.answer] == [
        ["local", "local", "cloud", "cloud"] * 2,
        ["local", "cloud", "cloud", "cloud"] * 2,
    ]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (True, r"the node type 'counting' says of 'turn' that it `remembers` True, .* dynflow\.node\.Memory"),
        ("thread_id", r"`remembers` 'thread_id', .* dynflow\.node\.Memory"),
        (Memory("thread_id", "cuont"), r"`remembers` its port 'cuont', .* \(count, share\)"),
        (Memory("thread_id", "words"), r"`remembers` its port 'words', .* text or number: .* \(count, share\)"),
    ],
)
def test_a_memory_that_cannot_be_replayed_is_refused(tmp_path: Path, register: Any, told: Any, words: str) -> None:
    file, made = file_of(tmp_path, rows()), register(Counting, told=told)
    for conclude in (
        lambda: evaluate(made, file, times=20),
        lambda: calibrate(made, file, kind="share", target=0.5),
    ):
        with pytest.raises(CalibrationError, match=words) as caught:
            conclude()
        assert caught.value.code == "dependent"


def test_without_conversations_it_says_what_lacks(tmp_path: Path, register: Any) -> None:
    alone = [{key: value for key, value in row.items() if key != "conversation"} for row in rows()]
    with pytest.raises(CalibrationError, match=r"'turn' keeps .* or remembers them .* its \"conversation\""):
        calibrate(register(Counting), file_of(tmp_path, alone), kind="share", target=0.5)


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        ({"share": "half", "words": []}, "'counting' broke its own word: 'share' is str, not number"),
        ({"share": 0.5}, "'counting' broke its own word: it gave no 'words'"),
    ],
)
def test_what_it_did_not_declare_is_its_failure(tmp_path: Path, register: Any, gives: Any, words: str) -> None:
    replay = Replay(register(Counting, gives=gives), file_of(tmp_path, rows(8)))
    walked = replay.walk([{}])
    assert {walked.nodes[each] for each in walked.answer[0]} == {"cloud"}
    assert replay.failures["turn"] == 8
    assert words in str(replay.first_failure["turn"])


@pytest.mark.parametrize(
    ("fails", "error", "words"),
    [(OSError("no file"), OSError, "no file"), (None, NodeFailed, "7 results for 8 requests")],
)
def test_a_batch_that_goes_wrong_is_its_failure(
    tmp_path: Path, register: Any, fails: Any, error: type[Exception], words: str
) -> None:
    replay = Replay(register(Together, fails=fails), file_of(tmp_path, rows(8)))
    walked = replay.walk([{}])
    assert {walked.nodes[each] for each in walked.answer[0]} == {"cloud"}
    assert replay.failures["turn"] == 8
    with pytest.raises(error, match=words):
        raise replay.first_failure["turn"]
