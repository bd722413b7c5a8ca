"""Models whose every call reserves all that a day's budget has left, so that rows of a batch wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynflow.flow import Flow


def endless_models(flow: Flow, *, day: bool = False) -> Iterator[str]:
    """Names of models (`node/model` for a sub-graph's) under a day's budget whose answers nothing ends before it does.

    `day`: a graph around this one has such a budget.
    """
    graph = flow.checked
    limits = graph.spec.limits
    if limits.usd_per_request is not None:
        return  # a call reserves no more than that
    day = day or limits.usd_per_day is not None
    if day and limits.max_tokens is None:
        plans = graph.nodes.values()
        used = {plan.model for plan in plans if plan.model and getattr(plan.options, "max_tokens", None) is None}
        yield from (name for name in graph.spec.models if name in used and _endless(flow, name))
    for node, inner in flow.resources.subflows.items():
        yield from (f"{node}/{name}" for name in endless_models(inner, day=day))


def _endless(flow: Flow, model: str) -> bool:
    about = flow.resources.known(model)
    ended = flow.checked.spec.models[model].max_tokens is not None or about.capabilities.context
    return not ended and about.price is not None and about.price.most(0)[1] > 0
