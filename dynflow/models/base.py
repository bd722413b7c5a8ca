"""What the chat models of all providers share: settings, per-call options, tools, loading and closing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from dynflow.models.known import known
from dynflow.models.secrets import public_address
from dynflow.models.settings import ModelSettings
from dynflow.speculation.statistics import SPECULATION_KEY

_CALL_OPTIONS = ("temperature", "top_p", "max_tokens", "stop", "seed", "timeout")


class ProviderChat(BaseChatModel):
    """Base of dynflow's chat models. Constructing is cheap; `warm_up` loads, `close` frees, a call loads if it must.

    A provider writes `_stream` and `_astream`; the other two call styles collect these. Options come from the
    settings, and a call's keyword arguments override them. Nothing retries here: one call is one attempt.
    """

    provider: ClassVar[str]
    settings: ModelSettings
    base: Path | None = None  # what a relative path in `settings.model` counts from

    def warm_up(self) -> None:
        """Load what the first call would load."""

    def close(self) -> None:
        """Free what was loaded; a later call loads again."""

    @property
    def _llm_type(self) -> str:
        return f"dynflow-{self.provider}"

    @cached_property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What tells one model from another in caches: no secrets, and nothing that leaves the text unchanged."""
        named = self.settings.model_dump(include={"model", "revision", *_CALL_OPTIONS}, exclude={"timeout"})
        return {"provider": self.provider, "api_base": public_address(self.settings.address), **named}

    def _dict_for_compat(self) -> dict[str, Any]:
        """What LangChain tells of a model at the start of each run, without its way there: that changes the warning
        filters of the whole process, and CPython may crash where another thread reads them just then."""
        return self.asdict()

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """What LangChain's cache knows a call by: the time left for it, and what drafts it, make no other answer."""
        kwargs = {name: value for name, value in kwargs.items() if name not in ("timeout", SPECULATION_KEY)}
        return super()._get_llm_string(stop=stop, **kwargs)

    def _resolve_model_profile(self) -> ModelProfile | None:
        """What LangChain, its agents and middleware want to know of a model; what is unknown is left out."""
        told = known(self.settings).capabilities
        about = {
            "max_input_tokens": told.context,
            "tool_calling": told.tools,
            "image_inputs": told.images,
            "audio_inputs": told.audio,
        }
        found = {name: value for name, value in about.items() if value is not None}
        return ModelProfile(text_inputs=True, text_outputs=True, **found) if found else None  # type: ignore[typeddict-item]

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        options = self._options(stop, kwargs)
        params["ls_provider"], params["ls_model_name"] = self.provider, self.settings.model
        if "temperature" in options:
            params["ls_temperature"] = options["temperature"]
        if "max_tokens" in options:
            params["ls_max_tokens"] = options["max_tokens"]
        return params

    def _options(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The options of one call: what the settings say, overridden by what the call says; unset ones left out."""
        options = {key: getattr(self.settings, key) for key in _CALL_OPTIONS}
        if stop is not None:
            options["stop"] = stop
        options.update(kwargs)
        options["stop"] = [text for text in options["stop"] or () if text] or None
        return {key: value for key, value in options.items() if value is not None}

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        stream: Iterator[ChatGenerationChunk] = self._stream(messages, stop, **kwargs)
        return generate_from_stream(stream)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        stream: AsyncIterator[ChatGenerationChunk] = self._astream(messages, stop, **kwargs)
        return await agenerate_from_stream(stream)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model. `tool_choice`: `auto`, `none`, `any` (also `required`, True), or a tool's name.

        Raises NotImplementedError for a model that is known not to call tools.
        """
        if known(self.settings).capabilities.tools is False:
            raise NotImplementedError(f"{self.settings.model} cannot call tools")
        offered = [convert_to_openai_tool(tool) for tool in tools]
        if tool_choice is not None:
            kwargs["tool_choice"] = _tool_choice(tool_choice)
        return self.bind(tools=offered, **kwargs)


def _tool_choice(choice: str | dict[str, Any] | bool) -> str | dict[str, Any]:
    """LangChain's ways of naming a tool choice, as the OpenAI protocol writes them."""
    if isinstance(choice, bool):
        return "required" if choice else "auto"
    if isinstance(choice, dict) or choice in ("auto", "none", "required"):
        return choice
    return "required" if choice == "any" else {"type": "function", "function": {"name": choice}}


def openai_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages in the OpenAI protocol's form; content stays a text where it is one."""
    converted = convert_to_openai_messages(list(messages), text_format="string")
    return converted if isinstance(converted, list) else [converted]
