"""`graph`: another graph file as one node."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import patch_config
from pydantic import Field

from dynflow.closing import aclosing, closing
from dynflow.engine import ENCLOSING_KEY
from dynflow.errors import GraphError
from dynflow.flow import Flow
from dynflow.language.references import Reference
from dynflow.language.source import did_you_mean
from dynflow.language.spec import ParamBody, Role
from dynflow.language.types import PortType, boolean, integer, number, type_of_value
from dynflow.node import AnswerType, BuildScope, Call, Finding, InnerFlow, Node, NodeOptions, Output, Resources
from dynflow.request import Request
from dynflow.visit import Enclosing


class InnerGraph(Node):
    """Walk another graph."""

    type = "graph"
    role: ClassVar[Role] = "answer"
    summary = "walks another graph file; its ports are those that all its answers have"

    class Options(NodeOptions):
        """Which file, with which params, on what."""

        static: ClassVar[frozenset[str]] = frozenset({"uses"})

        uses: str = Field(description="path of the graph, relative to this file and below the top file's folder")
        values: dict[str, Any] = Field(
            default_factory=dict, alias="with", description="its params: reference or literal"
        )
        input: Reference | None = Field(default=None, description="its request; default: this one")

    ports: ClassVar[Mapping[str, PortType]] = {
        "degraded": boolean("its path left a failed node by an edge, or used on_failure"),
        "usd": number("what it cost, USD"),
        "tokens": integer("tokens it used"),
    }

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        try:
            inner = scope.subgraph(options.uses)
        except GraphError:
            return cls.ports  # reported by `check`
        answers = [inner.nodes[name].ports for name in inner.answers]
        common = {
            name: port
            for name, port in (answers[0] if answers else {}).items()
            if all(name in ports and ports[name] == port for ports in answers)
        }
        return {**common, **cls.ports}

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        try:
            inner = scope.subgraph(options.uses)
        except GraphError as error:
            first = error.problems[0]
            more = f" (and {len(error.problems) - 1} more)" if len(error.problems) > 1 else ""
            text = first.text if first.code in ("subgraph", "no_file") else first.render().splitlines()[0]
            yield Finding("subgraph", f"{text}{more}", ("uses",))
            return
        for name, value in options.values.items():
            params = inner.spec.params
            if name not in params:
                hint = did_you_mean(name, params)
                yield Finding("unknown_param", f"{options.uses} has no param {name!r}{hint}", ("with", name), key=True)
            elif isinstance(value, Reference):
                wanted = type_of_value(params[name].default)
                if not wanted.accepts(scope.type_of(value)):
                    yield Finding(
                        "type_mismatch", f"{name!r} takes {wanted}; {value} is {scope.type_of(value)}", ("with", name)
                    )
            else:
                try:
                    params[name].check(value)
                except ValueError as error:
                    yield Finding("bad_value", str(error), ("with", name))

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        try:
            inner = scope.subgraph(options.uses)
        except GraphError:
            return object
        kinds = {inner.nodes[name].answer_type for name in inner.answers}
        return kinds.pop() if len(kinds) == 1 else object

    def __init__(self, node_id: str, options: Any, resources: Resources) -> None:
        super().__init__(node_id, options, resources)
        self._flow: Flow = resources.subflow(node_id, options.uses)

    def inner_params(self) -> Mapping[str, ParamBody]:
        return self._flow.params

    def inner(self) -> InnerFlow:
        return InnerFlow(self._flow, self.options.values, self.options.input)

    def trained_on(self, request: Request) -> bool:
        resources = self._flow.resources
        return any(resources.cold_node(name).trained_on(request) for name in self._flow.checked.nodes)

    def warm_up(self) -> None:
        """The inner nodes warm up at their own first use: most requests need only some of them."""

    def run(self, call: Call) -> Output:
        flow, value, config, shared = self._prepare(call)
        flow.invoke(value, config, call_options=call.call_options)
        return _output(shared)

    async def arun(self, call: Call) -> Output:
        flow, value, config, shared = self._prepare(call)
        await flow.ainvoke(value, config, call_options=call.call_options)
        return _output(shared)

    def stream(self, call: Call) -> Iterator[Any]:
        flow, value, config, shared = self._prepare(call)
        with closing(flow.stream(value, config, call_options=call.call_options)) as chunks:
            for chunk in chunks:
                call.check()
                yield chunk
        yield _output(shared)

    async def astream(self, call: Call) -> AsyncIterator[Any]:
        flow, value, config, shared = self._prepare(call)
        async with aclosing(flow.astream(value, config, call_options=call.call_options)) as chunks:
            async for chunk in chunks:
                yield chunk
        yield _output(shared)

    def _prepare(self, call: Call) -> tuple[Runnable[Any, Any], Any, RunnableConfig, Enclosing]:
        prefix = f"{self.id}/"
        own = {key.removeprefix(prefix): value for key, value in call.configurable.items() if key.startswith(prefix)}
        kept = {key: value for key, value in call.configurable.items() if key not in self._flow.params}
        shared: Enclosing = call.nest()
        configurable = {**kept, **call.options.values, **own, ENCLOSING_KEY: shared}
        value = call.request.original if self.options.input is None else call.options.input
        return self._flow, value, patch_config(call.config, configurable=configurable), shared


def _output(shared: Enclosing) -> Output:
    result = shared.results[-1]
    tokens = result.ledger.tokens()
    ports = {
        **result.ports,
        "degraded": result.trace.degraded,
        "usd": result.ledger.usd,
        "tokens": tokens["input"] + tokens["output"],
    }
    return Output(ports, result.value, degraded=result.trace.degraded)
