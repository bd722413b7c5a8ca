"""A callback handler that writes down runs, decisions and tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler


class Recorder(BaseCallbackHandler):
    """Runs by id, how often each ended, and the decisions of the outermost run."""

    run_inline = True

    def __init__(self) -> None:
        self.names: dict[UUID, str] = {}
        self.parents: dict[UUID, UUID | None] = {}
        self.tags: dict[UUID, list[str]] = {}
        self.metadata: dict[UUID, dict[str, Any]] = {}
        self.ends: Counter[UUID] = Counter()
        self.errors: dict[UUID, BaseException] = {}
        self.events: list[tuple[UUID, dict[str, Any]]] = []
        self.tokens: list[str] = []

    def _start(self, run_id: UUID, parent: UUID | None, name: str, **about: Any) -> None:
        assert run_id not in self.names, f"{name} started twice"
        self.names[run_id] = name
        self.parents[run_id] = parent
        self.tags[run_id] = list(about.get("tags") or [])
        self.metadata[run_id] = dict(about.get("metadata") or {})

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._start(run_id, parent_run_id, kwargs.pop("name", None) or "chain", **kwargs)

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, parent_run_id: UUID | None = None, **kwargs: Any
    ) -> None:
        self._start(run_id, parent_run_id, kwargs.pop("name", None) or "model", **kwargs)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.ends[run_id] += 1

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self.ends[run_id] += 1

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.ends[run_id] += 1
        self.errors[run_id] = error

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self.ends[run_id] += 1
        self.errors[run_id] = error

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
        assert name == "dynflow.decision"
        self.events.append((run_id, data))

    @property
    def root(self) -> UUID:
        """The outermost run."""
        (found,) = [run for run, parent in self.parents.items() if parent is None]
        return found

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Decisions of the outermost run, in order."""
        return [data for run, data in self.events if run == self.root]

    @property
    def unfinished(self) -> list[str]:
        """Names of runs that did not end exactly once."""
        return [name for run, name in self.names.items() if self.ends[run] != 1]

    def by_name(self, name: str) -> UUID:
        """The one run of this name."""
        (found,) = [run for run, other in self.names.items() if other == name]
        return found
