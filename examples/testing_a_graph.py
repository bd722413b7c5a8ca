"""Tests of a graph, with fakes in place of its models: no network, no weights, no waiting.

pip install pytest
pytest examples/testing_a_graph.py
"""

import pytest
from langchain_core.exceptions import ModelRateLimitError

import dynflow
from dynflow import graphs
from dynflow.testing import FakeChat

QUESTION = "Which city is the capital of France?"


def flow_with(small: FakeChat, large: FakeChat) -> dynflow.Flow:
    """The shipped quickstart graph on fake models; all else in it is real."""
    return dynflow.load(graphs.path("quickstart"), models={"small": small, "large": large})


@pytest.mark.parametrize(("easy_below", "path"), [(1.0, ["difficulty", "local"]), (0.0, ["difficulty", "cloud"])])
def test_the_threshold_decides_who_answers(easy_below: float, path: list[str]) -> None:
    flow = flow_with(FakeChat(replies=["small"]), FakeChat(replies=["large"]))
    result = flow.run(QUESTION, {"configurable": {"easy_below": easy_below}})
    assert result.trace.path == ["start", *path, "end"]


def test_a_failing_cloud_is_answered_locally_and_marked() -> None:
    flow = flow_with(FakeChat(replies=["small"]), FakeChat(fail_with=ModelRateLimitError("too many requests")))
    result = flow.run(QUESTION, {"configurable": {"easy_below": 0.0}})
    assert result.value.content == "small"
    assert result.trace.degraded


def test_the_cloud_is_asked_once_and_gets_the_question() -> None:
    large = FakeChat()
    flow_with(FakeChat(), large).invoke(QUESTION, {"configurable": {"easy_below": 0.0}})
    assert [call.messages[-1].content for call in large.calls] == [QUESTION]
