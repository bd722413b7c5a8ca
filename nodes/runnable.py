"""`runnable`: the host's own LangChain runnable or function, handed over by `load(…, runnables=…)`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import run_in_executor, set_config_context
from pydantic import Field

from dynflow.errors import NodeFailed
from dynflow.language.references import Reference
from dynflow.language.source import did_you_mean
from dynflow.language.spec import TypeName
from dynflow.language.types import DECLARABLE, PortType, any_type
from dynflow.node import BuildScope, Call, Finding, NodeOptions, Output, RunnableNode


class RunnableOfHost(RunnableNode):
    """Run something of the host's."""

    type = "runnable"
    summary = "runs a runnable or function of the host, handed over by load(…, runnables={name: …})"

    class Options(NodeOptions):
        """Which runnable, on what, and the ports of what it returns."""

        static: ClassVar[frozenset[str]] = frozenset({"name", "ports"})

        name: str = Field(description="its name in `runnables=`")
        input: Reference | None = Field(default=None, description="what it gets; default: the request as it came")
        ports: dict[str, TypeName] | None = Field(
            default=None, description="keys of the mapping it returns, with types; default: one port `output`"
        )

    ports: ClassVar[Mapping[str, PortType]] = {"output": any_type("what it returned")}

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        if options.ports is None:
            return cls.ports
        return {name: DECLARABLE[kind].with_doc("as declared") for name, kind in options.ports.items()}

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        if scope.runnables is not None and options.name not in scope.runnables:
            hint = did_you_mean(options.name, scope.runnables)
            yield Finding("unknown_runnable", f"the host handed over no runnable {options.name!r}{hint}", ("name",))

    def prepare(self, call: Call) -> tuple[Runnable[Any, Any], Any]:
        return self._runnable, call.request.original if self.options.input is None else call.options.input

    @cached_property
    def _runnable(self) -> Runnable[Any, Any]:
        handed = self.resources.handed_over(self.options.name)
        return _Plain(handed) if _is_plain(handed) else self.resources.runnable(self.options.name)

    def finish(self, call: Call, result: Any) -> Output:
        declared = self.options.ports
        if declared is None:
            return Output({"output": result}, result)
        if not isinstance(result, Mapping):
            raise NodeFailed(f"{self.options.name!r} returned {type(result).__name__}; its ports need a mapping")
        missing = declared.keys() - result.keys()
        if missing:
            raise NodeFailed(f"{self.options.name!r} returned no {', '.join(sorted(missing))}")
        return Output({name: result[name] for name in declared}, result)


def _is_plain(handed: Any) -> bool:
    """Whether it is a function of one argument that returns its result, or a coroutine function of this kind."""
    return (
        inspect.isfunction(handed)
        and not inspect.isgeneratorfunction(handed)
        and not inspect.isasyncgenfunction(handed)
        and len(inspect.signature(handed).parameters) == 1
    )


class _Plain(Runnable[Any, Any]):
    """A plain function as a runnable without a run of its own: the node is one already.

    As in `RunnableLambda`, a runnable that the function returns is run on the same input.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        result = self._call(input, config)
        return result.invoke(input, config) if isinstance(result, Runnable) else result

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        result = await self._acall(input, config)
        return await result.ainvoke(input, config) if isinstance(result, Runnable) else result

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        result = self._call(input, config)
        if isinstance(result, Runnable):
            yield from result.stream(input, config)
        else:
            yield result

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        result = await self._acall(input, config)
        if isinstance(result, Runnable):
            async for chunk in result.astream(input, config):
                yield chunk
        else:
            yield result

    def _call(self, input: Any, config: RunnableConfig | None) -> Any:
        if self._is_async:
            raise NodeFailed(f"{self._function.__name__!r} is a coroutine function: use ainvoke or astream")
        if not config or not config.get("callbacks"):
            return self._function(input)
        with set_config_context(config) as context:
            return context.run(self._function, input)

    async def _acall(self, input: Any, config: RunnableConfig | None) -> Any:
        if not self._is_async:
            return await run_in_executor(config, self._call, input, config)
        if not config or not config.get("callbacks"):
            return await self._function(input)
        with set_config_context(config) as context:
            return await asyncio.create_task(self._function(input), context=context)
