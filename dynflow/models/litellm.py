"""Chat with the hosted models that litellm reaches (wheel `litellm`): OpenAI, Anthropic, Gemini, and so on.

Our own thin adapter on `litellm.acompletion`. langchain-litellm 0.11.2, put before the same faults, leaves a stream's
connection open after `close()` and `aclose()` (the provider goes on writing, and charging), takes a stream that ends
early for a finished answer, sends a failed request up to three times though `max_retries` is 0, and raises litellm's
own errors. Here closing closes the connection, a cut-off answer raises, and one call is one request.

litellm keeps a client for each event loop, and for each value of `timeout`: left to itself it would make a new one,
and connect anew, for every request with a deadline. So `timeout` stays with us (see `RemoteChat`), and for the OpenAI
protocol we hand litellm a client of our own, which closes with the model. For other protocols litellm's own clients
serve; it closes them an hour after they were made.
"""

from __future__ import annotations

import base64
import importlib
import json
import logging
import os
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from functools import cache, cached_property
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelError,
    ModelInvalidRequestError,
    ModelTimeoutError,
)
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk

from dynflow.closing import aclosing
from dynflow.errors import MissingDependency, RefusedByModel
from dynflow.models.background import in_background
from dynflow.models.draining import drain, drained
from dynflow.models.failures import beneath, from_connection, from_status, misread, misreading, not_sent, unbilled
from dynflow.models.openai_format import Reader
from dynflow.models.remote import CONNECT_SECONDS, SILENT_SECONDS, RemoteChat
from dynflow.models.secrets import public_address, redact
from dynflow.models.sendable import check_key, check_options, sendable_messages

_importing = threading.Lock()
_LISTENERS = ("callbacks", "success_callback", "_async_success_callback", "cache", "max_budget")
"""What of litellm's hears of a call that has succeeded."""


class LiteLLMChat(RemoteChat):
    """A hosted model as chat model. `settings.model` is litellm's name, such as `openai/gpt-5-mini`.

    Raises MissingDependency, RefusedByModel, ContextOverflowError, and the ModelError family; an answer whose stream
    ends without a finish reason raises ModelConnectionError, a server that cannot be connected to its subclass
    NotReached.
    """

    provider: ClassVar[str] = "litellm"

    def warm_up(self) -> None:
        """Import litellm, which takes seconds. Raises MissingDependency."""
        library()

    def _library_loaded(self) -> bool:
        return library.cache_info().currsize > 0

    async def _answer(
        self, messages: list[BaseMessage], options: dict[str, Any], stream: bool
    ) -> AsyncGenerator[ChatGenerationChunk]:
        reader = Reader(self.settings.model, self.provider)
        failure: Exception | None = None
        built = threading.Event()
        if in_background():
            _keep_worker_away()
        try:
            check_key(self._key, self.settings.model)
            async with self._client() as client:
                heard = _heard()

                def sending(details: dict[str, Any]) -> None:
                    """What litellm calls when the request is built, just before it is sent."""
                    built.set()
                    if not heard:  # then our ledger alone wants a price, and litellm need not look one up, at length
                        details["cache_hit"] = True

                with nullcontext() if heard else _unlogged():
                    answer = await library().acompletion(
                        **self._request(messages, options, stream, client), logger_fn=sending
                    )
                if not stream:
                    last = reader.whole(answer.model_dump())
                else:
                    try:
                        async for event in _events(answer):
                            if (chunk := reader.feed(event)) is not None:
                                yield chunk
                    finally:
                        await answer.aclose()
                    last = reader.end()
        except Exception as error:
            failure = self._failure(error, built.is_set())
        if failure is not None:
            raise failure  # out here, where the original is no longer its context: that may hold the key
        yield last

    @property
    def _key(self) -> str | None:
        return self.settings.api_key.get_secret_value() if self.settings.api_key is not None else None

    @cached_property
    def _speaks_openai(self) -> bool:
        return bool(library().get_llm_provider(self.settings.model, api_base=self.settings.address)[1] == "openai")

    def _client(self) -> AbstractAsyncContextManager[Any]:
        """A client of our own for the OpenAI protocol; None where litellm's serve."""
        settings = self.settings
        if not self._speaks_openai:
            return nullcontext()
        from litellm.llms.openai.common_utils import get_openai_credentials

        base, key, organization = get_openai_credentials(settings.address, self._key)
        if key is None and settings.address is None:
            raise unbilled(
                ModelAuthenticationError(
                    f"{settings.model} needs a key: give it `api_key: ${{env:NAME}}`, or export OPENAI_API_KEY=…"
                )
            )
        check_key(key, settings.model)  # it may be the environment's
        return self._clients.client((base, key, organization), lambda: openai_client(base, key, organization))

    def _request(
        self, messages: Sequence[BaseMessage], options: dict[str, Any], stream: bool, client: Any
    ) -> dict[str, Any]:
        """The arguments of one call. The layers beneath must not retry: they would do so unseen and unpriced."""
        settings = self.settings
        request = {**options, "model": settings.model}
        check_options(request)
        request["messages"] = sendable_messages(messages)
        request.update(num_retries=0, max_retries=0, timeout=_limits())
        if client is not None:
            request["client"] = client
        if self._key is not None:
            request["api_key"] = self._key
        if settings.address is not None:
            request["api_base"] = settings.address if client is None else str(client.base_url)
        if "tools" in request:
            request["_skip_mcp_handler"] = True  # else litellm wants the package `mcp` for any tool
        if stream:
            request.update(stream=True, stream_options={"include_usage": True})
        return request

    def _failure(self, error: Exception, built: bool) -> Exception:
        """litellm's error as ours, without its key. Until the request is `built`, nothing was sent."""
        litellm = library()
        if isinstance(error, ModelError):
            return error
        if isinstance(error, litellm.exceptions.MidStreamFallbackError) and error.original_exception is not None:
            failure = self._failure(error.original_exception, built)
            vars(failure).pop("billed", None)  # part of an answer may have come before it
            return failure
        if built and not _told(error):
            cause = misreading(error)
            if cause is not None or self._speaks_openai:  # litellm's words would repeat the answer
                return misread(self.settings, cause)
        message = redact(str(error), self.settings)
        if isinstance(error, litellm.ContextWindowExceededError):
            return unbilled(ContextOverflowError(message))
        if isinstance(error, litellm.ContentPolicyViolationError):
            return unbilled(RefusedByModel(message))
        if isinstance(error, litellm.Timeout):
            return unbilled(ModelTimeoutError(message)) if not_sent(error) else ModelTimeoutError(message)
        if _unbuildable(error, built):
            return unbilled(ModelInvalidRequestError(message))
        import httpx

        if isinstance(error, httpx.TimeoutException):
            return ModelTimeoutError(f"{self.settings.model} was silent for too long")
        if isinstance(error, litellm.APIConnectionError | httpx.TransportError) or _disconnected(error):
            return from_connection(error, message)
        return from_status(getattr(error, "status_code", None), message, error)


def openai_client(base: str, key: str | None, organization: str | None) -> Any:
    """A client of the OpenAI protocol. What its address holds of credentials goes where no log shows it."""
    import openai

    address = urlsplit(base)
    headers = {}
    if address.username is not None:
        pair = f"{unquote(address.username)}:{unquote(address.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return openai.AsyncOpenAI(
        api_key=key or "none",  # a server of one's own may want no key, but this client does
        base_url=public_address(base),
        organization=organization,
        default_headers=headers,
        default_query=dict(parse_qsl(address.query)),
        http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [drained]}),
        max_retries=0,
    )


def _limits() -> Any:
    """The client's own time limits: the same for all calls, for litellm makes a client for each that it meets."""
    import httpx

    return httpx.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS)


def _disconnected(error: BaseException) -> bool:
    """Whether the connection failed: litellm calls that a server error, but keeps the client's own beneath."""
    from openai import APIConnectionError, APITimeoutError

    return any(
        isinstance(each, APIConnectionError) and not isinstance(each, APITimeoutError) for each in beneath(error)
    )


def _unbuildable(error: BaseException, built: bool) -> bool:
    """Whether litellm found no form for the request, or its client none on the wire: a header beyond ASCII, say."""
    errors = list(beneath(error))
    if any(isinstance(each, UnicodeEncodeError) for each in errors):
        return True
    if built or getattr(error, "status_code", 500) < 500 or _disconnected(error):
        return False
    return isinstance(errors[-1], ValueError | TypeError | LookupError | AttributeError)


def _told(error: BaseException) -> bool:
    """Whether the server said, or the connection showed, what is wrong: litellm's own errors have theirs beneath."""
    import httpx

    return any(
        isinstance(each, httpx.HTTPError | OSError) or type(each).__module__.partition(".")[0] in ("openai", "aiohttp")
        for each in beneath(error)
    )


def _keep_worker_away() -> None:
    """Keep litellm's logging worker off this event loop, for the rest of this task.

    There is one worker in a process, and litellm moves it to whichever loop called last; left behind on a loop that
    lives on, it ends with "Task was destroyed but it is pending!". So litellm's own callbacks hear of asynchronous
    calls only; LangChain's hear of all.
    """
    with suppress(ImportError, AttributeError):
        importlib.import_module("litellm._internal_context").is_internal_call.set(True)


def _heard() -> bool:
    """Whether anything in this process wants litellm's own log of calls, which costs as much CPU as sending one."""
    listeners = (getattr(library(), name, True) for name in _LISTENERS)
    # Its Gemini client enters "cache" among the callbacks: that is `litellm.cache`, which has a place of its own here.
    return any(each and each != ["cache"] for each in listeners)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep litellm from logging the asynchronous call that is made in the block."""
    try:
        internal = importlib.import_module("litellm._internal_context").is_internal_call
    except (ImportError, AttributeError):
        yield
        return
    token = internal.set(True)
    try:
        yield
    finally:
        internal.reset(token)


def _events(answer: Any) -> AsyncIterator[dict[str, Any]]:
    """A stream's events, in the OpenAI protocol."""
    import openai

    stream = getattr(answer, "completion_stream", None)
    if not isinstance(stream, openai.AsyncStream) or _heard():  # other protocols' streams have a `response` too
        return _as_told(answer)
    plain = "text/event-stream" in stream.response.headers.get("content-type", "")
    return _as_sent(stream.response) if plain else _as_told(answer)


async def _as_sent(response: Any) -> AsyncIterator[dict[str, Any]]:
    """The events as the server sent them. litellm's own reading, of which we need nothing, takes longer than all else
    in a call; and like the openai package's it leaves generators behind half read, each of which becomes a task.

    Raises what httpx does, JSONDecodeError, and openai's APIError for an event that tells of one.
    """
    import httpx_sse
    import openai

    response.encoding = "utf-8-sig"  # an event stream's always is, perhaps with a mark; some servers state another
    async with aclosing(httpx_sse.EventSource(response).aiter_sse()) as events:
        async for event in events:
            if event.data.startswith("[DONE]"):
                await drain(events)
                return
            if not event.data:
                continue
            sent = json.loads(event.data)
            if not isinstance(sent, dict):
                raise json.JSONDecodeError("no object", event.data, 0)
            if told := sent.get("error"):
                words = told.get("message") if isinstance(told, dict) else None
                raise openai.APIError(str(words or told), request=response.request, body=told)
            yield sent


async def _as_told(answer: Any) -> AsyncIterator[dict[str, Any]]:
    """The events as litellm tells them, without what it makes up: the finish reason of a stream that broke off, and a
    count of tokens where the server sent none."""
    async for event in answer:
        told: dict[str, Any] = event.model_dump()
        if answer.received_finish_reason is None and answer.intermittent_finish_reason is None:
            for choice in told.get("choices") or ():
                choice["finish_reason"] = None
        if told.get("usage") and all(getattr(chunk, "usage", None) is None for chunk in answer.chunks):
            del told["usage"]
        yield told


@cache
def library() -> Any:
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
