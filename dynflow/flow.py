"""Flow: a graph as a LangChain Runnable. Thin sync, async and streaming drivers over the one walk."""

from __future__ import annotations

import functools
import operator
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.utils import ConfigurableFieldSpec
from pydantic import ConfigDict, PrivateAttr
from typing_extensions import override

from dynflow.batch import abatch_sessions, batch_sessions
from dynflow.compile import compile_text, locate_subgraph, read_graph_file
from dynflow.errors import ParamError
from dynflow.graph import CheckedGraph
from dynflow.language.source import Problem
from dynflow.language.spec import ParamBody
from dynflow.ledger import Budget, DayAllowance
from dynflow.request import Request
from dynflow.resources import FlowResources
from dynflow.running import Runner
from dynflow.session import Completed, Enclosing, Session
from dynflow.trace import METADATA_KEY, FlowResult

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph

ENCLOSING_KEY = "__dynflow_enclosing"
"""Key of `config["configurable"]` under which a sub-graph finds what it shares; never in the public schema."""
_TEXT_FILE = "<string>"


class Flow(RunnableSerializable[Any, Any]):
    """A graph as a runnable: give it a question, it walks the graph and returns the answer.

    Input: text, a prompt value, messages, or a mapping with `input` or `messages` and the declared keys. Output: the
    answer's own type; an `AIMessage` carries its record in `response_metadata["dynflow"]`. Make one with `load`
    (a file) or `loads` (text). Raises what DESIGN calls the error tree: see `dynflow.errors`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    graph: str
    """The graph's text."""
    path: str | None = None
    """Its file, for messages and for sub-graphs."""
    base: str | None = None
    """Folder that sub-graphs must stay below; default: the file's."""
    runnables: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """What `runnable` nodes name."""
    models: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Chat models for entries of `models:`, by name; they take the place of what the graph declares."""

    _checked: CheckedGraph = PrivateAttr()
    _resources: FlowResources = PrivateAttr()
    _day: DayAllowance = PrivateAttr()
    _defaults: dict[str, Any] = PrivateAttr()

    @override
    def model_post_init(self, context: Any, /) -> None:
        """Check the graph. Raises `GraphError`."""
        path = Path(self.path) if self.path else None
        base = Path(self.base) if self.base else None
        self._checked = compile_text(
            self.graph, self.path or _TEXT_FILE, path=path, base=base, runnables=self.runnables or None
        )
        folder = path.parent if path else base
        self._resources = FlowResources(self._checked, folder, self.runnables, self.models, self._make_subflow)
        self._day = DayAllowance(self._checked.spec.limits.usd_per_day)
        self._defaults = {name: body.default for name, body in self._checked.spec.params.items()}

    def _make_subflow(self, uses: str) -> Flow:
        file = Path(self.path) if self.path else None
        base = Path(self.base) if self.base else (file.parent if file else None)
        path = locate_subgraph(uses, file, base, ())
        text = read_graph_file(path).decode("utf-8-sig")
        return Flow(graph=text, path=str(path), base=str(base), runnables=self.runnables, models={})

    # What the graph is

    @property
    def checked(self) -> CheckedGraph:
        """The checked graph: nodes, ways, roles, which answers stream live."""
        return self._checked

    @property
    def resources(self) -> FlowResources:
        """Models, runnables and nodes of this flow."""
        return self._resources

    @property
    def warnings(self) -> list[Problem]:
        """What `dynflow check` would warn of."""
        return [problem for problem in self._checked.source.sorted() if problem.severity == "warning"]

    @functools.cached_property
    def params(self) -> Mapping[str, ParamBody]:
        """Every param that `config["configurable"]` may set; those of sub-graphs as `node/param`."""
        found = dict(self._checked.spec.params)
        for name in self._checked.nodes:
            inner = self._resources.cold_node(name).inner_params()
            found.update({f"{name}/{param}": body for param, body in inner.items()})
        return found

    def warm_up(self) -> None:
        """Load every node now instead of at its first request."""
        for name in self._checked.nodes:
            self._resources.node(name)

    def close(self) -> None:
        """Free what was loaded; the next request loads it anew."""
        self._resources.close()

    # Runnable

    @override
    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        return super().get_name(suffix, name=name or self.name or self._checked.spec.name or "Flow")

    @classmethod
    @override
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    @override
    def get_lc_namespace(cls) -> list[str]:
        return ["dynflow", "flow"]

    @property
    @override
    def InputType(self) -> Any:
        if self._checked.spec.inputs:
            return dict[str, Any]
        return str | PromptValue | list[BaseMessage] | dict[str, Any]

    @property
    @override
    def OutputType(self) -> Any:
        kinds = dict.fromkeys(self._checked.nodes[name].answer_type for name in self._checked.answers)
        known = [Any if kind is object else kind for kind in kinds]
        return functools.reduce(operator.or_, known) if known and Any not in known else Any

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        return [
            ConfigurableFieldSpec(
                id=name, annotation=type(body.default), name=name, description=body.help, default=body.default
            )
            for name, body in self.params.items()
        ]

    @override
    def get_graph(self, config: RunnableConfig | None = None) -> Graph:
        from dynflow.drawing import draw_graph

        return draw_graph(self)

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self._call_with_config(self._invoke, input, config, **_no_options(kwargs))

    @override
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return await self._acall_with_config(self._ainvoke, input, config, **_no_options(kwargs))

    def run(self, input: Any, config: RunnableConfig | None = None) -> FlowResult[Any]:
        """The answer with its trace and ledger, whatever the answer's type."""
        results: list[FlowResult[Any]] = []
        self._call_with_config(self._invoke, input, config, results=results)
        return results[0]

    async def arun(self, input: Any, config: RunnableConfig | None = None) -> FlowResult[Any]:
        """The same, async."""
        results: list[FlowResult[Any]] = []
        await self._acall_with_config(self._ainvoke, input, config, results=results)
        return results[0]

    @override
    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        return self._batch_with_config(
            self._batch, inputs, config, return_exceptions=return_exceptions, **_no_options(kwargs)
        )

    @override
    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        return await self._abatch_with_config(
            self._abatch, inputs, config, return_exceptions=return_exceptions, **_no_options(kwargs)
        )

    @override
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield from self.transform(iter([input]), config, **kwargs)

    @override
    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        async def once() -> AsyncIterator[Any]:
            yield input

        async with aclosing(self.atransform(once(), config, **kwargs)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                yield chunk

    @override
    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield from self._transform_stream_with_config(input, self._transform, config, **_no_options(kwargs))

    @override
    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        chunks = self._atransform_stream_with_config(input, self._atransform, config, **_no_options(kwargs))
        async with aclosing(chunks) as running:  # type: ignore[type-var]
            async for chunk in running:
                yield chunk

    # The drivers

    def _open(
        self,
        input: Any,
        config: RunnableConfig,
        manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun,
    ) -> Runner:
        """A session for one request. Raises `InputError` and `ParamError`."""
        spec = self._checked.spec
        configurable = config.get("configurable") or {}
        enclosing: Enclosing | None = configurable.get(ENCLOSING_KEY)
        session = Session(
            self._resources,
            Request(input, declared=spec.inputs),
            self._params(configurable),
            Budget(spec.limits, self._day, enclosing.budget if enclosing else None),
            configurable,
            enclosing,
        )
        return Runner(self._resources, session, config, manager)

    def _params(self, configurable: Mapping[str, Any]) -> Mapping[str, Any]:
        given = self._defaults.keys() & configurable.keys()
        if not given:
            return self._defaults
        params = dict(self._defaults)
        for name in given:
            try:
                params[name] = self._checked.spec.params[name].check(configurable[name])
            except ValueError as error:
                raise ParamError(f"param {name!r}: {error}") from None
        return params

    def _invoke(
        self,
        input: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        results: list[FlowResult[Any]] | None = None,
    ) -> Any:
        runner = self._open(input, config, run_manager)
        session = runner.session
        while (visit := session.next()) is not None:
            session.complete(visit, runner.run(visit))
        runner.decided()
        result = session.result()
        if results is not None:
            results.append(result)
        return result.value

    async def _ainvoke(
        self,
        input: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        results: list[FlowResult[Any]] | None = None,
    ) -> Any:
        runner = self._open(input, config, run_manager)
        session = runner.session
        while (visit := session.next()) is not None:
            session.complete(visit, await runner.arun(visit))
        await runner.adecided()
        result = session.result()
        if results is not None:
            results.append(result)
        return result.value

    def _transform(
        self, input: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig
    ) -> Iterator[Any]:
        runner = self._open(_gathered(list(input)), config, run_manager)
        session = runner.session
        emitted = False
        while (visit := session.next()) is not None:
            if not visit.live:
                session.complete(visit, runner.run(visit))
                continue
            with closing(runner.stream(visit)) as items:  # type: ignore[type-var]
                for item in items:
                    if isinstance(item, Completed):
                        session.complete(visit, item)
                    else:
                        emitted = True
                        yield item
        runner.decided()
        yield from _ending(session.result(), emitted, nested=session.enclosing is not None)

    async def _atransform(
        self, input: AsyncIterator[Any], run_manager: AsyncCallbackManagerForChainRun, config: RunnableConfig
    ) -> AsyncIterator[Any]:
        runner = self._open(_gathered([chunk async for chunk in input]), config, run_manager)
        session = runner.session
        emitted = False
        while (visit := session.next()) is not None:
            if not visit.live:
                session.complete(visit, await runner.arun(visit))
                continue
            async with aclosing(runner.astream(visit)) as items:  # type: ignore[type-var]
                async for item in items:
                    if isinstance(item, Completed):
                        session.complete(visit, item)
                    else:
                        emitted = True
                        yield item
        await runner.adecided()
        for chunk in _ending(session.result(), emitted, nested=session.enclosing is not None):
            yield chunk

    def _batch(
        self, inputs: list[Any], run_manager: list[CallbackManagerForChainRun], config: list[RunnableConfig]
    ) -> list[Any]:
        runners = [self._try_open(*each) for each in zip(inputs, config, run_manager, strict=True)]
        results = batch_sessions(self._checked, runners, config[0].get("max_concurrency"))
        return [result.value if isinstance(result, FlowResult) else result for result in results]

    async def _abatch(
        self, inputs: list[Any], run_manager: list[AsyncCallbackManagerForChainRun], config: list[RunnableConfig]
    ) -> list[Any]:
        runners = [self._try_open(*each) for each in zip(inputs, config, run_manager, strict=True)]
        results = await abatch_sessions(self._checked, runners, config[0].get("max_concurrency"))
        return [result.value if isinstance(result, FlowResult) else result for result in results]

    def _try_open(self, input: Any, config: RunnableConfig, manager: Any) -> Runner | Exception:
        try:
            return self._open(input, config, manager)
        except Exception as error:
            return error

    # Pickling: the text is the whole; everything else is made from it again.

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        fields = {"path": self.path, "base": self.base, "runnables": self.runnables, "models": self.models, "name": self.name}
        return _remake, (self.graph, fields)


def _remake(graph: str, fields: dict[str, Any]) -> Flow:
    return Flow(graph=graph, **fields)


def _no_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    if kwargs:
        names = ", ".join(sorted(kwargs))
        raise TypeError(f"a flow takes no options beside its input and config (got {names}); give them to its models")
    return kwargs


def _gathered(chunks: list[Any]) -> Any:
    """The whole input of a stream: its chunks added up, or the last where they do not add."""
    try:
        return functools.reduce(operator.add, chunks)
    except TypeError:
        return chunks[-1] if chunks else ""


def _ending(result: FlowResult[Any], emitted: bool, *, nested: bool) -> Iterator[Any]:
    """What goes out at the end of a stream: a held answer whole, or the record of a live one."""
    value = result.value
    if not emitted:
        yield _as_chunk(value) if isinstance(value, AIMessage) else value
    elif isinstance(value, AIMessage) and not nested:
        metadata = {METADATA_KEY: value.response_metadata[METADATA_KEY]}
        yield AIMessageChunk(content="", id=value.id, response_metadata=metadata, chunk_position="last")


def _as_chunk(message: AIMessage) -> AIMessageChunk:
    """The same message as a chunk, so that whoever adds up the stream gets it back."""
    if isinstance(message, AIMessageChunk):
        return message
    fields = message.model_dump(exclude={"type"})
    return AIMessageChunk(**fields, chunk_position="last")
