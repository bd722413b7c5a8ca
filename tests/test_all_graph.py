"""`graphs/all.yaml`: every family of nodes in one graph, by each way to call it, with the real embedded models."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate

import dynflow
from dynflow import Flow, graphs
from dynflow.cli.app import cli

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
Image = pytest.importorskip("PIL.Image")

DRAW = "Draw two red circles above a blue square"
REVIEW = "Review: a gorgeous , witty , seductive movie"
EASY = "What is 2 + 2?"
HARD = "Why does my SQL query with two left joins return duplicate rows?"
ASKED = ["start", "difficulty", "route", "draft", "check"]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def flow() -> Flow:
    return dynflow.load(graphs.path("all"))


def side(content: Any) -> int:
    [block] = content
    width, height = Image.open(io.BytesIO(base64.b64decode(block["base64"]))).size
    assert width == height
    return int(width)


def test_what_a_request_is_decides_its_path(flow: Flow) -> None:
    chain = ChatPromptTemplate.from_messages([("human", "{asked}")]) | flow
    drawn, judged, kept = chain.batch(
        [{"asked": DRAW}, {"asked": REVIEW}, {"asked": EASY}], {"configurable": {"doubt_above": 1.0}}
    )
    records = [message.response_metadata["dynflow"] for message in (drawn, judged, kept)]
    assert records[0]["path"] == ["start", "difficulty", "picture", "end"]
    assert records[1]["path"] == ["start", "difficulty", "sentiment", "verdict", "end"]
    assert records[2]["path"] == [*ASKED, "end"]
    assert side(drawn.content) == 32
    assert judged.text == "This review is positive."
    assert kept.text.strip()
    for record in records:
        assert record["ledger"]["usd"] == 0
        assert not record["degraded"]


def test_a_doubted_draft_goes_to_the_cloud_with_all_of_it_in_one_trace_and_one_ledger(flow: Flow) -> None:
    result = flow.run(EASY, {"configurable": {"doubt_above": 0.0}})
    assert result.trace.path == [*ASKED, "cloud", "end"]
    assert (result.trace.degraded, result.trace.answer) == (True, "draft")  # there is no key
    values = {visit.node: visit.values for visit in result.trace.visits}
    assert 0 <= values["difficulty"]["score"] <= 1
    assert values["route"]["choice"] == "draft"
    assert values["draft"]["passes"] > 0
    assert 0 <= values["check"]["score"] <= 1
    assert "draft" in [entry.node for entry in result.ledger.entries]
    assert result.ledger.seconds > 0


def test_a_hard_question_goes_to_the_cloud_at_once(flow: Flow) -> None:
    result = flow.run(HARD, {"configurable": {"hard_above": 0.0}})
    assert result.trace.path == ["start", "difficulty", "route", "cloud", "stand_in", "end"]
    assert result.trace.degraded


def test_an_agent_draws_with_it_as_its_tool(flow: Flow) -> None:
    pytest.importorskip("langchain")
    from langchain.agents import create_agent
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

    class Agents(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    asks = AIMessage("", tool_calls=[{"name": "helper", "args": {"question": DRAW}, "id": "1"}])
    tool = flow.to_tool("helper")
    agent = create_agent(Agents(messages=iter([asks, AIMessage("Here it is.")])), tools=[tool])
    _, _, told, answer = agent.invoke({"messages": [HumanMessage(DRAW)]})["messages"]
    assert side(told.content) == 32
    assert told.artifact["path"] == ["start", "difficulty", "picture", "end"]
    assert answer.text == "Here it is."


def test_the_command_line_runs_and_draws_it(tmp_path: Any) -> None:
    path = str(graphs.path("all"))
    picture = tmp_path / "out.png"
    done = CliRunner().invoke(cli, ["run", path, DRAW, "--output", str(picture)])
    assert done.exit_code == 0, done.output
    assert "start → difficulty → picture → end" in done.stderr
    assert Image.open(picture).size == (32, 32)
    drawn = CliRunner().invoke(cli, ["draw", path])
    assert drawn.exit_code == 0
    nodes = dynflow.load(path).get_graph().nodes.keys() - {"__start__", "__end__"}
    assert nodes > {"difficulty", "route", "draft", "check", "cloud", "sentiment", "picture"}
    assert not [name for name in nodes if f"n_{name}[" not in drawn.output]
