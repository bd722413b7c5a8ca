"""A flow as a LangChain chat model: for agents, `with_structured_output`, and all that takes a `BaseChatModel`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config, get_config_list, merge_configs
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import model_validator
from typing_extensions import override

from dynflow.call_options import read_call_options
from dynflow.closing import aclosing, closing
from dynflow.eligible import need_open_defaults
from dynflow.errors import GraphError, NodeFailed
from dynflow.flow import Flow
from dynflow.request import estimate_tokens
from dynflow.structured_output import Method, structured_output
from dynflow.trace import HELD_TAG

_NO_MESSAGE = (
    "the answer {!r} gives {}, and a chat model answers with messages: "
    "drop its `labels` or `output`, or give it `role: signal`"
)
_NOT_GIVEN = "whoever calls a chat model cannot give the input {!r}: give it a `default:`"


class FlowChatModel(BaseChatModel):
    """A flow that stands in for a chat model; `Flow.as_chat_model` makes it.

    Every call style walks the graph once. The runs that callbacks see are the flow's own, with the model runs inside,
    so that each token is told of, and counted, once. Call options (also by `bind`): those of
    `dynflow.call_options`; they go to the nodes that answer, never to signals. The message's `usage_metadata` is the
    answer's own; all that the request used stands in `response_metadata["dynflow"]["ledger"]`.

    Raises TypeError for an unknown call option, and what the flow raises. LangChain's cache serves the models inside.
    """

    flow: Flow

    @model_validator(mode="after")
    def _is_a_chat(self) -> Self:
        """Raises GraphError where the graph cannot stand in for a chat model."""
        checked, place_of = self.flow.checked, self.flow.checked.source.place_of
        faults = [
            checked.source.problem("mixed_answers", _NO_MESSAGE.format(name, kind.__name__), place_of(("nodes", name)))
            for name in checked.answers
            if not issubclass(AIMessage, kind := checked.nodes[name].answer_type)
        ]
        faults += [
            checked.source.problem("bad_value", _NOT_GIVEN.format(name), place_of(("inputs", name)))
            for name, body in checked.spec.inputs.items()
            if body.default is None
        ]
        if faults:
            raise GraphError(faults)
        if self.cache not in (None, False):
            raise ValueError("a flow keeps no cache: give it to the models inside, or set LangChain's global one")
        return self

    # What it is

    @property
    @override
    def _llm_type(self) -> str:
        return "dynflow"

    @property
    @override
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"graph": self.flow.get_name(), "graph_hash": self.flow.graph_hash}

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        named = {"model": self.flow.get_name(), **kwargs}
        return super()._get_ls_params(stop=stop, **named) | LangSmithParams(ls_provider="dynflow")

    @override
    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        return self.flow.get_name(suffix, name=name or self.name)

    @classmethod
    @override
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    @override
    def get_lc_namespace(cls) -> list[str]:
        return ["dynflow", "chat_model"]

    @override
    def get_num_tokens(self, text: str) -> int:
        """An estimate: which tokenizer counts is not known before the graph was walked."""
        return estimate_tokens(text)

    # Calling it

    @override
    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        options = self._options(stop, kwargs)
        if self.rate_limiter is not None:
            self.rate_limiter.acquire(blocking=True)
        return _message(self.flow.invoke(input, self._configured(config), call_options=options))

    @override
    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        options = self._options(stop, kwargs)
        if self.rate_limiter is not None:
            await self.rate_limiter.aacquire(blocking=True)
        return _message(await self.flow.ainvoke(input, self._configured(config), call_options=options))

    @override
    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        if self._streaming_disabled(**kwargs):
            yield _as_chunk(self.invoke(input, config, stop=stop, **kwargs))
            return
        options = self._options(stop, kwargs)
        if self.rate_limiter is not None:
            self.rate_limiter.acquire(blocking=True)
        with closing(self.flow.stream(input, self._configured(config), call_options=options)) as chunks:
            for chunk in chunks:
                yield _as_chunk(chunk)

    @override
    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        if self._streaming_disabled(**kwargs):
            yield _as_chunk(await self.ainvoke(input, config, stop=stop, **kwargs))
            return
        options = self._options(stop, kwargs)
        if self.rate_limiter is not None:
            await self.rate_limiter.aacquire(blocking=True)
        async with aclosing(self.flow.astream(input, self._configured(config), call_options=options)) as chunks:
            async for chunk in chunks:
                yield _as_chunk(chunk)

    @override
    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        options = self._options(kwargs.pop("stop", None), kwargs)
        configs = [self._configured(each) for each in get_config_list(config, len(inputs))]
        if self.rate_limiter is not None:
            for _ in inputs:
                self.rate_limiter.acquire(blocking=True)
        results = self.flow.batch(inputs, configs, return_exceptions=return_exceptions, call_options=options)
        return [_message_or_error(result) for result in results]

    @override
    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        options = self._options(kwargs.pop("stop", None), kwargs)
        configs = [self._configured(each) for each in get_config_list(config, len(inputs))]
        if self.rate_limiter is not None:
            for _ in inputs:
                await self.rate_limiter.aacquire(blocking=True)
        results = await self.flow.abatch(inputs, configs, return_exceptions=return_exceptions, call_options=options)
        return [_message_or_error(result) for result in results]

    @override
    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        config = _generate_config(callbacks, tags, metadata, run_name, run_id)
        return _llm_result([self.invoke(each, config, stop=stop, **kwargs) for each in messages])

    @override
    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        run_name: str | None = None,
        run_id: Any = None,
        **kwargs: Any,
    ) -> LLMResult:
        config = _generate_config(callbacks, tags, metadata, run_name, run_id)
        return _llm_result([await self.ainvoke(each, config, stop=stop, **kwargs) for each in messages])

    # What LangChain calls below a run that it made for this model: the runs inside tell of tokens and usage already

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        options = self._options(stop, kwargs)
        message = _message(self.flow.invoke(messages, _inside(run_manager), call_options=options))
        return ChatResult(generations=[ChatGeneration(message=_uncounted(message, run_manager))])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        options = self._options(stop, kwargs)
        message = _message(await self.flow.ainvoke(messages, _inside(run_manager), call_options=options))
        return ChatResult(generations=[ChatGeneration(message=_uncounted(message, run_manager))])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        options = self._options(stop, kwargs)
        with closing(self.flow.stream(messages, _inside(run_manager), call_options=options)) as chunks:
            for chunk in chunks:
                yield ChatGenerationChunk(message=_uncounted(_as_chunk(chunk), run_manager))

    @override
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        options = self._options(stop, kwargs)
        async with aclosing(self.flow.astream(messages, _inside(run_manager), call_options=options)) as chunks:
            async for chunk in chunks:
                yield ChatGenerationChunk(message=_uncounted(_as_chunk(chunk), run_manager))

    # Tools and structured output

    @override
    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to every answer that can call them; the edges to others are closed for such requests.

        `tool_choice` is LangChain's: `auto`, `any`, `none`, or a tool's name. Raises `NoEligibleAnswer` where a
        default edge would be closed, TypeError for an unknown call option.
        """
        offered = [convert_to_openai_tool(tool, strict=strict) for tool in tools]
        if offered:
            need_open_defaults(self.flow)
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=offered, **read_call_options(kwargs))

    @override
    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Method = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Answers that fit a schema: a pydantic class (then instances of it), a TypedDict or a JSON schema (dicts).

        `json_schema` asks for it in words, and has the servers that can bind the model to it; `function_calling` by a
        tool call, so it needs models with tools; `json_mode` only asks for JSON. `include_raw` gives a dict of `raw`,
        `parsed` and `parsing_error`. Raises TypeError for an unknown option, `NoEligibleAnswer` as `bind_tools` does.
        """
        return structured_output(self, schema, method, strict, include_raw, kwargs)

    def _options(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The options of one call; `stream` says to LangChain alone how to make it."""
        given = {name: value for name, value in kwargs.items() if name != "stream"}
        return read_call_options({"stop": stop, **given})

    def _configured(self, config: RunnableConfig | None) -> RunnableConfig:
        """The caller's config, with the callbacks, tags and metadata that this model was given."""
        own = RunnableConfig(callbacks=self.callbacks, tags=self.tags or [], metadata=self.metadata or {})
        return merge_configs(own, ensure_config(config))


def _message(value: Any) -> AIMessage:
    """A flow's answer as a message. Raises `NodeFailed` where it is neither one nor text."""
    if isinstance(value, str):
        return AIMessage(value)
    if not isinstance(value, AIMessage):
        raise NodeFailed(f"the answer is {type(value).__name__}; a chat model answers with messages")
    return value


def _message_or_error(result: Any) -> Any:
    return result if isinstance(result, Exception) else _message(result)


def _as_chunk(value: Any) -> AIMessageChunk:
    """A part of a flow's stream as a chunk. Raises `NodeFailed` as `_message` does."""
    if isinstance(value, AIMessageChunk):
        return value
    return AIMessageChunk(**_message(value).model_dump(exclude={"type"}))


def _inside(run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> RunnableConfig | None:
    """The config of a flow that runs below a run of the face's own, which passes the tokens on itself."""
    if run is None:
        return None
    below = AsyncCallbackManager if isinstance(run, AsyncCallbackManagerForLLMRun) else CallbackManager
    handlers, tags = run.inheritable_handlers, [*run.inheritable_tags, HELD_TAG]
    manager = below(
        handlers,
        handlers,
        parent_run_id=run.run_id,
        tags=tags,
        inheritable_tags=tags,
        metadata=run.inheritable_metadata,
        inheritable_metadata=run.inheritable_metadata,
    )
    return {"callbacks": manager}


def _uncounted(message: Any, run_manager: Any) -> Any:
    """The message as a run of the face's own may report it: the model runs inside have reported its usage."""
    return message if run_manager is None else message.model_copy(update={"usage_metadata": None})


def _generate_config(
    callbacks: Callbacks, tags: list[str] | None, metadata: dict[str, Any] | None, run_name: str | None, run_id: Any
) -> RunnableConfig:
    config = RunnableConfig(callbacks=callbacks, tags=tags or [], metadata=metadata or {})
    if run_name is not None:
        config["run_name"] = run_name
    if run_id is not None:
        config["run_id"] = run_id
    return config


def _llm_result(messages: Sequence[AIMessage]) -> LLMResult:
    return LLMResult(generations=[[ChatGeneration(message=message)] for message in messages])
