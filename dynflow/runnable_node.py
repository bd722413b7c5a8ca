"""Nodes that hand their work to a LangChain runnable."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.runnables import Runnable

from dynflow.chunks import add_up
from dynflow.closing import aclosing, closing
from dynflow.errors import NodeFailed
from dynflow.node import Call, Node, Output


class RunnableNode(Node):
    """A node that hands its work to a LangChain runnable: `prepare` before, `finish` after."""

    @abstractmethod
    def prepare(self, call: Call) -> tuple[Runnable[Any, Any], Any]:
        """The runnable and its input."""

    @abstractmethod
    def finish(self, call: Call, result: Any) -> Output:
        """The output, made of the runnable's whole result."""

    def run(self, call: Call) -> Output:
        if call.interruptible:
            return _output_of(list(self.stream(call)))
        runnable, value = self.prepare(call)
        return self.finish(call, runnable.invoke(value, call.config))

    async def arun(self, call: Call) -> Output:
        if call.interruptible:  # a cancelled stream ends its run and its connection; LangChain's `ainvoke` need not
            async with aclosing(self.astream(call)) as items:
                return _output_of([item async for item in items])
        runnable, value = self.prepare(call)
        return self.finish(call, await runnable.ainvoke(value, call.config))

    def stream(self, call: Call) -> Iterator[Any]:
        runnable, value = self.prepare(call)
        taken: list[Any] = []
        with closing(runnable.stream(value, call.config)) as chunks:
            for chunk in chunks:
                call.check()
                taken.append(chunk)
                yield chunk
        yield self.finish(call, add_up(taken))

    async def astream(self, call: Call) -> AsyncIterator[Any]:
        runnable, value = self.prepare(call)
        taken: list[Any] = []
        async with aclosing(runnable.astream(value, call.config)) as chunks:
            async for chunk in chunks:
                taken.append(chunk)
                yield chunk
        yield self.finish(call, add_up(taken))


def _output_of(items: Sequence[Any]) -> Output:
    """The output that a node's stream ends with."""
    if not items or not isinstance(items[-1], Output):
        raise NodeFailed("the node gave no output")
    return items[-1]
