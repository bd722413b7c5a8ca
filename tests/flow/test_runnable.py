"""The rest of LangChain's contract: configuration, schemas, composition, batches, copies, threads."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core._api import LangChainBetaWarning
from langchain_core.load import dumpd, dumps, loads
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda

import dynflow
from dynflow import Flow, ParamError
from dynflow.testing import FakeChat
from tests.flow.recorder import Recorder

TEXT = """
version: 1
name: two_ways
description: short questions here, long ones there
params:
  longer_than: {default: 10, min: 1, max: 99, help: characters of a long question}
  loud: false
nodes:
  short: {type: prompt, role: answer, template: "short {input}"}
  long: {type: prompt, role: answer, template: "long {input}"}
edges:
  - {from: start, to: long, when: params.loud or len(input) > params.longer_than}
  - {from: start, to: short}
  - {from: short, to: end}
  - {from: long, to: end}
"""
SLOW = """
version: 1
nodes: {work: {type: runnable, name: work, role: answer}}
edges: [{from: start, to: work}, {from: work, to: end}]
"""


@pytest.fixture
def flow() -> Flow:
    return dynflow.loads(TEXT)


# Configuration and schemas


def test_params_are_documented_and_typed(flow: Flow) -> None:
    schema = flow.config_schema().model_json_schema()["$defs"]["Configurable"]["properties"]
    assert schema["longer_than"]["default"] == 10
    assert schema["longer_than"]["type"] == "integer"
    assert schema["longer_than"]["description"] == "characters of a long question"
    assert schema["loud"]["type"] == "boolean"
    specs = {spec.id: spec for spec in flow.config_specs}
    assert specs["longer_than"].annotation is int


@pytest.mark.parametrize("value", ["3", 3.5, True, 0, 100, None])
def test_a_wrong_param_is_refused_by_name(flow: Flow, value: Any) -> None:
    with pytest.raises(ParamError, match="longer_than"):
        flow.invoke("x", {"configurable": {"longer_than": value}})


def test_params_through_with_config(flow: Flow) -> None:
    assert flow.with_config(configurable={"longer_than": 1}).invoke("abc").text == "long abc"
    assert flow.invoke("abc").text == "short abc"


def test_schemas(flow: Flow) -> None:
    assert flow.OutputType is AIMessage
    assert "anyOf" in flow.get_input_jsonschema()
    assert flow.get_output_jsonschema()
    assert flow.get_name() == "two_ways"
    assert (ChatPromptTemplate.from_messages([("user", "{q}")]) | flow).input_schema.model_json_schema()[
        "required"
    ] == ["q"]


def test_options_are_refused(flow: Flow) -> None:
    with pytest.raises(TypeError, match="temperature"):
        flow.bind(temperature=0).invoke("x")
    for call in (flow.invoke, flow.batch, lambda value, **given: list(flow.stream(value, **given))):
        with pytest.raises(TypeError, match="stop"):
            call("x", stop=["."])


# Drawings


def test_the_drawing_has_conditions(flow: Flow) -> None:
    graph = flow.get_graph()
    edges = {(edge.source, edge.target): (edge.data, edge.conditional) for edge in graph.edges}
    assert edges["__start__", "long"] == ("params.loud or len(input) > params.longer_than", True)
    assert edges["__start__", "short"] == (None, True)
    assert edges["long", "__end__"] == (None, False)
    assert "longer_than" in graph.draw_mermaid()


def test_the_drawing_fits_into_a_sequence(flow: Flow) -> None:
    for sequence in (
        ChatPromptTemplate.from_messages([("user", "{q}")]) | flow,
        ChatPromptTemplate.from_messages([("user", "{q}")]) | flow | StrOutputParser(),
    ):
        graph = sequence.get_graph()
        mermaid = graph.draw_mermaid()
        assert "longer_than" in mermaid
        assert graph.first_node() is not None
        assert graph.last_node() is not None
        names = {node.name for node in graph.nodes.values()}
        assert {"short", "long"} <= names


def test_ascii_drawings(flow: Flow) -> None:
    pytest.importorskip("grandalf")
    assert "long" in flow.get_graph().draw_ascii()
    assert "long" in (ChatPromptTemplate.from_messages([("user", "{q}")]) | flow).get_graph().draw_ascii()


# Composition


def test_with_fallbacks_and_retry() -> None:
    failing = dynflow.loads(SLOW, runnables={"work": lambda _: 1 / 0})
    assert failing.with_fallbacks([RunnableLambda(lambda _: "fallback")]).invoke("x") == "fallback"
    tries: list[str] = []

    def second_time(value: str) -> str:
        tries.append(value)
        if len(tries) < 2:
            raise ConnectionError("gone")
        return "there"

    retried = dynflow.loads(SLOW, runnables={"work": second_time}).with_retry(
        retry_if_exception_type=(ConnectionError,), wait_exponential_jitter=False, stop_after_attempt=3
    )
    assert retried.invoke("x") == "there"
    assert len(tries) == 2


def test_a_flow_is_a_runnable_of_another_flow(flow: Flow) -> None:
    outer = dynflow.loads(SLOW, runnables={"work": flow})
    answer = outer.invoke("x")
    assert answer.text == "short x"
    assert answer.response_metadata["dynflow"]["path"] == ["start", "work", "end"]


def test_a_flow_of_the_host_inside_a_sub_graph_is_on_its_own(flow: Flow, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(SLOW)
    text = "version: 1\nnodes: {inner: {type: graph, uses: inner.yaml}}\n"
    text += "edges: [{from: start, to: inner}, {from: inner, to: end}]\n"
    result = dynflow.loads(text, base=tmp_path, runnables={"work": flow}).run("x")
    assert result.trace.inner["inner"].path == ["start", "work", "end"]
    assert [entry.node for entry in result.ledger.entries] == ["inner/work"]


# Batches


class InFlight:
    """Counts how many of its calls run at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __call__(self, value: str) -> str:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self._lock:
            self.now -= 1
        return value.upper()


def counting() -> tuple[Flow, InFlight]:
    work = InFlight()
    return dynflow.loads(SLOW, runnables={"work": RunnableLambda(work)}), work


@pytest.mark.parametrize("limit", [1, 3])
async def test_max_concurrency_holds(limit: int) -> None:
    values = list("abcdefgh")
    for style in ("batch", "abatch", "as_completed"):
        flow, work = counting()
        if style == "batch":
            assert flow.batch(values, {"max_concurrency": limit}) == list("ABCDEFGH")
        elif style == "abatch":
            assert await flow.abatch(values, {"max_concurrency": limit}) == list("ABCDEFGH")
        else:
            found = dict(flow.batch_as_completed(values, {"max_concurrency": limit}))
            assert [found[index] for index in range(8)] == list("ABCDEFGH")
        assert work.most == limit, style


async def test_batches_keep_errors_apart() -> None:
    def work(value: str) -> str:
        if value == "bad":
            raise ConnectionError("gone")
        return value

    flow = dynflow.loads(SLOW, runnables={"work": work})
    for answers in (
        flow.batch(["a", "bad", ""], return_exceptions=True),
        await flow.abatch(["a", "bad", ""], return_exceptions=True),
    ):
        assert answers[0] == "a"
        assert isinstance(answers[1], ConnectionError)
        assert isinstance(answers[2], dynflow.InputError)
    with pytest.raises(ConnectionError):
        flow.batch(["a", "bad"])
    with pytest.raises(ConnectionError):
        await flow.abatch(["a", "bad"])
    assert flow.batch([]) == []
    assert await flow.abatch([]) == []


async def test_abatch_as_completed() -> None:
    flow, _ = counting()
    found = {index: answer async for index, answer in flow.abatch_as_completed(["a", "b"])}
    assert found == {0: "A", 1: "B"}


def test_a_queue_does_not_eat_the_deadline() -> None:
    """Requests under way go first, so that one's second node does not wait for all others' first."""
    order: list[str] = []
    text = """
version: 1
nodes:
  first: {type: runnable, name: first, role: signal}
  second: {type: runnable, name: second, role: answer}
edges:
  - {from: start, to: first}
  - {from: first, to: second, when: first.failed}
  - {from: first, to: second}
  - {from: second, to: end}
"""

    def note(name: str) -> Any:
        return lambda value: order.append(f"{name} {value}")

    flow = dynflow.loads(text, runnables={"first": note("first"), "second": note("second")})
    flow.batch(["a", "b", "c"], {"max_concurrency": 1})
    assert order == ["first a", "second a", "first b", "second b", "first c", "second c"]


# Copies


def answer_in_another_process(flow: Flow, value: str) -> str:
    return str(flow.invoke(value).text)


def test_a_flow_survives_pickling_into_another_process(flow: Flow) -> None:
    flow.invoke("used before")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(answer_in_another_process, (flow, "abc")) == "short abc"


def test_a_flow_with_parts_of_the_host_is_pickled_with_them(tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(
        "version: 1\nmodels: {m: {provider: host}}\nnodes: {a: {type: chat, model: m}}\n"
        "edges: [{from: start, to: a}, {from: a, to: end}]\n"
    )
    flow = dynflow.load(tmp_path / "graph.yaml", models={"m": FakeChat(replies=["kept"])})
    again = pickle.loads(pickle.dumps(flow))
    assert again.invoke("x").text == "kept"
    assert again.path == flow.path


def test_copies(flow: Flow) -> None:
    flow.invoke("used before")
    for copied in (copy.copy(flow), copy.deepcopy(flow), flow.model_copy()):
        assert copied.invoke("abc").text == "short abc"
    assert copy.deepcopy({"flow": flow})["flow"].graph == flow.graph


def test_langchain_serialization(flow: Flow) -> None:
    assert dumpd(flow)["id"] == ["dynflow", "flow", "Flow"]
    text = dumps(flow)
    with warnings.catch_warnings():  # LangChain warns once in a process
        warnings.simplefilter("ignore", LangChainBetaWarning)
        again = loads(text, valid_namespaces=["dynflow"], allowed_objects=[Flow])
    assert isinstance(again, Flow)
    assert again.invoke("abc").text == "short abc"


def test_repr_shows_no_engine(flow: Flow) -> None:
    assert "Engine" not in repr(flow)


# Threads


def test_fifty_threads_share_one_flow() -> None:
    text = """
version: 1
models: {m: {provider: host}}
nodes:
  first: {type: runnable, name: first, role: signal, ports: {n: integer}}
  even: {type: chat, model: m}
  odd: {type: runnable, name: odd, role: answer}
edges:
  - {from: start, to: first}
  - {from: first, to: odd, when: first.failed or first.n == 1}
  - {from: first, to: even}
  - {from: even, to: end}
  - {from: odd, to: end}
"""
    flow = dynflow.loads(
        text,
        runnables={"first": lambda value: {"n": int(value) % 2}, "odd": lambda value: f"odd {value}"},
        models={"m": FakeChat(replies=lambda messages: f"even {messages[-1].text}")},
    )
    barrier = threading.Barrier(50)

    def ask(number: int) -> list[str]:
        barrier.wait(10)
        recorder = Recorder()
        answers = [flow.invoke(str(number), {"callbacks": [recorder]}), *flow.batch([str(number)] * 2)]
        assert recorder.unfinished == []
        return [getattr(answer, "text", answer) for answer in answers]

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(ask, range(50)))
    assert found == [[f"{'odd' if number % 2 else 'even'} {number}"] * 3 for number in range(50)]


# Nodes with a batch of their own


BATCHING = """
version: 1
nodes:
  slow: {type: runnable, name: slow, role: signal}
  measure: {type: lengths}
  short: {type: prompt, role: answer, template: short}
  long: {type: prompt, role: answer, template: long}
edges:
  - {from: start, to: slow, when: "'slow' in input"}
  - {from: start, to: measure}
  - {from: slow, to: measure, when: slow.failed}
  - {from: slow, to: measure}
  - {from: measure, to: long, when: measure.failed or measure.length > 6}
  - {from: measure, to: short}
  - {from: short, to: end}
  - {from: long, to: end}
"""


async def test_requests_that_stand_together_go_together(batching: Any) -> None:
    flow = dynflow.loads(BATCHING, runnables={"slow": lambda _: time.sleep(0.05)})
    values = ["a", "slow b", "a long one", "slow and long"]
    for answers in (flow.batch(values), await flow.abatch(values)):
        assert [answer.text for answer in answers] == ["short", "short", "long", "long"]
    assert [sorted(batch) for batch in batching.batches_seen] == [sorted(values)] * 2
    recorders = [Recorder() for _ in values]
    flow.batch(values, [{"callbacks": [recorder]} for recorder in recorders])
    assert all(recorder.unfinished == [] for recorder in recorders)


async def test_a_batch_that_fails_fails_each_request_by_itself(batching: Any) -> None:
    flow = dynflow.loads(BATCHING, runnables={"slow": lambda _: None})
    for fails in ("run", "warm_up", "count", "one"):
        batching.fails = fails
        flow.close()
        for answers in (flow.batch(["a", "bb"]), await flow.abatch(["a", "bb"])):
            expected = ["long", "short"] if fails == "one" else ["long", "long"]
            assert [answer.text for answer in answers] == expected, fails
            assert answers[0].response_metadata["dynflow"]["degraded"]


def test_a_single_request_runs_alone(batching: Any) -> None:
    flow = dynflow.loads(BATCHING, runnables={"slow": lambda _: None})
    assert flow.invoke("a").text == "short"
    assert batching.batches_seen == []
