"""A stream as one LangChain run, made in one task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForChainRun
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    patch_config,
    set_config_context,
)
from langchain_core.tracers._streaming import _StreamingCallbackHandler

from dynflow.chunks import add_up
from dynflow.closing import aclosing, each_cancelled_once, undisturbed


async def astream_in_run(
    runnable: Runnable[Any, Any],
    input: AsyncIterator[Any],
    make: Callable[..., AsyncIterator[Any]],
    config: RunnableConfig | None,
    options: Mapping[str, Any],
) -> AsyncIterator[Any]:
    """What `make(input, run_manager, config, **options)` makes, as a run of `runnable`; a cancellation reaches it once.

    It does what `Runnable._atransform_stream_with_config` does. That makes a task for each chunk, adds each to all
    before it, and has its cleaning up cut off where a task is cancelled again and again, as anyio does.
    """
    config = ensure_config(config)
    first = await anext(input, None)  # so that the run before this one starts before it
    manager: AsyncCallbackManagerForChainRun | None = None
    name, run_id = config.get("run_name") or runnable.get_name(), config.pop("run_id", None)

    async def start() -> None:
        nonlocal manager
        managers = get_async_callback_manager_for_config(config)
        manager = await managers.on_chain_start(None, {"input": ""}, name=name, run_id=run_id)

    try:
        await undisturbed(start())
    except asyncio.CancelledError as error:
        if manager is not None:
            await undisturbed(manager.on_chain_error(error, inputs=first))
        raise
    assert manager is not None
    child = patch_config(config, callbacks=manager.get_child())
    with set_config_context(child) as context:
        run = _Run(first, input, manager)
        chunks = run.of(make(aiter(run), run_manager=manager, config=child, **options))
        try:
            async with aclosing(each_cancelled_once(chunks, context)) as running:
                async for chunk in running:
                    yield chunk
        except BaseException as error:
            if not run.ended:  # cancelled before its task began, which then never does
                await undisturbed(run.fail(error))
            raise


class _Run:
    """A run under way: its input, from the first chunk on, and what has been read of it, for the record."""

    def __init__(self, first: Any, rest: AsyncIterator[Any], manager: AsyncCallbackManagerForChainRun) -> None:
        self.ended = False
        self._first = first
        self._rest = rest
        self._manager = manager
        self._read: list[Any] = []

    async def __aiter__(self) -> AsyncIterator[Any]:
        self._read.append(self._first)
        yield self._first
        async for chunk in self._rest:
            self._read.append(chunk)
            yield chunk

    async def of(self, chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The chunks; the run ends with them."""
        made: list[Any] = []
        seen = chunks
        for handler in self._manager.handlers:
            if isinstance(handler, _StreamingCallbackHandler):
                seen = handler.tap_output_aiter(self._manager.run_id, chunks)
                break
        try:
            async with aclosing(chunks):
                async for chunk in seen:
                    made.append(chunk)
                    yield chunk
        except BaseException as error:
            await self.fail(error)
            raise
        self.ended = True
        await self._manager.on_chain_end(add_up(made), inputs=add_up(self._read))

    async def fail(self, error: BaseException) -> None:
        """End the run with an error."""
        self.ended = True
        await self._manager.on_chain_error(error, inputs=add_up(self._read))
