"""The public fakes."""

from __future__ import annotations

import pickle

import pytest

from dynflow.chunks import add_up
from dynflow.testing import FakeChat


async def test_it_answers_in_every_style() -> None:
    model = FakeChat(replies=["one two", "three"])
    assert model.invoke("a").text == "one two"
    assert [chunk.text for chunk in model.stream("b") if chunk.text] == ["three"]
    assert (await model.ainvoke("c")).text == "three"
    assert add_up([chunk async for chunk in model.astream("d")]).usage_metadata["output_tokens"] == 1
    assert [call.messages[0].text for call in model.calls] == ["a", "b", "c", "d"]
    assert {call.ended for call in model.calls} == {"finished"}


def test_it_counts_tokens_or_not() -> None:
    assert FakeChat(replies=["a b"]).invoke("c d e").usage_metadata == {
        "input_tokens": 3,
        "output_tokens": 2,
        "total_tokens": 5,
    }
    assert FakeChat(usage=False).invoke("x").usage_metadata is None


def test_it_fails_when_told() -> None:
    model = FakeChat(replies=["one two three"], fail_with=OSError("cut"), fail_after=2)
    taken: list[str] = []
    stream = (taken.append(chunk.text) for chunk in model.stream("x"))
    with pytest.raises(OSError, match="cut"):
        list(stream)
    assert taken == ["one", " two"]
    with pytest.raises(OSError, match="cut"):
        model.invoke("x")
    assert [call.ended for call in model.calls] == ["failed", "failed"]


def test_it_notices_who_goes_away() -> None:
    model = FakeChat(replies=["one two"])
    stream = model.stream("x")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert model.calls[0].ended == "closed"


def test_it_takes_options_and_tools() -> None:
    model = FakeChat(replies=["one two three"])
    assert model.bind(max_tokens=2).invoke("x", stop=["."]).text == "one two"
    assert model.calls[0].options == {"max_tokens": 2, "stop": ["."]}
    model.bind_tools([{"name": "t"}]).invoke("x")
    assert model.calls[1].options["tools"] == [{"name": "t"}]


def test_it_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(FakeChat(replies=["kept"]))).invoke("x").text == "kept"
