"""A flow as one node of a LangGraph graph, its tokens coming through LangGraph's own message stream.

    pip install langgraph
    python examples/langgraph_node.py

Only tokens of the answer come through: drafts that the flow holds back, until it knows that they stand, do not.
"""

from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph

import dynflow
from dynflow import graphs

flow = dynflow.load(graphs.path("quickstart"))


def answer(state: MessagesState) -> dict[str, Any]:
    """Ask the flow about the conversation so far."""
    return {"messages": [flow.invoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile()

question = HumanMessage("What is the capital of France?")
for message, about in graph.stream({"messages": [question]}, stream_mode="messages"):
    print(f"{about['langgraph_node']}: {message.content!r}")
