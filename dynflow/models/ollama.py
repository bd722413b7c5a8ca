"""Chat with the models that an Ollama server runs (package `ollama`)."""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

from langchain_core.exceptions import ModelConnectionError, ModelInvalidRequestError, ModelTimeoutError
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from dynflow.errors import MissingDependency
from dynflow.models.base import ProviderChat, openai_messages
from dynflow.models.failures import from_connection, from_status, not_sent, redact, unbilled

_OPTIONS = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "num_predict", "stop": "stop", "seed": "seed"}


class OllamaChat(ProviderChat):
    """A model of an Ollama server as chat model. `settings.model` is its name there, such as `llama3.2:1b`.

    `settings.api_base` is the server's address (default: $OLLAMA_HOST, else this machine's port 11434); `api_key`, if
    given, is sent as bearer token; `capabilities.context` sets the context window. Further call options: `tools`,
    `format` (`json` or a JSON schema), `think`, `keep_alive`. Images go along as data URLs.

    Raises MissingDependency and the ModelError family; a stream that breaks off raises ModelConnectionError,
    a server that cannot be connected to its subclass NotReached.
    """

    provider: ClassVar[str] = "ollama"

    def warm_up(self) -> None:
        """Import the client. The server loads the model itself at the first call. Raises MissingDependency."""
        _library()

    def _stream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        library = _library()
        connection, request = self._request(messages, stop, kwargs)
        finished = False
        try:
            with library.Client(**connection) as client:
                for part in client.chat(**request):
                    finished = finished or bool(part.done)
                    yield self._chunk(part)
        except Exception as error:
            raise self._failure(error, connection["timeout"]) from None
        if not finished:
            raise self._cut_off()

    async def _astream(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        library = _library()
        connection, request = self._request(messages, stop, kwargs)
        finished = False
        try:
            async with library.AsyncClient(**connection) as client:
                parts = await client.chat(**request)
                try:
                    async for part in parts:
                        finished = finished or bool(part.done)
                        yield self._chunk(part)
                finally:
                    await parts.aclose()
        except Exception as error:
            raise self._failure(error, connection["timeout"]) from None
        if not finished:
            raise self._cut_off()

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """How to connect, and what to ask."""
        settings = self.settings
        given = self._options(stop, kwargs)
        connection: dict[str, Any] = {"host": settings.api_base, "timeout": given.pop("timeout", None)}
        if settings.api_key is not None:
            connection["headers"] = {"authorization": f"Bearer {settings.api_key.get_secret_value()}"}
        options = {_OPTIONS[key]: given.pop(key) for key in _OPTIONS if key in given}
        if settings.capabilities.context is not None:
            options["num_ctx"] = settings.capabilities.context
        given.pop("tool_choice", None)  # Ollama's protocol has none
        request = {
            "model": settings.model,
            "messages": [_message(message) for message in openai_messages(messages)],
            **given,
        }
        return connection, {**request, "options": options, "stream": True}

    def _chunk(self, part: Any) -> ChatGenerationChunk:
        said = part.message
        calls = [
            tool_call_chunk(
                name=call.function.name, args=json.dumps(call.function.arguments), id=uuid.uuid4().hex, index=None
            )
            for call in said.tool_calls or ()
        ]
        message = AIMessageChunk(content=said.content or "", tool_call_chunks=calls)
        if said.thinking:
            message.additional_kwargs["reasoning_content"] = said.thinking
        if not part.done:
            return ChatGenerationChunk(message=message)
        prompt, completion = part.prompt_eval_count or 0, part.eval_count or 0
        message.usage_metadata = UsageMetadata(
            input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion
        )
        message.chunk_position = "last"
        about = {"model_name": self.settings.model, "model_provider": self.provider}
        return ChatGenerationChunk(
            message=message, generation_info={"finish_reason": part.done_reason or "stop", **about}
        )

    def _cut_off(self) -> ModelConnectionError:
        return ModelConnectionError(f"the answer of {self.settings.model} was cut off: its stream ended early")

    def _failure(self, error: Exception, timeout: float | None) -> Exception:
        """The client's error as ours; not chained, for its request holds the key."""
        import httpx

        message = redact(str(error), self.settings)
        if isinstance(error, _library().ResponseError):
            return from_status(error.status_code if error.status_code > 0 else 500, message)
        if isinstance(error, httpx.TimeoutException):
            silent = ModelTimeoutError(f"{self.settings.model} was silent for {timeout:g} s")
            return unbilled(silent) if not_sent(error) else silent
        if isinstance(error, httpx.TransportError | ConnectionError):
            return from_connection(error, message)
        if isinstance(error, json.JSONDecodeError):
            return from_status(502, f"the answer of {self.settings.model} is not the protocol's: {message}")
        return ModelInvalidRequestError(message) if isinstance(error, ValueError | TypeError) else error


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of the OpenAI protocol as Ollama writes it. Raises ModelInvalidRequestError beyond text and images."""
    content = message.get("content") or ""
    blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts, images = [], []
    for block in blocks:
        if block["type"] == "text":
            texts.append(block["text"])
        elif block["type"] == "image_url" and block["image_url"]["url"].startswith("data:"):
            images.append(block["image_url"]["url"].partition(",")[2])
        else:
            raise ModelInvalidRequestError(f"Ollama takes text and images as data URLs, not {block['type']}")
    converted: dict[str, Any] = {"role": message["role"], "content": "\n".join(texts)}
    if images:
        converted["images"] = images
    if calls := message.get("tool_calls"):
        converted["tool_calls"] = [
            {"function": {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in calls
        ]
    if message.get("name"):
        converted["tool_name"] = message["name"]
    return converted


def _library() -> ModuleType:
    try:
        return importlib.import_module("ollama")
    except ModuleNotFoundError as error:
        raise MissingDependency("ollama", 'pip install "dynflow[ollama]"') from error
