"""Tokens as they come: sync, async, and with the decisions that led to them.

python examples/stream.py
"""

import asyncio
from typing import Any

from langchain_core.runnables.utils import add

import dynflow
from dynflow import graphs

QUESTION = "What is the capital of France?"
flow = dynflow.load(graphs.path("quickstart"))


def tokens() -> None:
    """The answer's chunks add up to the whole message; the last one carries the record."""
    chunks = []
    for chunk in flow.stream(QUESTION):
        print(chunk.content, end="|", flush=True)
        chunks.append(chunk)
    whole: Any = add(chunks)
    print("\npath:", " > ".join(whole.response_metadata["dynflow"]["path"]))


async def tokens_async() -> None:
    """The same, async."""
    async for chunk in flow.astream(QUESTION):
        print(chunk.content, end="|", flush=True)
    print()


async def everything() -> None:
    """Each edge taken is an event of its own; tokens of drafts that are held back show here too, tagged by node."""
    async for event in flow.astream_events(QUESTION, version="v2"):
        if event["event"] == "on_custom_event" and event["name"] == "dynflow.decision":
            taken: Any = event["data"]
            print(f"[{taken['from']} > {taken['to']}: {taken['when'] or 'default'} {taken['values'] or ''}]")
        elif event["event"] == "on_chat_model_stream":
            print(event["data"]["chunk"].content, end="|", flush=True)
    print()


async def main() -> None:
    """All on one event loop."""
    await tokens_async()
    await everything()


if __name__ == "__main__":
    tokens()
    asyncio.run(main())
