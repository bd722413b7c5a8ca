"""`runnable`: the host's own LangChain runnable or function, handed over by `load(…, runnables=…)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from langchain_core.runnables import Runnable
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
        value = call.request.original if self.options.input is None else call.options.input
        return self.resources.runnable(self.options.name), value

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
