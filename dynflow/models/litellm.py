"""Chat with the hosted models that litellm reaches (wheel `litellm`): OpenAI, Anthropic, Gemini, and so on.

Our own thin adapter on `litellm.completion` and `acompletion`, because langchain-litellm leaves a stream's connection
open after `aclose()` (the provider goes on writing, and charging) and takes a stream that broke off for a finished
one. Here closing closes the connection, and a cut-off answer raises.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar

from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError
from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from dynflow.errors import MissingDependency, RefusedByModel
from dynflow.models.base import ProviderChat, openai_messages
from dynflow.models.failures import from_connection, from_status, not_sent, redact, unbilled
from dynflow.models.openai_format import Reader

_importing = threading.Lock()


class LiteLLMChat(ProviderChat):
    """A hosted model as chat model. `settings.model` is litellm's name, such as `openai/gpt-5-mini`.

    `settings.timeout` is what the HTTP client waits. Raises MissingDependency, RefusedByModel, ContextOverflowError,
    and the ModelError family; an answer whose stream ends without a finish reason raises ModelConnectionError, a
    server that cannot be connected to its subclass NotReached.
    """

    provider: ClassVar[str] = "litellm"

    def warm_up(self) -> None:
        """Import litellm, which takes seconds. Raises MissingDependency."""
        _library()

    def _generate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        litellm = _library()
        try:
            answer = litellm.completion(**self._request(messages, stop, kwargs))
        except Exception as error:
            raise self._failure(error) from None
        return self._whole(answer)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        litellm = _library()
        try:
            answer = await litellm.acompletion(**self._request(messages, stop, kwargs))
        except Exception as error:
            raise self._failure(error) from None
        return self._whole(answer)

    def _whole(self, answer: Any) -> ChatResult:
        reader = Reader(self.settings.model, self.provider)
        chunks = [reader.feed(answer.model_dump()), reader.end()]
        return generate_from_stream(iter([chunk for chunk in chunks if chunk is not None]))

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        litellm = _library()
        reader = Reader(self.settings.model, self.provider)
        stream = None
        try:
            stream = litellm.completion(**self._request(messages, stop, kwargs, stream=True))
            for event in stream:
                if (chunk := reader.feed(_as_sent(event, stream))) is not None:
                    yield chunk
        except Exception as error:
            raise self._failure(error) from None
        finally:
            _close(stream)
        yield reader.end()

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        litellm = _library()
        reader = Reader(self.settings.model, self.provider)
        stream = None
        try:
            stream = await litellm.acompletion(**self._request(messages, stop, kwargs, stream=True))
            async for event in stream:
                if (chunk := reader.feed(_as_sent(event, stream))) is not None:
                    yield chunk
        except Exception as error:
            raise self._failure(error) from None
        finally:
            if stream is not None:
                await stream.aclose()
        yield reader.end()

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any], stream: bool = False
    ) -> dict[str, Any]:
        """The arguments of one call. The layers beneath must not retry: they would do so unseen and unpriced."""
        settings = self.settings
        request = self._options(stop, kwargs)
        request.update(model=settings.model, messages=openai_messages(messages), num_retries=0, max_retries=0)
        if settings.api_key is not None:
            request["api_key"] = settings.api_key.get_secret_value()
        if settings.api_base is not None:
            request["api_base"] = settings.api_base
        if "tools" in request:
            request["_skip_mcp_handler"] = True  # else litellm wants the package `mcp` for any tool
        if stream:
            request.update(stream=True, stream_options={"include_usage": True})
        return request

    def _failure(self, error: Exception) -> Exception:
        """litellm's error as ours. Never chained: the original may hold the key, in its text or its request."""
        litellm = _library()
        if isinstance(error, litellm.exceptions.MidStreamFallbackError) and error.original_exception is not None:
            failure = self._failure(error.original_exception)
            vars(failure).pop("billed", None)  # part of an answer may have come before it
            return failure
        message = redact(str(error), self.settings)
        if isinstance(error, litellm.ContextWindowExceededError):
            return unbilled(ContextOverflowError(message))
        if isinstance(error, litellm.ContentPolicyViolationError):
            return RefusedByModel(message)
        if isinstance(error, litellm.Timeout):
            return unbilled(ModelTimeoutError(message)) if not_sent(error) else ModelTimeoutError(message)
        if isinstance(error, litellm.APIConnectionError) or _disconnected(error):
            return from_connection(error, message)
        return from_status(getattr(error, "status_code", None), message)


def _disconnected(error: BaseException | None) -> bool:
    """Whether the connection failed: litellm calls that a server error, but keeps the client's own beneath."""
    from openai import APIConnectionError, APITimeoutError

    while error is not None:
        if isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _as_sent(event: Any, stream: Any) -> dict[str, Any]:
    """The event without the finish reason that litellm makes up for a stream that broke off."""
    sent: dict[str, Any] = event.model_dump()
    if stream.received_finish_reason is None and stream.intermittent_finish_reason is None:
        for choice in sent.get("choices") or ():
            choice["finish_reason"] = None
    return sent


def _close(stream: Any) -> None:
    """Close a synchronous stream's connection; litellm's wrapper has no method for it."""
    close = getattr(getattr(stream, "completion_stream", None), "close", None)
    if close is not None:
        close()


@cache
def _library() -> Any:
    """Import litellm, quiet and self-contained: no price list from the network, no `.env` read, no banners."""
    with _importing:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        os.environ.setdefault("LITELLM_MODE", "PRODUCTION")
        os.environ.setdefault("LITELLM_DISABLE_BUG_REPORT_LINK", "true")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                litellm: Any = importlib.import_module("litellm")
                litellm.ModelResponse(), litellm.ModelResponseStream()  # pydantic builds them late, with warnings
        except ModuleNotFoundError as error:
            raise MissingDependency("litellm", 'pip install "dynflow[litellm]"') from error
        litellm.suppress_debug_info = True
        litellm.telemetry = False
        logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
        return litellm
