"""Flow: a graph as a LangChain Runnable. Thin sync, async and streaming drivers over the one walk."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.utils import ConfigurableFieldSpec
from pydantic import ConfigDict, PrivateAttr
from typing_extensions import override

from dynflow.calibration.artefacts import changed
from dynflow.calibration.saved import Calibration, path_for
from dynflow.closing import aclosing, cancelled_once
from dynflow.compile import compile_text, read_graph_file
from dynflow.engine import Engine, NodeResult
from dynflow.errors import ArtefactError, GraphError
from dynflow.graph import CheckedGraph
from dynflow.language.sealing import literal_secrets, sealed
from dynflow.language.source import Problem, did_you_mean
from dynflow.language.spec import ParamBody
from dynflow.resources import FlowResources
from dynflow.streamed_run import astream_in_run
from dynflow.subgraphs import locate_subgraph
from dynflow.trace import FlowResult
from dynflow.trace_file import TraceFile, trace_file

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph

    from dynflow.budgets import Budget, DayAllowance
    from dynflow.chat_model import FlowChatModel
    from dynflow.tool import FlowTool
    from dynflow.walk import State

_TEXT_FILE = "<string>"
_logger = logging.getLogger("dynflow")


class Flow(RunnableSerializable[Any, Any]):
    """A graph as a runnable: give it a question, it walks the graph and returns the answer.

    Input: text, a prompt value, messages, or a mapping with `input` or `messages` and the declared keys. Output: the
    answer's own type; an `AIMessage` carries its record in `response_metadata["dynflow"]`. Make one with `load`
    (a file) or `loads` (text). Raises what DESIGN calls the error tree: see `dynflow.errors`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    graph: str
    """The graph's text, with a reference to the environment for each key that stands in it."""
    path: str | None = None
    """Its file, for messages and for sub-graphs."""
    base: str | None = None
    """Folder that sub-graphs must stay below; default: the file's."""
    runnables: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """What `runnable` nodes name."""
    models: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    """Chat models for entries of `models:`, by name; they take the place of what the graph declares.

    Those of a sub-graph are named `node/model`.
    """
    trace: Any = None
    """Where the record of each request goes: a file name or a `TraceFile`; None: nowhere."""

    _engine: Engine = PrivateAttr()
    _calibration: Calibration | None = PrivateAttr(default=None)
    _text: str = PrivateAttr()
    """The text as it was given: copies within the process are made of it."""

    @override
    def model_post_init(self, context: Any, /) -> None:
        """Check the graph. Raises `GraphError`."""
        path = Path(self.path) if self.path else None
        base = Path(self.base) if self.base else None
        checked = compile_text(
            self.graph, self.path or _TEXT_FILE, path=path, base=base, runnables=self.runnables or None
        )
        self._text = self.graph
        if secrets := literal_secrets(checked.spec.models):
            self.__dict__["graph"] = sealed(self.graph, secrets)
        folder = path.parent if path else base
        known = {*checked.spec.models, *checked.nodes}
        for name in self.models:
            if name.partition("/")[0] not in known:
                hint = did_you_mean(name, checked.spec.models)
                text = f"the host handed over a model {name!r}, and the graph has none such{hint}"
                raise GraphError([checked.source.problem("unknown_model", text, checked.source.place_of(("models",)))])
        resources = FlowResources(checked, folder, self.runnables, self.models, self._make_subflow)
        self._engine = Engine(checked, resources, path, trace_file(self.trace))
        for name in checked.nodes:  # cheap; a sub-graph is read now, with the rest, and not at the first request
            resources.cold_node(name)
        if path is not None:
            self._calibrate(path)

    def _calibrate(self, path: Path) -> None:
        """Take over the params of the graph's calibration file; one that does not fit is left, with a warning."""
        file = path_for(path)
        if not file.is_file():
            return
        try:
            calibration = Calibration.read(file)
            if calibration.graph_hash != self.graph_hash:
                raise ArtefactError(f"{file} was made for another graph than this one is now: calibrate again")
            params = calibration.checked(self.params)
            if others := changed(self, calibration.artefacts):
                names = " and ".join(map(repr, others))
                raise ArtefactError(
                    f"{file} was made with another artefact of {names} than there is now: calibrate again"
                )
        except ArtefactError as error:
            text = f"the calibration is not applied: {error}"
            self.checked.source.report("calibration", text, ("params",), key=True, severity="warning")
            _logger.warning("%s", text)
            return
        self._take_over(params)
        self._calibration = calibration

    def _take_over(self, params: Mapping[str, Any]) -> None:
        """New defaults of params; those of sub-graphs as `node/param`."""
        for name, value in params.items():
            node, _, rest = name.partition("/")
            if rest:
                self.resources.subflows[node]._take_over({rest: value})
            else:
                self._engine.defaults[name] = value
        self.__dict__.pop("params", None)  # made anew, with these

    def _make_subflow(self, node_id: str, uses: str) -> Flow:
        file = Path(self.path) if self.path else None
        base = Path(self.base) if self.base else (file.parent if file else None)
        path = locate_subgraph(uses, file, base, ())
        text = read_graph_file(path).decode("utf-8-sig")
        prefix = f"{node_id}/"
        models = {name.removeprefix(prefix): model for name, model in self.models.items() if name.startswith(prefix)}
        return Flow(graph=text, path=str(path), base=str(base), runnables=self.runnables, models=models)

    # What the graph is

    @property
    def checked(self) -> CheckedGraph:
        """The checked graph: nodes, ways, roles, which answers stream live."""
        return self._engine.checked

    @property
    def resources(self) -> FlowResources:
        """Models, runnables and nodes of this flow."""
        return self._engine.resources

    @property
    def trace_file(self) -> TraceFile | None:
        """Where records go, if anywhere."""
        return self._engine.trace_file

    @property
    def source_text(self) -> str:
        """The graph's text as it was given, which may hold keys: for flows of this process that are made of it."""
        return self._text

    @property
    def day(self) -> DayAllowance | None:
        """What all its requests of a day may spend together; None without such a limit."""
        return self._engine.day

    @property
    def graph_hash(self) -> str:
        """What the graph is known by in records, batches and calibrations (`dynflow.hashes.graph_hash`)."""
        return self._engine.graph_hash

    @property
    def calibration(self) -> Calibration | None:
        """What the params were calibrated to, where a calibration file beside the graph's was applied."""
        return self._calibration

    @property
    def warnings(self) -> list[Problem]:
        """What `dynflow check` would warn of."""
        return [problem for problem in self.checked.source.sorted() if problem.severity == "warning"]

    @functools.cached_property
    def params(self) -> Mapping[str, ParamBody]:
        """Every param that `config["configurable"]` may set; those of sub-graphs as `node/param`."""
        defaults = self._engine.defaults
        found = {
            name: body if defaults[name] == body.default else body.model_copy(update={"default": defaults[name]})
            for name, body in self.checked.spec.params.items()
        }
        for name in self.checked.nodes:
            inner = self.resources.cold_node(name).inner_params()
            found.update({f"{name}/{param}": body for param, body in inner.items()})
        return found

    def warm_up(self) -> None:
        """Load every node now instead of at its first request."""
        for name in self.checked.nodes:
            self.resources.node(name)

    def close(self) -> None:
        """Free what was loaded; the next request loads it anew."""
        self.resources.close()

    # Runnable

    @override
    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        return super().get_name(suffix, name=name or self.name or self.checked.spec.name or "Flow")

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
        if self.checked.spec.inputs:
            return dict[str, Any]
        return str | PromptValue | list[BaseMessage] | dict[str, Any]

    @property
    @override
    def OutputType(self) -> Any:
        kinds = dict.fromkeys(self.checked.nodes[name].answer_type for name in self.checked.answers)
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
        return self._call_with_config(self._engine.invoke, input, config, **_call_options(kwargs))

    @override
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        call = self._acall_with_config(self._engine.ainvoke, input, config, **_call_options(kwargs))
        return await cancelled_once(call)

    def run(self, input: Any, config: RunnableConfig | None = None) -> FlowResult[Any]:
        """The answer with its trace and ledger, whatever the answer's type."""
        results: list[FlowResult[Any]] = []
        self._call_with_config(self._engine.invoke, input, config, results=results)
        return results[0]

    async def arun(self, input: Any, config: RunnableConfig | None = None) -> FlowResult[Any]:
        """The same, async."""
        results: list[FlowResult[Any]] = []
        await cancelled_once(self._acall_with_config(self._engine.ainvoke, input, config, results=results))
        return results[0]

    async def arun_node(
        self,
        node: str,
        input: Any,
        config: RunnableConfig | None = None,
        *,
        states: Mapping[str, State] | None = None,
        budget: Budget | None = None,
    ) -> NodeResult:
        """One node on a request, outside any walk: what it would give there. Its failure is part of the result.

        `states` are of nodes that its options refer to; `budget` is one around the request's own limits.
        Raises `InputError` and `ParamError`.
        """
        results: list[NodeResult] = []
        run = functools.partial(self._engine.arun_node, node=node, states=states or {}, budget=budget, results=results)
        await cancelled_once(self._acall_with_config(run, input, config))
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
            self._engine.batch, inputs, config, return_exceptions=return_exceptions, **_call_options(kwargs)
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
        call = self._abatch_with_config(
            self._engine.abatch, inputs, config, return_exceptions=return_exceptions, **_call_options(kwargs)
        )
        return await cancelled_once(call)

    @override
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield from self.transform(iter([input]), config, **kwargs)

    @override
    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        async def once() -> AsyncIterator[Any]:
            yield input

        async with aclosing(self.atransform(once(), config, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    @override
    def transform(self, input: Iterator[Any], config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield from self._transform_stream_with_config(input, self._engine.transform, config, **_call_options(kwargs))

    @override
    async def atransform(
        self, input: AsyncIterator[Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        chunks = astream_in_run(self, input, self._engine.atransform, config, _call_options(kwargs))
        async with aclosing(chunks) as running:
            async for chunk in running:
                yield chunk

    @override
    def __repr_args__(self) -> Any:
        # Neither the text, which may hold a key, nor what the host handed over.
        yield "name", self.get_name()
        yield "path", self.path

    # Faces

    def as_chat_model(self) -> FlowChatModel:
        """This flow as a LangChain chat model: `bind_tools`, `with_structured_output`, agents.

        Raises `GraphError` where an answer is no message, or a key under `inputs:` has no default.
        """
        from dynflow.chat_model import FlowChatModel

        return FlowChatModel(flow=self)

    def to_tool(self, name: str | None = None, description: str | None = None) -> FlowTool:
        """This flow as a tool for agents: text for the agent, the decision record as artifact.

        `name` and `description` tell the agent what it is for; by default the graph's own. Raises `InputError` where
        there is none, or the name is none that models take.
        """
        from dynflow.tool import make_tool

        return make_tool(self, name, description)

    # Pickling: the text, without its keys, is the whole; all else is made from it again, sub-graphs from their files.

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        names = ("path", "base", "runnables", "models", "trace", "name")
        fields = {name: getattr(self, name) for name in names}
        return _remake, (self.graph, fields)

    @override
    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Flow:
        """Compiled anew; what the host handed over is shared."""
        make, (_, fields) = self.__reduce__()
        copied: Flow = make(self._text, fields)
        return copied


def _remake(graph: str, fields: dict[str, Any]) -> Flow:
    return Flow(graph=graph, **fields)


def _call_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options of a call: `call_options`, which the chat face gives and sub-graphs pass on, and no other."""
    unknown = sorted(kwargs.keys() - {"call_options"})
    if unknown:
        names = ", ".join(unknown)
        text = f"a flow takes no options beside its input and config (got {names})"
        raise TypeError(f"{text}; give them to its models, or to `flow.as_chat_model()`")
    return kwargs
