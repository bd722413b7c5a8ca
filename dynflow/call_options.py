"""What a caller of the chat face may ask of the model that answers, and how that meets what the graph says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "seed")
_WITH_TOOLS = ("tool_choice", "parallel_tool_calls", "ls_structured_output_format")
CALL_OPTIONS = frozenset({*SAMPLING, "tools", *_WITH_TOOLS, "response_format"})
"""Names of all call options. `ls_structured_output_format` is LangChain's own note for traces."""


def read_call_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one call of the chat face, unset ones left out. Raises TypeError where one is unknown."""
    unknown = sorted(given.keys() - CALL_OPTIONS)
    if unknown:
        names, known = ", ".join(unknown), ", ".join(sorted(CALL_OPTIONS))
        raise TypeError(f"a flow as chat model takes no option {names}; it takes {known}")
    return {name: value for name, value in given.items() if value not in (None, [])}


def sampling(own: Mapping[str, Any], asked: Mapping[str, Any], most: int | None) -> dict[str, Any]:
    """A node's sampling options and the caller's together.

    What the node says itself stands, for the graph was tuned with it; the caller fills what it leaves open, ends an
    answer at further texts, and may shorten it: of several `max_tokens` (`most` is the model entry's) the smallest
    holds, so that budgets do.
    """
    together = {**{name: asked[name] for name in SAMPLING if name in asked}, **own}
    if "stop" in asked:
        together["stop"] = list(dict.fromkeys([*own.get("stop", ()), *_texts(asked["stop"])]))
    if "max_tokens" in asked:
        limits = (asked["max_tokens"], own.get("max_tokens"), most)
        together["max_tokens"] = min(limit for limit in limits if limit is not None)
    return together


def with_tools(model: BaseChatModel, asked: Mapping[str, Any]) -> Runnable[Any, AIMessage] | None:
    """The model with the caller's tools bound to it; None where the caller bound none."""
    if not asked.get("tools"):
        return None
    return model.bind_tools(asked["tools"], **{name: asked[name] for name in _WITH_TOOLS if name in asked})


def _texts(stop: str | Sequence[str]) -> Sequence[str]:
    return [stop] if isinstance(stop, str) else stop
