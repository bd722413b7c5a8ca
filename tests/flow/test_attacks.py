"""What a stranger broke, each with the behaviour that was promised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import ModelConnectionError
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from dynflow import DeadlineExceeded, GraphError, InputError, MissingModel, NoEligibleAnswer, load, loads
from dynflow.prompt_size import PromptSize
from dynflow.testing import FakeChat

ONE_RUNNABLE = """
version: 1
nodes:
  f: {type: runnable, name: f, role: answer}
edges:
  - {from: start, to: f}
  - {from: f, to: end}
"""
ONE_CHAT = """
version: 1
models:
  m: {provider: host, price: {input: 1, output: 1}}
nodes:
  a: {type: chat, model: m}
  sorry: {type: prompt, role: answer, template: sorry}
edges:
  - {from: start, to: a}
  - {from: a, to: sorry, when: a.failed}
  - {from: a, to: end}
  - {from: sorry, to: end}
limits: {usd_per_day: 5}
"""
PROMPT = PromptSize([HumanMessage("q")]).most
"""Tokens that are reserved for the prompt `q`."""


def test_a_streamed_whole_message_stays_a_message() -> None:
    chain = loads(ONE_RUNNABLE, runnables={"f": lambda _: AIMessage("hello")}) | RunnableLambda(lambda m: m.content)
    assert "".join(chain.stream("q")) == "hello"


async def test_an_async_streamed_whole_message_stays_a_message() -> None:
    chain = loads(ONE_RUNNABLE, runnables={"f": lambda _: AIMessage("hello")}) | RunnableLambda(lambda m: m.content)
    assert "".join([chunk async for chunk in chain.astream("q")]) == "hello"


@pytest.mark.parametrize("error", [ConnectionRefusedError("nobody there")])
def test_what_never_reached_a_server_costs_nothing(error: Exception) -> None:
    result = loads(ONE_CHAT, models={"m": FakeChat(replies=["x"], fail_with=error)}).run("q")
    assert result.trace.answer == "sorry"
    assert result.ledger.usd == 0


def test_an_error_that_says_it_was_not_billed_costs_nothing() -> None:
    error = ModelConnectionError("no route")
    error.billed = False  # type: ignore[attr-defined]
    assert loads(ONE_CHAT, models={"m": FakeChat(replies=["x"], fail_with=error)}).run("q").ledger.usd == 0


def test_an_outcome_in_doubt_is_billed_in_full() -> None:
    text = ONE_CHAT.replace("{provider: host,", "{provider: host, max_tokens: 1000,")
    result = loads(text, models={"m": FakeChat(replies=["x"], fail_with=ModelConnectionError("cut off"))}).run("q")
    assert result.ledger.usd == pytest.approx((PROMPT + 1000) / 1e6)


def test_flows_of_one_file_share_the_days_allowance(tmp_path: Path) -> None:
    file = tmp_path / "day.yaml"
    limit = f"usd_per_day: {(PROMPT + 2) / 1e6:f}"
    text = ONE_CHAT.replace("usd_per_day: 5", limit).replace("host,", "host, max_tokens: 1,")
    file.write_text(text)
    answers = [load(file, models={"m": FakeChat(replies=["x"])}).run("q").trace.answer for _ in range(3)]
    assert answers == ["a", "sorry", "sorry"]


def test_a_refusal_names_what_the_call_could_cost() -> None:
    text = ONE_CHAT.replace("usd_per_day: 5", "usd_per_request: 0.0000005")
    result = loads(text, models={"m": FakeChat(replies=["x"])}).run("q")
    message = next(visit.message for visit in result.trace.visits if visit.error == "budget")
    assert message is not None
    assert f"could cost ${(PROMPT + 1) / 1e6:.8f}" in message
    assert "limits leave $0.00000050" in message


@pytest.mark.parametrize(
    ("reply", "labels", "label"),
    [
        ("yes", "[yes_, no_]", None),
        ("I do not know", "[good, bad]", None),
        ("unknown", "[know, no_]", None),
        ("This is not safe", "[safe, unsafe]", None),
        ("It is safe, not unsafe", "[safe, unsafe]", None),
        ("Label: unsafe.", "[safe, unsafe]", "unsafe"),
        ("very good", "[good, very good]", "very good"),
        ("**Good**", "[good, bad]", "good"),
        ("not safe", "[safe, not safe]", "not safe"),
    ],
)
def test_labels_are_whole_words(reply: str, labels: str, label: str | None) -> None:
    text = ONE_CHAT.replace("{type: chat, model: m}", f"{{type: chat, model: m, labels: {labels}}}")
    result = loads(text, models={"m": FakeChat(replies=[reply])}).run("q")
    assert (result.ports.get("label") if result.trace.answer == "a" else None) == label


AUDIO = """
version: 1
inputs: {clip: audio, lang: {type: string, default: en}}
nodes:
  heard: {type: prompt, role: answer, template: heard}
  silent: {type: prompt, role: answer, template: silent}
edges:
  - {from: start, to: heard, when: input.has_audio}
  - {from: start, to: silent}
  - {from: heard, to: end}
  - {from: silent, to: end}
"""


def test_a_declared_key_of_type_audio_is_audio() -> None:
    assert loads(AUDIO).invoke({"input": "q", "clip": b"RIFF"}).text == "heard"


@pytest.mark.parametrize("clip", [None, 3, True])
def test_a_number_is_no_audio(clip: Any) -> None:
    with pytest.raises(InputError, match="audio"):
        loads(AUDIO).invoke({"input": "q", "clip": clip})


@pytest.mark.parametrize("request_", ["", "  ", {"input": ""}, {"lang": "fr"}, {"input": " ", "lang": "fr"}])
def test_a_default_does_not_fill_an_empty_request(request_: Any) -> None:
    with pytest.raises(InputError, match="empty"):
        loads(AUDIO.replace("clip: audio, ", "")).invoke(request_)


CHECKED = """
version: 1
nodes:
  f: {type: runnable, name: f, role: answer, ports: {score: number}}
  sorry: {type: prompt, role: answer, template: sorry}
edges:
  - {from: start, to: f}
  - {from: f, to: sorry, when: f.failed}
  - {from: f, to: end}
  - {from: sorry, to: end}
"""


def test_a_runnable_with_ports_is_checked_before_anything_goes_out() -> None:
    flow = loads(CHECKED, runnables={"f": lambda _: {"score": "high"}})
    assert [chunk.text for chunk in flow.stream("q")] == ["sorry"]


DEADLINE = """
version: 1
nodes:
  x: {type: runnable, name: slow, role: answer}
  y: {type: runnable, name: slow, role: answer}
edges:
  - {from: start, to: x}
  - {from: x, to: y, when: x.failed}
  - {from: x, to: end}
  - {from: y, to: end}
limits: {timeout: 100ms}
"""


def test_a_host_function_does_not_outlive_the_deadline() -> None:
    began = time.perf_counter()
    with pytest.raises(DeadlineExceeded):
        loads(DEADLINE, runnables={"slow": lambda _: time.sleep(1.5)}).invoke("q")
    assert time.perf_counter() - began < 1.4


async def test_a_node_that_loads_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynflow.nodes.prompt import Prompt

    def warm_up(self: Prompt) -> None:
        if self.id == "heard":
            time.sleep(0.6)

    monkeypatch.setattr(Prompt, "warm_up", warm_up)
    flow = loads(AUDIO.replace("clip: audio, ", "clip: {type: string, default: none}, "))
    await flow.ainvoke("quick")
    message = [{"role": "user", "content": [{"type": "audio", "url": "x"}]}]
    loading = asyncio.create_task(flow.ainvoke({"messages": message}))
    await asyncio.sleep(0.05)
    began = time.perf_counter()
    await flow.ainvoke("quick")
    assert time.perf_counter() - began < 0.4
    assert (await loading).text == "heard"


INNER = """
version: 1
models: {h: {provider: host}}
nodes: {c: {type: chat, model: h}}
edges:
  - {from: start, to: c}
  - {from: c, to: end}
"""
OUTER = """
version: 1
nodes: {s: {type: graph, uses: inner.yaml}}
edges:
  - {from: start, to: s}
  - {from: s, to: end}
"""


def test_host_models_reach_a_sub_graph_by_its_nodes_name(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(INNER)
    (tmp_path / "outer.yaml").write_text(OUTER)
    assert load(tmp_path / "outer.yaml", models={"s/h": FakeChat(replies=["inner"])}).invoke("q").text == "inner"
    with pytest.raises(MissingModel, match="'h'"):
        load(tmp_path / "outer.yaml").invoke("q")


def test_a_misspelt_host_model_is_refused() -> None:
    with pytest.raises(GraphError, match="did you mean 'm'"):
        loads(ONE_CHAT, models={"mm": FakeChat(replies=["x"])})


def test_no_eligible_answer_gives_both_numbers() -> None:
    text = ONE_CHAT.replace("{provider: host,", "{provider: host, capabilities: {context: 10},")
    text = text.replace("  - {from: a, to: sorry, when: a.failed}\n", "").replace("  - {from: sorry, to: end}\n", "")
    text = text.replace("  sorry: {type: prompt, role: answer, template: sorry}\n", "")
    with pytest.raises(NoEligibleAnswer, match=r"takes 10 tokens, the request has about 250\b"):
        loads(text, models={"m": FakeChat(replies=["x"])}).invoke("word " * 200)


@pytest.mark.parametrize("slots", [0, -1])
async def test_max_concurrency_is_at_least_one(slots: int) -> None:
    flow = loads(ONE_RUNNABLE, runnables={"f": lambda x: x})
    with pytest.raises(InputError, match="max_concurrency"):
        flow.batch(["a", "b"], {"max_concurrency": slots})
    with pytest.raises(InputError, match="max_concurrency"):
        await flow.abatch(["a", "b"], {"max_concurrency": slots})


def test_batch_in_langgraph_leaks_no_rejected_token() -> None:
    from langgraph.graph import END, START, MessagesState, StateGraph

    flow = loads(
        ONE_CHAT.replace("limits: {usd_per_day: 5}", ""),
        models={"m": FakeChat(replies=["one two three"], fail_with=ConnectionError("cut"), fail_after=2)},
    )

    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": flow.batch([state["messages"]], return_exceptions=False)}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").add_edge("node", END).compile()
    seen: list[str] = []

    def consume() -> Iterator[Any]:
        for message, _ in graph.stream({"messages": [("user", "q")]}, stream_mode="messages"):
            seen.append(message.text)
            yield message

    with pytest.raises(Exception, match="broke off"):
        list(consume())
    assert "sorry" not in seen


def test_an_unlabelled_router_is_warned_of() -> None:
    text = """
version: 1
params: {lo: 0.2, hi: 0.8}
nodes:
  j: {type: runnable, name: f, ports: {text: string, score: number}, on_failure: {text: a, score: 0}}
  by_label:
    type: router
    routes: [a]
    label: ${j.text}
    labels: {a: a}
  by_score:
    type: router
    routes: [a, a2, a3]
    score: ${j.score}
    bands:
      - ${params.lo}
      - ${params.hi}
  a: {type: prompt, role: answer, template: a}
  a2: {type: prompt, role: answer, template: a}
  a3: {type: prompt, role: answer, template: a}
edges:
  - {from: start, to: j}
  - {from: j, to: by_label}
  - {from: by_label, to: by_score}
  - {from: by_score, to: a2, when: by_score.choice == 'a2'}
  - {from: by_score, to: a3, when: by_score.choice == 'a3'}
  - {from: by_score, to: a}
  - {from: a, to: end}
  - {from: a2, to: end}
  - {from: a3, to: end}
"""
    flow = loads(text, runnables={"f": lambda _: {"text": "a", "score": 0.5}})
    warned = {problem.text.split("'")[1] for problem in flow.warnings if problem.code == "unhandled_failure"}
    assert warned == {"by_label", "by_score"}


def test_a_key_in_the_file_stands_in_no_excerpt_and_no_repr() -> None:
    text = ONE_CHAT.replace("{provider: host,", "{provider: litellm, model: x, api_key: sk-canary,")
    flow = loads(text)
    assert {problem.code for problem in flow.warnings} == {"literal_secret"}
    shown = [repr(flow), str(flow.get_graph()), *(problem.render() for problem in flow.warnings)]
    with pytest.raises(GraphError) as refused:
        loads(text.replace("api_key:", "api_keyy:"))
    assert not [one for one in [*shown, str(refused.value)] if "canary" in one]


PAID_INNER = """
version: 1
models:
  m: {provider: host, max_tokens: 1000, price: {input: 1, output: 1}}
nodes:
  slow: {type: runnable, name: slow, role: answer}
  cloud: {type: chat, model: m}
edges:
  - {from: start, to: slow}
  - {from: slow, to: cloud, when: slow.failed}
  - {from: slow, to: end}
  - {from: cloud, to: end}
"""
PAID_OUTER = """
version: 1
nodes:
  s: {type: graph, uses: inner.yaml, timeout: 50ms}
  sorry: {type: prompt, role: answer, template: sorry}
edges:
  - {from: start, to: s}
  - {from: s, to: sorry, when: s.failed}
  - {from: s, to: end}
  - {from: sorry, to: end}
"""


def test_an_abandoned_sub_graph_buys_nothing_more(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(PAID_INNER)
    (tmp_path / "outer.yaml").write_text(PAID_OUTER)
    model = FakeChat(replies=["paid"])

    def slow(_: Any) -> Any:
        time.sleep(0.3)
        raise RuntimeError("late")

    flow = load(tmp_path / "outer.yaml", models={"s/m": model}, runnables={"slow": slow})
    assert flow.invoke("q").text == "sorry"
    time.sleep(0.6)
    assert model.calls == []


def test_a_timed_out_priced_call_is_not_recorded_as_free() -> None:
    text = ONE_CHAT.replace("limits: {usd_per_day: 5}", "").replace(
        "{type: chat, model: m}", "{type: chat, model: m, timeout: 50ms}"
    )
    result = loads(text, models={"m": FakeChat(replies=["x"], delay=0.3)}).run("word " * 100)
    entry = next(entry for entry in result.ledger.entries if entry.node == "a")
    assert entry.usage is not None
    assert entry.usage.estimated
    assert entry.usd == pytest.approx(125e-6)


def test_a_price_per_second_counts_against_the_day() -> None:
    text = ONE_CHAT.replace("price: {input: 1, output: 1}", "price: {second: 1}").replace(
        "usd_per_day: 5", "usd_per_day: 0.05"
    )
    flow = loads(text, models={"m": FakeChat(replies=["x"], delay=0.06)})
    assert [flow.run("q").trace.answer for _ in range(2)] == ["a", "sorry"]


def test_closing_a_stream_gives_its_reservation_back_to_nobody_twice() -> None:
    text = ONE_CHAT.replace("{provider: host,", "{provider: host, max_tokens: 1000,")
    flow = loads(text, models={"m": FakeChat(replies=["one two three"])})
    stream = flow.stream("q")
    next(stream)
    stream.close()
    left = 5 - flow._engine.day.left
    assert left == pytest.approx(2e-6)  # the prompt and the word that had come, once


def test_an_array_streams_as_it_is_invoked() -> None:
    class Array:
        def __bool__(self) -> bool:
            raise ValueError("ambiguous")

    value = Array()
    assert list(loads(ONE_RUNNABLE, runnables={"f": lambda _: value}).stream("q")) == [value]


def test_a_sub_graph_is_read_once_when_it_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text(INNER)
    (tmp_path / "outer.yaml").write_text(OUTER)
    flow = load(tmp_path / "outer.yaml", models={"s/h": FakeChat(replies=["inner"])})
    (tmp_path / "inner.yaml").unlink()
    assert flow.invoke("q").text == "inner"
