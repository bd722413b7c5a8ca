"""Chat with the models that an Ollama server runs (package `ollama`).

Our own thin adapter on `ollama.AsyncClient`. langchain-ollama 1.1.0, put before the same faults, closes its connection
as soon as it should, and reports errors in mid-stream; but it takes a stream that ends early for a finished answer,
raises the client's own errors in place of the ModelError family, and drops `tool_choice` in silence.
"""

from __future__ import annotations

import importlib
import json
import sys
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from types import ModuleType
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote

from langchain_core.exceptions import (
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelTimeoutError,
)
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from dynflow.errors import MissingDependency
from dynflow.models.failures import from_connection, from_status, misread, misreading, not_sent, unbilled
from dynflow.models.remote import CONNECT_SECONDS, SILENT_SECONDS, RemoteChat
from dynflow.models.secrets import address_parts, redact
from dynflow.models.sendable import check_key, check_options, sendable_messages

_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "num_predict",
    "stop": "stop",
    "seed": "seed",
    "draft_num_predict": "draft_num_predict",
}


class OllamaChat(RemoteChat):
    """A model of an Ollama server as chat model. `settings.model` is its name there, such as `llama3.2:1b`.

    `settings.api_base` is the server's address (default: $OLLAMA_HOST, else this machine's port 11434); `api_key`, if
    given, is sent as bearer token; `capabilities.context` sets the context window. Further call options: `tools`,
    `format` (`json` or a JSON schema), `think`, `keep_alive`, `draft_num_predict` (for models that come with a draft).
    Images go along as data URLs. Of `tool_choice` Ollama's protocol knows nothing: `auto` and `none` are kept, any
    other is refused.

    Raises MissingDependency and the ModelError family; a stream that breaks off raises ModelConnectionError,
    a server that cannot be connected to its subclass NotReached.
    """

    provider: ClassVar[str] = "ollama"

    def warm_up(self) -> None:
        """Import the client. The server loads the model itself at the first call. Raises MissingDependency."""
        _library()

    def _library_loaded(self) -> bool:
        return "ollama" in sys.modules

    async def _answer(
        self, messages: list[BaseMessage], options: dict[str, Any], stream: bool
    ) -> AsyncGenerator[ChatGenerationChunk]:
        finished = asked = False
        failure: Exception | None = None
        try:
            request = self._request(messages, options)
            async with self._client() as client, aclosing(await client.chat(**request)) as parts:
                asked = True
                async for part in parts:
                    finished = finished or bool(part.done)
                    yield self._chunk(part)
        except Exception as error:
            failure = self._failure(error, asked)
        if failure is not None:
            raise failure  # out here, where the original is no longer its context: that may hold the key
        if not finished:
            raise ModelConnectionError(f"the answer of {self.settings.model} was cut off: its stream ended early")

    def _client(self) -> AbstractAsyncContextManager[Any]:
        import httpx

        from dynflow.models.draining import drained

        library, settings = _library(), self.settings
        given: dict[str, Any] = {"host": settings.address, "headers": {}, "event_hooks": {"response": [drained]}}
        given["timeout"] = httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)
        address = address_parts(settings.address or "")
        if address.username is not None:
            given["auth"] = (unquote(address.username), unquote(address.password or ""))
        if address.query:
            given["params"] = dict(parse_qsl(address.query))
        if settings.api_key is not None:
            key = settings.api_key.get_secret_value()
            check_key(key, settings.model)
            given["headers"]["authorization"] = f"Bearer {key}"
        return self._clients.client(None, lambda: library.AsyncClient(**given))

    def _request(self, messages: Sequence[BaseMessage], given: dict[str, Any]) -> dict[str, Any]:
        """What to ask. It is always streamed: so a cancelled call stops the server's work too."""
        check_options({**given, "model": self.settings.model})
        options = {_OPTIONS[key]: given.pop(key) for key in _OPTIONS if key in given}
        if self.settings.capabilities.context is not None:
            options["num_ctx"] = self.settings.capabilities.context
        choice = given.pop("tool_choice", "auto")
        if choice == "none":
            given.pop("tools", None)
        elif choice != "auto":
            raise unbilled(
                ModelInvalidRequestError(
                    f"Ollama's protocol cannot oblige a model to call a tool (tool_choice is {choice!r}); "
                    "leave tool_choice at auto, or use a model of another provider"
                )
            )
        return {
            **given,
            "model": self.settings.model,
            "messages": [_message(message) for message in sendable_messages(messages)],
            "options": options,
            "stream": True,
        }

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
        if prompt or completion:
            message.usage_metadata = UsageMetadata(
                input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion
            )
        message.chunk_position = "last"
        about = {"model_name": self.settings.model, "model_provider": self.provider}
        return ChatGenerationChunk(
            message=message, generation_info={"finish_reason": part.done_reason or "stop", **about}
        )

    def _failure(self, error: Exception, asked: bool) -> Exception:
        """The client's error as ours, without its key. Once it was `asked`, what cannot be read is the answer."""
        import httpx

        if isinstance(error, ModelError):
            return error
        message = redact(str(error), self.settings)
        if isinstance(error, _library().ResponseError):
            return from_status(error.status_code if error.status_code > 0 else 500, message, error)
        if isinstance(error, httpx.TimeoutException):
            silent = ModelTimeoutError(f"{self.settings.model} was silent for too long")
            return unbilled(silent) if not_sent(error) else silent
        if isinstance(error, httpx.TransportError | ConnectionError):
            return from_connection(error, message)
        if asked and misreading(error) is error:
            return misread(self.settings, error)
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
            raise unbilled(ModelInvalidRequestError(f"Ollama takes text and images as data URLs, not {block['type']}"))
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
