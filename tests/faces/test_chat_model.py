"""A flow as chat model: options, tools, structured output, streams, and every token counted once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import UsageMetadataCallbackHandler, get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.load import loads as load_again
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.rate_limiters import InMemoryRateLimiter
from pydantic import BaseModel

from dynflow import Flow, GraphError, InputError, NodeFailed, NoEligibleAnswer, loads
from dynflow.chat_model import FlowChatModel
from dynflow.testing import FakeChat

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
CASCADE = """
version: 1
name: cascade
models:
  small: {provider: host, capabilities: {tools: %s}}
  large: {provider: host, price: {input: 1, output: 1}}
nodes:
  rewrite: {type: chat, model: small, role: signal, system: Rewrite.}
  draft: {type: chat, model: small, max_tokens: 20, temperature: 0.5, stop: [END]}
  cloud: {type: chat, model: large, system: Be brief.}
edges:
  - {from: start, to: rewrite}
  - {from: rewrite, to: draft, when: input.tokens < 8}
  - {from: rewrite, to: cloud}
  - {from: draft, to: cloud, when: 'draft.text == "no"'}
  - {from: draft, to: end}
  - {from: cloud, to: end}
"""


def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


class Calls(FakeChat):
    """Answers the first turn with a tool call, and the one after a tool's result with text."""

    def _stream(self, messages: list[Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        calling = bool(kwargs.get("tools")) and not isinstance(messages[-1], ToolMessage)
        for index, chunk in enumerate(super()._stream(messages, *args, **kwargs)):
            if calling and chunk.message.content:
                call = tool_call_chunk(name="weather", args='{"city": "Rome"}', id="c1", index=0)
                chunk.message = AIMessageChunk(content="", tool_call_chunks=[call] if index == 0 else [])
            yield chunk

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        for chunk in self._stream(*args, **kwargs):
            yield chunk


def cascade(tools: str = "true", **models: FakeChat) -> tuple[Flow, FakeChat, FakeChat]:
    small = models.get("small", FakeChat(replies=["a draft"]))
    large = models.get("large", FakeChat(replies=["the answer"]))
    return loads(CASCADE % tools, models={"small": small, "large": large}), small, large


def test_options_reach_answers_and_never_signals() -> None:
    flow, small, _ = cascade()
    flow.as_chat_model().invoke("hi", stop=["STOP"], max_tokens=5, temperature=0.9, seed=7)
    rewrite, draft = small.calls
    assert rewrite.options == {}
    assert draft.options == {"max_tokens": 5, "temperature": 0.5, "seed": 7, "stop": ["END", "STOP"]}


def test_unset_options_are_no_options() -> None:
    flow, small, _ = cascade()
    flow.as_chat_model().bind_tools([]).invoke("hi", stop=[], max_tokens=None)
    assert small.calls[-1].options == {"max_tokens": 20, "temperature": 0.5, "stop": ["END"]}


def test_a_flow_as_the_model_of_another() -> None:
    inner, small, large = cascade(small=FakeChat(replies=["no"]))
    outer = loads(CASCADE % "true", models={"small": inner.as_chat_model(), "large": FakeChat()})
    handler = UsageMetadataCallbackHandler()
    answer = outer.as_chat_model().bind(max_tokens=1).invoke("hi", {"callbacks": [handler]})
    assert answer.text == "the"
    assert [call.options.get("max_tokens") for call in large.calls] == [None, 1]  # to rewrite, and to answer
    written = [(call.messages, call.chunks) for call in (*small.calls, *large.calls)]
    words = sum(len(str(message.text).split()) for messages, _ in written for message in messages)
    assert handler.usage_metadata["fake"]["total_tokens"] == words + sum(chunks for _, chunks in written)


@pytest.mark.parametrize(("asked", "given"), [(5, 5), (200, 20)])
def test_a_caller_can_only_shorten_an_answer(asked: int, given: int) -> None:
    flow, small, _ = cascade()
    flow.as_chat_model().bind(max_tokens=asked).invoke("hi")
    assert small.calls[-1].options["max_tokens"] == given


def test_an_unknown_option_is_named() -> None:
    model = cascade()[0].as_chat_model()
    for call in (lambda: model.invoke("hi", top_k=3), lambda: model.bind_tools([weather], top_k=3)):
        with pytest.raises(TypeError, match=r"no option top_k; it takes .*max_tokens"):
            call()


async def test_tools_are_offered_to_all_answers_that_can_call_them() -> None:
    flow, small, large = cascade(small=Calls(), large=Calls())
    model = flow.as_chat_model().bind_tools([weather], tool_choice="any")
    for asked in (model.invoke("hi"), await model.ainvoke("hi")):
        assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Rome"})]
    for chunks in (list(model.stream("hi")), [chunk async for chunk in model.astream("hi")]):
        total = sum(chunks[1:], chunks[0])
        assert [(call["name"], call["args"]) for call in total.tool_calls] == [("weather", {"city": "Rome"})]
    rewrite, draft = small.calls[:2]
    assert "tools" not in rewrite.options
    assert draft.options["tools"][0]["function"]["name"] == "weather"
    assert draft.options["tool_choice"] == "any"
    done = model.invoke([HumanMessage("weather in Rome?"), asked, ToolMessage("sunny", tool_call_id="c1")])
    assert done.text == "ok"
    assert [message.type for message in small.calls[-1].messages] == ["human", "ai", "tool"]
    assert not large.calls


def test_tools_close_the_edges_to_answers_without() -> None:
    flow, small, large = cascade("false", large=Calls())
    model = flow.as_chat_model()
    assert model.invoke("hi").text == "a draft"
    assert model.bind_tools([weather]).invoke("hi").tool_calls
    assert [call.options.get("tools") for call in small.calls] == [None, None, None]  # rewrite, draft; then rewrite
    assert len(large.calls) == 1


def test_a_default_edge_that_tools_would_close_is_told_at_once() -> None:
    text = (CASCADE % "false").replace("to: draft, when: input.tokens < 8", "to: cloud, when: input.tokens > 8")
    text = text.replace("{from: rewrite, to: cloud}", "{from: rewrite, to: draft}")
    flow = loads(text, models={"small": FakeChat(), "large": FakeChat()})
    with pytest.raises(NoEligibleAnswer, match=r"from 'rewrite' to 'draft'.*'small' calls no tools.*last"):
        flow.as_chat_model().bind_tools([weather])
    flow.as_chat_model().bind_tools([])


def test_a_subgraph_passes_options_on(tmp_path: Any) -> None:
    (tmp_path / "inner.yaml").write_text(CASCADE % "false")
    outer = """
version: 1
nodes:
  inner: {type: graph, uses: inner.yaml}
edges:
  - {from: start, to: inner}
  - {from: inner, to: end}
"""
    large = Calls()
    flow = loads(outer, base=tmp_path, models={"inner/small": FakeChat(), "inner/large": large})
    model = flow.as_chat_model().bind_tools([weather])
    assert model.invoke("hi").tool_calls
    assert list(model.stream("hi"))[-1].chunk_position == "last"
    assert [call.options["tools"][0]["function"]["name"] for call in large.calls] == ["weather", "weather"]


async def test_every_token_is_counted_once() -> None:
    flow, _, _ = cascade(small=FakeChat(replies=["no"]))
    model = flow.as_chat_model()
    once = {"input_tokens": 6, "output_tokens": 4, "total_tokens": 10}  # words: "hi" thrice, "Rewrite.", "Be brief."

    async def streamed(config: Any) -> None:
        _ = [chunk async for chunk in model.astream("hi", config)]

    async def events(config: Any) -> None:
        _ = [event async for event in await model.astream_events("hi", config, version="v3")]

    calls = [
        lambda config: model.invoke("hi", config),
        lambda config: list(model.stream("hi", config)),
        lambda config: model.batch(["hi"], config),
        lambda config: model.generate([[HumanMessage("hi")]], callbacks=config["callbacks"]),
        lambda config: list(model.stream_events("hi", config, version="v3")),
    ]
    for call in calls:
        handler = UsageMetadataCallbackHandler()
        call({"callbacks": [handler]})
        assert {name: handler.usage_metadata["fake"][name] for name in once} == once
    for acall in (streamed, events, lambda config: model.ainvoke("hi", config), lambda c: model.abatch(["hi"], c)):
        handler = UsageMetadataCallbackHandler()
        await acall({"callbacks": [handler]})
        assert {name: handler.usage_metadata["fake"][name] for name in once} == once
    with get_usage_metadata_callback() as counted:
        answer = model.invoke("hi")
    assert counted.usage_metadata["fake"]["total_tokens"] == 10
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 5  # the answer's own
    assert answer.response_metadata["dynflow"]["ledger"]["tokens"]["output"] == 4


def test_a_live_answer_streams_and_ends_with_its_record() -> None:
    flow, _, _ = cascade(large=FakeChat(replies=["one two three"]))
    chunks = list(flow.as_chat_model().stream("a question that is long enough for the cloud to answer"))
    assert [chunk.text for chunk in chunks if chunk.text] == ["one", " two", " three"]
    assert chunks[-1].response_metadata["dynflow"]["answer"] == "cloud"
    assert chunks[-1].chunk_position == "last"
    assert len({chunk.id for chunk in chunks}) == 1


def test_no_token_of_a_rejected_draft_goes_out() -> None:
    flow, _, _ = cascade(small=FakeChat(replies=["no"]))
    assert "".join(chunk.text for chunk in flow.as_chat_model().stream("hi")) == "the answer"


@pytest.mark.parametrize("off", [True, "tool_calling"])
def test_streaming_can_be_disabled(off: Any) -> None:
    flow, _, _ = cascade(large=Calls(replies=["one two"]))
    model = flow.as_chat_model()
    model.disable_streaming = off
    assert len(list(model.bind_tools([weather]).stream("a question that is long enough for the cloud"))) == 1


def test_a_caller_s_system_message_joins_the_node_s() -> None:
    flow, _, large = cascade(small=FakeChat(replies=["no"]))
    flow.as_chat_model().invoke([SystemMessage("Speak French."), HumanMessage("hi")])
    assert [message.text for message in large.calls[0].messages] == ["Be brief.\n\nSpeak French.", "hi"]


class Leg(BaseModel):
    """How many legs."""

    legs: int


@pytest.mark.parametrize("include_raw", [False, True])
def test_structured_output(include_raw: bool) -> None:
    flow, small, _ = cascade(small=FakeChat(replies=['{"legs": 8}']))
    model = flow.as_chat_model().with_structured_output(Leg, include_raw=include_raw)
    answer = model.invoke("hi")
    assert (answer["parsed"] if include_raw else answer) == Leg(legs=8)
    assert '"legs"' in small.calls[-1].messages[0].text  # a model of the host is told in words
    assert isinstance(small.calls[-1].messages[0], SystemMessage)


def test_structured_output_tells_what_does_not_fit() -> None:
    flow, _, _ = cascade(small=FakeChat(replies=["eight"]))
    raw = flow.as_chat_model().with_structured_output(Leg, include_raw=True).invoke("hi")
    assert raw["parsed"] is None
    assert "eight" in str(raw["parsing_error"])


@pytest.mark.parametrize(
    ("nodes", "error", "text"),
    [
        ("{type: chat, model: m, labels: [a, b]}", GraphError, "'only' gives Classification"),
        ("{type: chat, model: m, output: {type: object}}", GraphError, "'only' gives dict"),
    ],
)
def test_answers_that_are_no_messages(nodes: str, error: type[Exception], text: str) -> None:
    graph = f"""
version: 1
models: {{m: {{provider: host}}}}
nodes:
  only: {nodes}
edges:
  - {{from: start, to: only}}
  - {{from: only, to: end}}
"""
    with pytest.raises(error, match=text):
        loads(graph, models={"m": FakeChat()}).as_chat_model()


HOST = """
version: 1
inputs: {lang: {type: string%s}}
nodes:
  own: {type: runnable, name: own, role: answer}
edges:
  - {from: start, to: own}
  - {from: own, to: end}
"""


def test_an_input_that_a_chat_cannot_give() -> None:
    with pytest.raises(GraphError, match="'lang'"):
        loads(HOST % "", runnables={"own": lambda _: "ok"}).as_chat_model()


def test_text_of_the_host_becomes_a_message_and_nothing_else_does() -> None:
    told = loads(HOST % ", default: en", runnables={"own": lambda _: "ok"}).as_chat_model()
    assert told.invoke("hi") == AIMessage("ok")
    assert [chunk.text for chunk in told.stream("hi")] == ["ok"]
    wrong = loads(HOST % ", default: en", runnables={"own": lambda _: 3}).as_chat_model()
    with pytest.raises(NodeFailed, match="int"):
        wrong.invoke("hi")


def test_batch_keeps_order_and_exceptions() -> None:
    flow, _, _ = cascade(small=FakeChat(replies=lambda messages: str(messages[-1].text)))
    answers = flow.as_chat_model().batch(["a", " ", "b"], return_exceptions=True, stop=["x"])
    assert [getattr(answer, "text", None) for answer in answers] == ["a", None, "b"]
    assert isinstance(answers[1], InputError)


def test_the_rate_limiter_holds() -> None:
    class Counting(InMemoryRateLimiter):
        taken = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            Counting.taken += 1
            return True

    flow, _, _ = cascade()
    model = FlowChatModel(flow=flow, rate_limiter=Counting())
    model.invoke("hi")
    list(model.stream("hi"))
    model.batch(["hi", "ho"])
    assert Counting.taken == 4


def test_retries_and_fallbacks_of_langchain() -> None:
    flow, _, _ = cascade(small=FakeChat(fail_with=OSError("down")))
    spare = FakeChat(replies=["spare"])
    assert flow.as_chat_model().with_fallbacks([spare]).invoke("hi").text == "spare"


def test_it_is_pickled_and_dumped_without_secrets() -> None:
    text = """
version: 1
models: {m: {provider: litellm, model: openai/x, api_key: sk-canary-5ecret}}
nodes:
  a: {type: chat, model: m}
edges:
  - {from: start, to: a}
  - {from: a, to: end}
"""
    model = loads(text).as_chat_model()
    assert model._llm_type == "dynflow"
    shown = (repr(model), str(model), dumps(model), str(model._identifying_params), str(model.asdict()))
    assert not [form for form in shown if "sk-canary-5ecret" in form]
    again = load_again(dumps(model), valid_namespaces=["dynflow"], allowed_objects=[FlowChatModel, Flow])
    assert isinstance(again, FlowChatModel)
    assert again.name == model.name
    copy = pickle.loads(pickle.dumps(cascade("true")[0].as_chat_model()))
    assert copy.invoke("hi").text == "a draft"
    assert copy.get_num_tokens("eight characters") > 0


def test_no_cache_of_its_own() -> None:
    with pytest.raises(ValueError, match="cache"):
        FlowChatModel(flow=cascade()[0], cache=True)


def test_generate_from_a_run_that_langchain_made() -> None:
    """What wraps a model calls these directly."""
    flow, _, _ = cascade()
    result: ChatResult = flow.as_chat_model()._generate([HumanMessage("hi")])
    assert isinstance(result.generations[0], ChatGeneration)
    assert result.generations[0].message.usage_metadata is not None
    assert isinstance(flow.as_chat_model(), BaseChatModel)
