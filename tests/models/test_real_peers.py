"""litellm and ollama end to end, each through its real client, against a real model behind a real server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core import exceptions as lc
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage

import dynflow
from dynflow.chunks import add_up
from dynflow.models.base import ProviderChat
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from tests.ollama_peer import OLLAMA_MODEL, ollama_server  # noqa: F401 - a fixture
from tests.servers import SERVER_KEY

pytest.importorskip("litellm")
pytest.importorskip("ollama")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
SPIDER = "How many legs has a spider?"
Make = Callable[..., ProviderChat]


def settings_of(provider: str, server: str, **more: Any) -> ModelSettings:
    return ModelSettings(**{**_entry(provider, server), "temperature": 0.0, "max_tokens": 24, **more})


def _entry(provider: str, server: str) -> dict[str, Any]:
    if provider == "litellm":
        return {"provider": provider, "model": "openai/smollm2", "api_base": server, "api_key": SERVER_KEY}
    return {"provider": provider, "model": OLLAMA_MODEL, "api_base": server}


@pytest.fixture(params=["litellm", "ollama"])
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def server(provider: str, request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue("smollm2_server" if provider == "litellm" else "ollama_server")
    return found


@pytest.fixture
def make(provider: str, server: str) -> Make:
    return lambda **more: create(settings_of(provider, server, **more), "large")


async def test_all_call_styles_agree(make: Make, provider: str) -> None:
    model = make()
    whole = model.invoke(SPIDER)
    assert "8" in whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] > 5
    assert whole.response_metadata["finish_reason"] == "stop"
    assert whole.response_metadata["model_provider"] == provider
    assert (await model.ainvoke(SPIDER)).text == whole.text
    for chunks in (list(model.stream(SPIDER)), [chunk async for chunk in model.astream(SPIDER)]):
        total = add_up(chunks)
        assert isinstance(total, AIMessageChunk)
        assert len(chunks) > 5
        assert total.text == whole.text
        assert total.usage_metadata is not None
        assert total.response_metadata["finish_reason"] == "stop"
    assert [answer.text for answer in model.batch([SPIDER, SPIDER])] == [whole.text] * 2
    model.close()


def test_options_reach_the_model(make: Make) -> None:
    whole = make(max_tokens=48).invoke(SPIDER).text
    assert len(make(max_tokens=3).invoke(SPIDER).text) < len(whole)
    assert "legs" not in make(stop=["legs"]).invoke(SPIDER).text
    told = make().invoke([SystemMessage("Answer in capital letters."), HumanMessage(SPIDER)])
    assert told.text != whole


def test_a_seed_repeats_an_answer(smollm2_server: str) -> None:
    """The proxy before Ollama's protocol drops the seed."""
    model = create(settings_of("litellm", smollm2_server, temperature=1.0), "large")
    assert model.invoke(SPIDER, seed=7).text == model.invoke(SPIDER, seed=7).text
    assert len({model.invoke(SPIDER, seed=seed).text for seed in range(4)}) > 1


def test_the_token_limit_is_told(smollm2_server: str) -> None:
    answer = create(settings_of("litellm", smollm2_server, max_tokens=3), "large").invoke(SPIDER)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3


async def test_log_probabilities(smollm2_server: str) -> None:
    model = create(settings_of("litellm", smollm2_server, max_tokens=4), "large")
    streamed: AIMessage = add_up(list(model.stream(SPIDER, logprobs=True)))
    for answer in (model.invoke(SPIDER, logprobs=True), streamed):
        tokens = answer.response_metadata["logprobs"]["content"]
        assert len(tokens) >= 3
        assert all(0 < math.exp(token["logprob"]) <= 1 for token in tokens)


def test_a_json_schema_binds_the_answer(make: Make, provider: str) -> None:
    schema = {"type": "object", "properties": {"legs": {"type": "integer"}}, "required": ["legs"]}
    options: dict[str, Any] = {"format": schema}
    if provider == "litellm":
        options = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
    answer = make(max_tokens=64).invoke(SPIDER, **options)
    assert isinstance(json.loads(answer.text)["legs"], int)


def test_a_prompt_beyond_the_context(smollm2_server: str) -> None:
    with pytest.raises(lc.ContextOverflowError):
        create(settings_of("litellm", smollm2_server), "large").invoke("hello " * 20_000)


def test_a_wrong_key(smollm2_server: str) -> None:
    with pytest.raises(lc.ModelAuthenticationError) as caught:
        create(settings_of("litellm", smollm2_server, api_key="sk-wrong-5ecret"), "large").invoke(SPIDER)
    assert "sk-wrong-5ecret" not in str(caught.value)


def test_an_unknown_model_of_the_proxy(ollama_server: str) -> None:  # noqa: F811 - the fixture
    with pytest.raises(lc.ModelInvalidRequestError, match="Unknown provider"):
        create(settings_of("ollama", ollama_server, model="nobody/knows"), "large").invoke(SPIDER)


async def test_a_flow_in_front_of_them(provider: str, server: str) -> None:
    """The same text, alone and through a graph; tokens are counted once."""
    entry = _entry(provider, server)
    fields = ", ".join(f"{name}: {json.dumps(value)}" for name, value in entry.items())
    flow = dynflow.loads(f"""
version: 1
models:
  large: {{{fields}, temperature: 0, max_tokens: 24, price: {{input: 1, output: 2}}}}
nodes:
  answer: {{type: chat, model: large, timeout: 60s}}
edges:
  - {{from: start, to: answer}}
  - {{from: answer, to: end}}
""")
    alone = create(settings_of(provider, server), "large").invoke(SPIDER)
    result = flow.run(SPIDER)
    assert result.value.text == alone.text
    assert alone.usage_metadata is not None
    tokens = result.ledger.tokens()
    assert tokens["input"] == alone.usage_metadata["input_tokens"]
    assert tokens["output"] == alone.usage_metadata["output_tokens"]
    assert (await flow.ainvoke(SPIDER)).text == alone.text
    assert add_up(list(flow.stream(SPIDER))).text == alone.text
    assert add_up([chunk async for chunk in flow.astream(SPIDER)]).text == alone.text
    flow.close()
