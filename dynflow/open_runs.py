"""Ends the LangChain runs that a cancelled call leaves open: LangChain ends those of chains and streams only."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManagerForChainRun, BaseCallbackHandler
from langchain_core.callbacks.manager import ahandle_event
from typing_extensions import override

_IGNORED_BY = {"llm": "ignore_llm", "tool": "ignore_agent", "retriever": "ignore_retriever"}
"""Kinds of runs, and the attribute by which a handler ignores them."""


class OpenRuns(BaseCallbackHandler):
    """Knows which runs of models, tools and retrievers are open beneath a visit, where they run on the event loop."""

    run_inline = True
    ignore_chain = True

    def __init__(self) -> None:
        self._open: dict[UUID, tuple[str, Mapping[str, Any]]] = {}
        self._thread = threading.get_ident()

    def _started(self, kind: str, run_id: UUID, about: Mapping[str, Any]) -> None:
        if threading.get_ident() == self._thread:  # in a worker thread it will end by itself
            self._open[run_id] = kind, {name: about.get(name) for name in ("parent_run_id", "tags")}

    @override
    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._started("llm", run_id, kwargs)

    @override
    def on_llm_start(self, serialized: Any, prompts: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._started("llm", run_id, kwargs)

    @override
    def on_tool_start(self, serialized: Any, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._started("tool", run_id, kwargs)

    @override
    def on_retriever_start(self, serialized: Any, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        self._started("retriever", run_id, kwargs)

    def _ended(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        self._open.pop(run_id, None)

    on_llm_end = on_llm_error = on_tool_end = on_tool_error = on_retriever_end = on_retriever_error = _ended

    async def end(self, run: AsyncCallbackManagerForChainRun, error: BaseException) -> None:
        """Tell the handlers of a visit's run that what is open beneath it has ended so."""
        for run_id, (kind, about) in list(self._open.items()):
            await ahandle_event(
                run.inheritable_handlers, f"on_{kind}_error", _IGNORED_BY[kind], error, run_id=run_id, **about
            )


async def end_open_runs(run: AsyncCallbackManagerForChainRun, error: BaseException) -> None:
    """End what is open beneath a visit's run. What a closed stream leaves open ends by itself, a moment later."""
    if isinstance(error, GeneratorExit):
        return
    for handler in reversed(run.inheritable_handlers):
        if isinstance(handler, OpenRuns):  # the last is its own; those before are of visits around it
            await handler.end(run, error)
            return
