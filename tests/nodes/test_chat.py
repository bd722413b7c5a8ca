"""chat: what the model is asked, and what is made of its answer."""

from __future__ import annotations

import math
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from dynflow import Classification, Flow, GraphError, MissingModel, NodeFailed, loads
from dynflow.testing import FakeChat


def flow(model: FakeChat, options: str = "") -> Flow:
    text = f"""
version: 1
models: {{m: {{provider: host, max_tokens: 7}}}}
nodes: {{a: {{type: chat, model: m{options and ", " + options}}}}}
edges: [{{from: start, to: a}}, {{from: a, to: end}}]
"""
    return loads(text, models={"m": model})


def asked(options: str = "", value: Any = "question") -> Any:
    model = FakeChat()
    flow(model, options).invoke(value)
    return model.calls[0]


def test_it_asks_the_conversation() -> None:
    conversation = [SystemMessage("be kind"), HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    assert [message.text for message in asked(value=conversation).messages] == ["be kind", "a", "b", "c"]


def test_its_options_reach_the_model() -> None:
    call = asked("system: be brief, temperature: 0.5, top_p: 0.9, max_tokens: 3, stop: ['.'], seed: 4, logprobs: true")
    assert call.messages[0] == SystemMessage("be brief")
    expected = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 3, "stop": ["."], "seed": 4, "logprobs": True}
    assert call.options == expected


def test_the_nodes_max_tokens_wins_over_the_models() -> None:
    assert asked("max_tokens: 3").options["max_tokens"] == 3
    assert asked().options["max_tokens"] == 7


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("yes", "yes"),
        ("YES.", "yes"),
        ("The answer is `no`.", "no"),
        ("not sure", "not sure"),
        ("I am not sure", "not sure"),
    ],
)
def test_labels(reply: str, label: str) -> None:
    answer = flow(FakeChat(replies=[reply]), "labels: ['yes', 'no', not sure]").invoke("x")
    assert answer == Classification(label=label)
    assert str(answer) == label


@pytest.mark.parametrize("reply", ["", "perhaps", "yes or no"])
def test_no_label_is_a_failure(reply: str) -> None:
    with pytest.raises(NodeFailed, match="none of the labels"):
        flow(FakeChat(replies=[reply]), "labels: ['yes', 'no']").invoke("x")


def test_the_instruction_for_labels_stands_in_the_system_message() -> None:
    model = FakeChat(replies=["yes"])
    flow(model, "labels: ['yes', 'no'], system: judge").invoke("x")
    assert model.calls[0].messages[0].text.startswith("judge\n\nAnswer with exactly one of these labels")


def test_output_is_checked_against_its_schema() -> None:
    options = "output: {type: object, required: [n], properties: {n: {type: integer}}}"
    assert flow(FakeChat(replies=['{"n": 1}']), options).invoke("x") == {"n": 1}
    with pytest.raises(NodeFailed, match="does not fit the schema: 'n' is a required property"):
        flow(FakeChat(replies=["{}"]), options).invoke("x")
    with pytest.raises(NodeFailed, match="is no JSON"):
        flow(FakeChat(replies=["n is 1"]), options).invoke("x")


def test_ports() -> None:
    result = flow(FakeChat(replies=["a b"], logprob=math.log(0.25))).run("one two three")
    assert result.ports["text"] == "a b"
    assert result.ports["tokens"] == 5
    assert result.ports["confidence"] == pytest.approx(0.25)
    uncounted = flow(FakeChat(replies=["abcdefgh"], usage=False)).run("x")
    assert uncounted.ports["confidence"] is None
    assert uncounted.ledger.entries[0].usage is not None
    assert uncounted.ledger.entries[0].usage.estimated


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("labels: [a, b], output: {type: object}", "exclusive_options"),
        ("labels: [a, A]", "named_twice"),
        ("output: {type: nothing}", "bad_schema"),
        ("temprature: 1", "unknown_option"),
        ("temperature: hot", "wrong_type"),
    ],
)
def test_faulty_options(options: str, code: str) -> None:
    with pytest.raises(GraphError) as caught:
        flow(FakeChat(), options)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_model_that_was_not_handed_over_is_named() -> None:
    text = "version: 1\nmodels: {m: {provider: host}}\nnodes: {a: {type: chat, model: m}}\n"
    text += "edges: [{from: start, to: a}, {from: a, to: end}]"
    with pytest.raises(MissingModel, match=r"load\(.*models="):
        loads(text).invoke("x")
    with pytest.raises(ValueError, match="is str, not a LangChain chat model"):
        loads(text, models={"m": "gpt"}).invoke("x")


def test_a_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from jsonschema import validators

    made: list[Any] = []
    real = validators.Draft202012Validator
    asked = flow(FakeChat(replies=['{"n": 1}']), "output: {type: object, properties: {n: {type: integer}}}")
    monkeypatch.setattr(
        validators, "Draft202012Validator", lambda *given, **more: made.append(given) or real(*given, **more)
    )
    for _ in range(3):
        assert asked.invoke("x") == {"n": 1}
    assert len(made) == 1
