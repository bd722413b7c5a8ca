"""A stream as one LangChain run, made in one task."""

from __future__ import annotations

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

from dynflow.closing import aclosing, cancelled_once, each_cancelled_once
from dynflow.node import add_up


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
    manager = await cancelled_once(
        get_async_callback_manager_for_config(config).on_chain_start(
            None, {"input": ""}, name=config.get("run_name") or runnable.get_name(), run_id=config.pop("run_id", None)
        )
    )
    child = patch_config(config, callbacks=manager.get_child())
    with set_config_context(child) as context:
        chunks = _ended_with_run(_Input(first, input), make, manager, child, options)
        async with aclosing(each_cancelled_once(chunks, context)) as running:
            async for chunk in running:
                yield chunk


class _Input:
    """The input, from its first chunk on; what has been read of it is for the run's record."""

    def __init__(self, first: Any, rest: AsyncIterator[Any]) -> None:
        self.read: list[Any] = []
        self._first = first
        self._rest = rest

    async def __aiter__(self) -> AsyncIterator[Any]:
        self.read.append(self._first)
        yield self._first
        async for chunk in self._rest:
            self.read.append(chunk)
            yield chunk


async def _ended_with_run(
    input: _Input,
    make: Callable[..., AsyncIterator[Any]],
    manager: AsyncCallbackManagerForChainRun,
    config: RunnableConfig,
    options: Mapping[str, Any],
) -> AsyncIterator[Any]:
    made: list[Any] = []
    chunks = seen = make(aiter(input), run_manager=manager, config=config, **options)
    for handler in manager.handlers:
        if isinstance(handler, _StreamingCallbackHandler):
            seen = handler.tap_output_aiter(manager.run_id, chunks)
            break
    try:
        async with aclosing(chunks):
            async for chunk in seen:
                made.append(chunk)
                yield chunk
    except BaseException as error:
        await manager.on_chain_error(error, inputs=add_up(input.read))
        raise
    await manager.on_chain_end(add_up(made), inputs=add_up(input.read))
