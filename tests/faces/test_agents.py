"""The chat face inside LangChain's agents and LangGraph, and what goes over the wire for images."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from dynflow import NoEligibleAnswer, loads
from dynflow.testing import FakeChat
from tests.faces.graphs import ONE_MODEL
from tests.faces.test_chat_model import Calls, cascade, weather

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
PIXEL = "iVBORw0KGgo="


async def test_an_agent_streams_each_token_once_and_no_draft() -> None:
    pytest.importorskip("langchain")
    from langchain.agents import create_agent

    flow, small, large = cascade("false", small=FakeChat(replies=["a draft"]), large=Calls(replies=["all is well"]))
    agent = create_agent(model=flow.as_chat_model(), tools=[weather], system_prompt="Help.")
    asked = {"messages": [HumanMessage("weather in Rome?")]}
    done = agent.invoke(asked)["messages"]
    assert [message.type for message in done] == ["human", "ai", "tool", "ai"]
    assert done[2].content == "sunny in Rome"
    assert done[3].text == "all is well"
    assert [message.type for message in large.calls[-1].messages] == ["system", "human", "ai", "tool"]
    streamed = [(message, about) for message, about in agent.stream(asked, stream_mode="messages")]
    assert "".join(message.text for message, about in streamed if about["langgraph_node"] == "model") == "all is well"
    streamed = [each async for each in agent.astream(asked, stream_mode="messages")]
    assert "".join(message.text for message, about in streamed if about["langgraph_node"] == "model") == "all is well"
    assert not [call for call in small.calls if "tools" in call.options]


def test_an_agent_s_structured_response() -> None:
    pytest.importorskip("langchain")
    from langchain.agents import create_agent
    from langchain.agents.structured_output import ToolStrategy

    flow, _, _ = cascade(small=Calls(), large=Calls())
    agent = create_agent(
        model=flow.as_chat_model(),
        tools=[],
        response_format=ToolStrategy(
            {"title": "weather", "type": "object", "properties": {"city": {"type": "string"}}}
        ),
    )
    assert agent.invoke({"messages": [HumanMessage("weather?")]})["structured_response"] == {"city": "Rome"}


@pytest.fixture
def peer() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers anything, and what it was sent."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            choice = {"index": 0, "message": {"role": "assistant", "content": "a cat"}, "finish_reason": "stop"}
            body = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image", "base64": PIXEL, "mime_type": "image/png"},
    ],
)
def test_images_go_over_the_wire_as_openai_s_blocks(peer: Any, block: dict[str, Any]) -> None:
    pytest.importorskip("litellm")
    url, seen = peer
    flow = loads(ONE_MODEL.format(url=url))
    message = HumanMessage([{"type": "text", "text": "What is this?"}, block])
    assert flow.as_chat_model().invoke([message]).text == "a cat"
    flow.close()
    ((sent,),) = [request["messages"] for request in seen]
    assert sent["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ]


def test_tools_go_over_the_wire(peer: Any) -> None:
    pytest.importorskip("litellm")
    url, seen = peer
    flow = loads(ONE_MODEL.format(url=url))
    model = flow.as_chat_model().bind_tools([weather], tool_choice="weather", parallel_tool_calls=False)
    model.invoke("hi", stop="END", max_tokens=9)
    flow.close()
    (sent,) = seen
    assert sent["tools"][0]["function"]["name"] == "weather"
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert (sent["parallel_tool_calls"], sent["stop"], sent["max_tokens"]) == (False, ["END"], 9)


def test_an_image_closes_the_edges_to_models_that_read_none() -> None:
    image = HumanMessage(
        [{"type": "text", "text": "What?"}, {"type": "image", "base64": PIXEL, "mime_type": "image/png"}]
    )
    graph = ONE_MODEL.format(url="http://127.0.0.1:9/v1").replace("max_tokens: 64", "capabilities: {images: false}")
    with pytest.raises(NoEligibleAnswer, match="reads no images"):
        loads(graph).as_chat_model().invoke([image])
