"""A server of llama.cpp that drafts by its own settings tells what it drafted; so does the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dynflow import loads
from dynflow.models.embedded import resolve_model_file
from dynflow.models.litellm import LiteLLMChat
from dynflow.models.llama_drafting import set_mode
from dynflow.models.openai_format import Reader
from dynflow.models.settings import ModelSettings
from dynflow.speculation.choosing import Lookup
from dynflow.speculation.statistics import SPECULATION_KEY, Speculation

COPY = (
    "Repeat this exactly: the quick brown fox jumps over the lazy dog. "
    + "the quick brown fox jumps over the lazy dog. " * 2
)


@pytest.fixture(scope="module")
def served() -> Iterator[LiteLLMChat]:
    """SmolLM2 behind a real server that drafts by lookup."""
    xllamacpp: Any = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(resolve_model_file("embedded/smollm2-135m-instruct"))
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = 512, 1, -1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    set_mode(xllamacpp, params, Lookup(2, 8))
    server = xllamacpp.Server(params)
    yield LiteLLMChat(
        settings=ModelSettings(
            provider="litellm", model="openai/smollm2", api_base=f"{server.listening_address}/v1", api_key="none"
        )
    )
    del server  # it serves as long as somebody holds it


def test_its_drafts_are_told_whole_and_streamed(served: LiteLLMChat) -> None:
    asked = {"max_tokens": 32, "temperature": 0}
    whole = served.invoke(COPY, **asked).response_metadata
    *_, last = served.stream(COPY, **asked)
    for told in (whole, last.response_metadata):
        speculation = Speculation.from_dict(told[SPECULATION_KEY])
        assert speculation.drafters == ("server",)
        assert 0 < speculation.accepted <= speculation.drafted
        assert speculation.passes + speculation.accepted == speculation.tokens - 1
        assert speculation.exactness == "exact_distribution"


def test_a_node_tells_them_in_its_ports_and_the_ledger(served: LiteLLMChat) -> None:
    graph = f"""
version: 1
models:
  m:
    provider: litellm
    model: openai/smollm2
    api_base: {served.settings.address}
    api_key: none
    temperature: 0
    max_tokens: 32
nodes:
  a: {{type: speculative_generator, model: m}}
edges:
  - {{from: start, to: a}}
  - {{from: a, to: end}}
"""
    result = loads(graph).run(COPY)
    (visit,) = result.trace.visits
    (line,) = result.ledger.as_dict()["nodes"]
    assert visit.values["accepted"] == line["speculation"]["accepted"] > 0


@pytest.mark.parametrize(
    "timings",
    [
        {"predicted_n": 9, "predicted_ms": 5.0},
        {"predicted_n": 9, "predicted_ms": 5.0, "draft_n": 2, "draft_n_accepted": 3},
        {"predicted_n": 9, "predicted_ms": 5.0, "draft_n": "many", "draft_n_accepted": None},
        {"predicted_n": float("inf"), "predicted_ms": 5.0, "draft_n": 2, "draft_n_accepted": 1},
    ],
)
def test_timings_that_tell_of_no_drafts_are_no_fault(timings: dict[str, Any]) -> None:
    event = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}], "timings": timings}
    told = Reader("m", "litellm").whole(event).generation_info
    assert told is not None
    assert SPECULATION_KEY not in told
