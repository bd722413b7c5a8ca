"""`runnable`: the host's own LangChain runnable or function, handed over by `load(…, runnables=…)`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import run_in_executor, set_config_context, var_child_runnable_config
from pydantic import Field

from dynflow.chunks import add_up
from dynflow.closing import aclosing, closing
from dynflow.engine import CALLER_KEY
from dynflow.errors import NodeFailed
from dynflow.language.references import IDENTIFIER, Reference
from dynflow.language.source import did_you_mean
from dynflow.language.spec import TypeName
from dynflow.language.types import COMMON_PORTS, DECLARABLE, PortType, any_type, holds
from dynflow.node import BuildScope, Call, Finding, NodeOptions, Output
from dynflow.runnable_node import RunnableNode

_SCALARS = frozenset({"number", "integer", "boolean"})


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
        for port in options.ports or {}:
            if port in COMMON_PORTS or not IDENTIFIER.fullmatch(port):
                why = "every node has it" if port in COMMON_PORTS else "small letters, digits and _"
                yield Finding(
                    "bad_name", f"{port!r} is no name for a port ({why}): choose another", ("ports", port), key=True
                )
        if scope.runnables is not None and options.name not in scope.runnables:
            hint = did_you_mean(options.name, scope.runnables)
            yield Finding("unknown_runnable", f"the host handed over no runnable {options.name!r}{hint}", ("name",))

    def prepare(self, call: Call) -> tuple[Runnable[Any, Any], Any]:
        # A flow that the host's code calls as a tool (an agent does) shares this request's budget, deadline and record.
        configurable = {**(call.config.get("configurable") or {}), CALLER_KEY: call.nest}
        call.config = {**call.config, "configurable": configurable}
        return self._runnable, call.request.original if self.options.input is None else call.options.input

    @cached_property
    def _runnable(self) -> Runnable[Any, Any]:
        handed = self.resources.handed_over(self.options.name)
        if _is_plain(handed):
            return _Plain(handed)
        if inspect.isgeneratorfunction(handed) or inspect.isasyncgenfunction(handed):
            return _Generator(handed)
        return self.resources.runnable(self.options.name)

    def stream(self, call: Call) -> Iterator[Any]:
        for item in super().stream(call):
            if self.options.ports is None or isinstance(item, Output):  # ports are checked before anything goes out
                yield item

    async def astream(self, call: Call) -> AsyncIterator[Any]:
        async with aclosing(super().astream(call)) as items:
            async for item in items:
                if self.options.ports is None or isinstance(item, Output):
                    yield item

    def finish(self, call: Call, result: Any) -> Output:
        declared = self.options.ports
        if declared is None:
            return Output({"output": result}, result)
        if not isinstance(result, Mapping):
            raise NodeFailed(f"{self.options.name!r} returned {type(result).__name__}; its ports need a mapping")
        missing = declared.keys() - result.keys()
        if missing:
            raise NodeFailed(f"{self.options.name!r} returned no {', '.join(sorted(missing))}")
        return Output({name: self._port(name, kind, result[name]) for name, kind in declared.items()}, result)

    def _port(self, name: str, kind: str, value: Any) -> Any:
        """The value, if it is of the declared type or null; numpy's and torch's scalars become plain ones."""
        if kind in _SCALARS and not isinstance(value, (bool, int, float, str)) and hasattr(value, "item"):
            value = value.item()
        if value is not None and not holds(kind, value):
            text = f"{self.options.name!r} returned {type(value).__name__} for {name!r}, which is declared as {kind}"
            raise NodeFailed(text)
        return value


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
            async with aclosing(result.astream(input, config)) as chunks:
                async for chunk in chunks:
                    yield chunk
        else:
            yield result

    def _call(self, input: Any, config: RunnableConfig | None) -> Any:
        if self._is_async:
            raise NodeFailed(f"{self._function.__name__!r} is a coroutine function: use ainvoke or astream")
        if config and config.get("callbacks"):
            with set_config_context(config) as context:
                return context.run(self._function, input)
        token = var_child_runnable_config.set(config)  # the same, but for tracing: a tenth of its time
        try:
            return self._function(input)
        finally:
            var_child_runnable_config.reset(token)

    async def _acall(self, input: Any, config: RunnableConfig | None) -> Any:
        if not self._is_async:
            return await run_in_executor(config, self._call, input, config)
        if config and config.get("callbacks"):
            with set_config_context(config) as context:
                return await asyncio.create_task(self._function(input), context=context)
        token = var_child_runnable_config.set(config)
        try:
            return await self._function(input)
        finally:
            var_child_runnable_config.reset(token)


_END = object()


class _Generator(Runnable[Any, Any]):
    """A generator function as a runnable: it gets the value, as any function does, and its chunks stream.

    LangChain's own coercion hands it a stream of inputs, and lets a plain generator run in sync calls only.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self._is_async = inspect.isasyncgenfunction(function)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return add_up(list(self.stream(input, config)))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        async with aclosing(self.astream(input, config)) as chunks:
            return add_up([chunk async for chunk in chunks])

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        if self._is_async:
            raise NodeFailed(f"{self._function.__name__!r} is an async generator: use ainvoke or astream")
        with set_config_context(config or {}) as context, closing(self._function(input)) as chunks:
            while (chunk := context.run(next, chunks, _END)) is not _END:
                yield chunk

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        if self._is_async:
            async with aclosing(self._function(input)) as chunks:
                while True:
                    token = var_child_runnable_config.set(config)  # around each step: a yield must not stand inside
                    try:
                        chunk = await anext(chunks, _END)
                    finally:
                        var_child_runnable_config.reset(token)
                    if chunk is _END:
                        return
                    yield chunk
        with closing(self.stream(input, config)) as steps:
            while (chunk := await run_in_executor(None, next, steps, _END)) is not _END:
                yield chunk
