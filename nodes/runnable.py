"""`runnable`: the host's own LangChain runnable or function, handed over by `load(…, runnables=…)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import set_config_context
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
        return self.resources.runnable(self.options.name), self._input(call)

    def _input(self, call: Call) -> Any:
        return call.request.original if self.options.input is None else call.options.input

    def run(self, call: Call) -> Output:
        function = self._function
        if function is None or call.interruptible:
            return super().run(call)
        return self.finish(call, function(call.config, self._input(call)))

    @cached_property
    def _function(self) -> Callable[[RunnableConfig, Any], Any] | None:
        """A plain function of the host, called as it is: this node is a run already, it needs none of its own."""
        handed = self.resources.handed_over(self.options.name)
        if not inspect.isfunction(handed) or inspect.iscoroutinefunction(handed) or inspect.isgeneratorfunction(handed):
            return None
        if inspect.isasyncgenfunction(handed) or len(inspect.signature(handed).parameters) != 1:
            return None

        def call_it(config: RunnableConfig, value: Any) -> Any:
            if not config.get("callbacks"):
                result = handed(value)
            else:
                with set_config_context(config) as context:
                    result = context.run(handed, value)
            return result.invoke(value, config) if isinstance(result, Runnable) else result

        return call_it

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
