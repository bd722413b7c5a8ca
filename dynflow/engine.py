"""The drivers: sync, async, streamed and batched, each thin over the one walk."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig

from dynflow.batch import abatch_sessions, batch_sessions
from dynflow.budgets import Budget, standing_limits
from dynflow.chunks import add_up
from dynflow.closing import aclosing, closing
from dynflow.errors import ParamError
from dynflow.gathering import arun_gathered
from dynflow.graph import CheckedGraph
from dynflow.hashes import graph_hash
from dynflow.ledger import Ledger
from dynflow.node import Output
from dynflow.recording import Recording
from dynflow.request import Request
from dynflow.resources import FlowResources
from dynflow.running import Runner
from dynflow.session import Session
from dynflow.trace import METADATA_KEY, FlowResult, Trace
from dynflow.trace_file import TraceFile
from dynflow.visit import Completed, Enclosing
from dynflow.walk import State

Manager = CallbackManagerForChainRun | AsyncCallbackManagerForChainRun
ENCLOSING_KEY = "__dynflow_enclosing"
"""Key of `config["configurable"]` under which a sub-graph finds what it shares; never in the public schema."""
CALLER_KEY = "__dynflow_caller"
"""Key under which a flow's tool, called by the code of another flow's node, finds how to share that node's request."""


class Driver:
    """A method with its signature at hand: LangChain asks for it twice a call, and asking is slow."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self._method = method
        self.__signature__ = inspect.signature(method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **kwargs)


@dataclass(frozen=True)
class NodeResult:
    """How one node, run alone, ended."""

    output: Output | None
    error: Exception | None
    states: Mapping[str, State]
    """Of the node, of its members, and those that were given."""
    trace: Trace
    ledger: Ledger


class Engine:
    """What runs a checked graph, for all requests of one flow."""

    def __init__(
        self,
        checked: CheckedGraph,
        resources: FlowResources,
        file: Path | None,
        trace_file: TraceFile | None = None,
    ) -> None:
        self.checked = checked
        self.resources = resources
        self.trace_file = trace_file
        self.day, self.share = standing_limits(checked.spec.limits, file)
        self.defaults = {name: body.default for name, body in checked.spec.params.items()}
        self.invoke = Driver(self._invoke)
        self.ainvoke = Driver(self._ainvoke)
        self.transform = Driver(self._transform)
        self.atransform = Driver(self._atransform)

    @cached_property
    def graph_hash(self) -> str:
        """What the graph is known by, in records."""
        return graph_hash(self)

    def _recording(self, input: Any, manager: Manager) -> Recording:
        trace = Trace(self.checked.name, self.graph_hash, str(manager.run_id))
        return Recording(trace, manager.run_id, input, self.trace_file)

    @contextmanager
    def _request(
        self, input: Any, config: RunnableConfig, manager: Manager, call_options: Mapping[str, Any] | None
    ) -> Iterator[Runner]:
        """A request from its start to its end, however it ends: then its record is closed."""
        recording = self._recording(input, manager)
        try:
            yield self._open(input, config, manager, call_options, recording)
        except BaseException as error:
            recording.end(error)
            raise
        recording.end()

    def _open(
        self,
        input: Any,
        config: RunnableConfig,
        manager: Manager,
        call_options: Mapping[str, Any] | None,
        recording: Recording,
    ) -> Runner:
        """A session for one request. Raises `InputError` and `ParamError`."""
        spec = self.checked.spec
        configurable = config.get("configurable") or {}
        enclosing: Enclosing | None = configurable.get(ENCLOSING_KEY)
        if enclosing is not None:  # for this flow alone: another flow inside one of its nodes is on its own
            configurable = {key: value for key, value in configurable.items() if key != ENCLOSING_KEY}
            config = {**config, "configurable": configurable}
        session = Session(
            self.resources,
            Request(input, call_options=call_options, declared=spec.inputs),
            self._params(configurable),
            Budget(spec.limits, self.day, enclosing.budget if enclosing else None),
            configurable,
            enclosing,
            share=self.share,
            trace=recording.trace,
        )
        recording.session = session
        return Runner(self.resources, session, config, manager, recording)

    def _params(self, configurable: Mapping[str, Any]) -> Mapping[str, Any]:
        """The params of one request. Raises `ParamError`, also for a param of a sub-graph (`node/param`)."""
        if not configurable:
            return self.defaults
        params = dict(self.defaults)
        for name, value in configurable.items():
            node, _, inner = str(name).partition("/")
            if inner and node in self.checked.nodes:
                body = self.resources.cold_node(node).inner_params().get(inner)
            else:
                body = self.checked.spec.params.get(name)
            if body is None:
                continue  # somebody else's: a thread id, say
            try:
                checked = body.check(value)
            except ValueError as error:
                raise ParamError(f"param {name!r}: {error}") from None
            if name in params:
                params[name] = checked
        return params

    def _invoke(
        self,
        input: Any,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        results: list[FlowResult[Any]] | None = None,
        call_options: Mapping[str, Any] | None = None,
    ) -> Any:
        with self._request(input, config, run_manager, call_options) as runner:
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
        call_options: Mapping[str, Any] | None = None,
    ) -> Any:
        with self._request(input, config, run_manager, call_options) as runner:
            session = runner.session
            while (visit := session.next()) is not None:
                session.complete(visit, await arun_gathered(runner, visit))
            await runner.adecided()
            result = session.result()
        if results is not None:
            results.append(result)
        return result.value

    def _transform(
        self,
        input: Iterator[Any],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        call_options: Mapping[str, Any] | None = None,
    ) -> Iterator[Any]:
        emitted = False
        with self._request(add_up(list(input), ""), config, run_manager, call_options) as runner:
            session = runner.session
            while (visit := session.next()) is not None:
                if not visit.live:
                    session.complete(visit, runner.run(visit))
                    continue
                with closing(runner.stream(visit)) as items:
                    for item in items:
                        if isinstance(item, Completed):
                            session.complete(visit, item)
                        else:
                            emitted = True
                            yield _as_chunk(item)
            runner.decided()
            result = session.result()
        yield from _ending(result, emitted, nested=session.enclosing is not None)

    async def _atransform(
        self,
        input: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        call_options: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Any]:
        emitted = False
        whole = add_up([chunk async for chunk in input], "")
        with self._request(whole, config, run_manager, call_options) as runner:
            session = runner.session
            while (visit := session.next()) is not None:
                if not visit.live:
                    session.complete(visit, await runner.arun(visit))
                    continue
                async with aclosing(runner.astream(visit)) as items:
                    async for item in items:
                        if isinstance(item, Completed):
                            session.complete(visit, item)
                        else:
                            emitted = True
                            yield _as_chunk(item)
            await runner.adecided()
            result = session.result()
        for chunk in _ending(result, emitted, nested=session.enclosing is not None):
            yield chunk

    async def arun_node(
        self,
        input: Any,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        node: str,
        states: Mapping[str, State],
        budget: Budget | None,
        results: list[NodeResult],
    ) -> None:
        """One node alone, on no path: no edge is taken, nobody's share of the baseline is counted, no record written.

        `states` are of nodes that its options may read; `budget` is one around the request's own.
        """
        recording = Recording(Trace(self.checked.name, self.graph_hash), run_manager.run_id, input, None)
        configurable = config.get("configurable") or {}
        try:
            session = Session(
                self.resources,
                Request(input, declared=self.checked.spec.inputs),
                self._params(configurable),
                Budget(self.checked.spec.limits, self.day, budget),
                configurable,
                trace=recording.trace,
            )
            session.walk.states.update(states)
            recording.session = session
            visit = session.visit(node)
            done = await arun_gathered(Runner(self.resources, session, config, run_manager, recording), visit)
            session.complete(visit, done)
        except BaseException as error:
            recording.end(error)
            raise
        recording.end(done.error)
        results.append(NodeResult(done.output, done.error, session.walk.states, session.trace, session.ledger))

    def batch(
        self,
        inputs: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        call_options: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        runners = [self._try_open(*each, call_options) for each in zip(inputs, config, run_manager, strict=True)]
        results = batch_sessions(self.checked, runners, config[0].get("max_concurrency"))
        return [result.value if isinstance(result, FlowResult) else result for result in results]

    async def abatch(
        self,
        inputs: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        call_options: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        runners = [self._try_open(*each, call_options) for each in zip(inputs, config, run_manager, strict=True)]
        results = await abatch_sessions(self.checked, runners, config[0].get("max_concurrency"))
        return [result.value if isinstance(result, FlowResult) else result for result in results]

    def _try_open(
        self, input: Any, config: RunnableConfig, manager: Any, call_options: Mapping[str, Any] | None
    ) -> Runner | Exception:
        recording = self._recording(input, manager)
        try:
            return self._open(input, config, manager, call_options, recording)
        except Exception as error:
            recording.end(error)
            return error


def _ending(result: FlowResult[Any], emitted: bool, *, nested: bool) -> Iterator[Any]:
    """What goes out at the end of a stream: a held answer whole, or the record of a live one."""
    value = result.value
    if not emitted:
        yield _as_chunk(value)
    elif isinstance(value, AIMessage) and not nested:
        metadata = {METADATA_KEY: value.response_metadata[METADATA_KEY]}
        yield AIMessageChunk(content="", id=value.id, response_metadata=metadata, chunk_position="last")


def _as_chunk(value: Any) -> Any:
    """A whole message as a chunk, so that whoever adds up the stream gets it back; anything else as it is."""
    if not isinstance(value, AIMessage) or isinstance(value, AIMessageChunk):
        return value
    return AIMessageChunk(**value.model_dump(exclude={"type"}), chunk_position="last")
