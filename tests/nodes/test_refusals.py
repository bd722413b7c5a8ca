"""Answers that are none: refusals, which are billed, and answers that end at the token limit."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata

import dynflow
from dynflow import Flow, StreamInterrupted
from dynflow.errors import RefusedByModel

USED = UsageMetadata(input_tokens=10, output_tokens=4, total_tokens=14)
EDGES = {
    "none": "- {from: large, to: end}",
    "fallback": "- {from: large, to: sorry, when: large.error == 'refused'}\n  - {from: large, to: end}",
}


class Scripted(GenericFakeChatModel):
    """Gives its chunks, whole or one by one."""

    chunks: list[AIMessageChunk] = []  # noqa: RUF012 - pydantic copies it

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        from langchain_core.outputs import ChatGenerationChunk

        for chunk in self.chunks:
            yield ChatGenerationChunk(message=chunk)

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        from langchain_core.language_models.chat_models import generate_from_stream

        return generate_from_stream(self._stream(messages))


def chunk(text: str = "", last: bool = False, **more: Any) -> AIMessageChunk:
    return AIMessageChunk(text, **more, **({"usage_metadata": USED, "chunk_position": "last"} if last else {}))


REFUSALS = {
    "a refusal field": [chunk(additional_kwargs={"refusal": "I would rather not."}), chunk(last=True)],
    "OpenAI's filter": [chunk(response_metadata={"finish_reason": "content_filter"}, last=True)],
    "Anthropic": [chunk(response_metadata={"stop_reason": "refusal"}, last=True)],
    "Gemini": [chunk(response_metadata={"finish_reason": "SAFETY"}, last=True)],
}


def flow(chunks: list[AIMessageChunk], edge: str) -> Flow:
    text = f"""
version: 1
models:
  large: {{provider: host, price: {{input: 1, output: 10}}}}
nodes:
  large: {{type: chat, model: large}}
  sorry: {{type: prompt, role: answer, template: "Sorry."}}
edges:
  - {{from: start, to: large}}
  {EDGES[edge]}
  - {{from: sorry, to: end}}
"""
    if edge == "none":
        text = text.replace('  sorry: {type: prompt, role: answer, template: "Sorry."}\n', "")
        text = text.replace("  - {from: sorry, to: end}\n", "")
    return dynflow.loads(text, models={"large": Scripted(messages=iter(()), chunks=chunks)})


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_is_a_failure_that_edges_catch(refusal: str) -> None:
    made = flow(REFUSALS[refusal], "fallback")
    for answer in (made.invoke("hi"), await made.ainvoke("hi"), next(iter(made.stream("hi")))):
        assert answer.text == "Sorry."
    assert made.run("hi").ledger.usd == pytest.approx(50e-6)  # what was refused is billed


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_that_nobody_catches(refusal: str) -> None:
    made = flow(REFUSALS[refusal], "none")
    for call in (lambda: made.invoke("hi"), lambda: list(made.stream("hi"))):
        with pytest.raises(RefusedByModel, match="'large' declined to answer") as caught:
            call()
        assert caught.value.usage is not None
        assert caught.value.usage.output_tokens == 4


def test_a_filter_that_bites_in_mid_answer_interrupts() -> None:
    chunks = [chunk("Once upon "), chunk(response_metadata={"finish_reason": "content_filter"}, last=True)]
    with pytest.raises(StreamInterrupted) as caught:
        list(flow(chunks, "none").stream("hi"))
    assert caught.value.partial.text == "Once upon "
    assert isinstance(caught.value.__cause__, RefusedByModel)


def test_an_answer_that_ends_at_the_limit_says_so() -> None:
    made = flow([chunk("Once"), chunk(response_metadata={"finish_reason": "length"}, last=True)], "none")
    result = made.run("hi")
    assert isinstance(result.value, AIMessage)
    assert result.value.text == "Once"
    assert "the answer ends at max_tokens" in result.trace.visits[0].notes
