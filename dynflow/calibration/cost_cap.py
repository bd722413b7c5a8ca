"""What one request can cost at most: a mean cost can be promised only where every single cost has a bound."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dynflow.errors import CalibrationError
from dynflow.graph import CheckedGraph, NodePlan
from dynflow.language.spec import END, START
from dynflow.prospects import longest_answer

if TYPE_CHECKING:
    from dynflow.flow import Flow


def most_usd(flow: Flow) -> float:
    """USD that one request can cost at most, whatever it asks and whichever way it goes.

    `limits.usd_per_request` where it is set, which holds whatever is tried. Else the dearest path, each call at its
    longest: a context full of prompt, `max_tokens` of answer, the highest rates, all attempts that the model is given.
    Raises `CalibrationError` (`no_cap`) where nothing bounds a call.
    """
    graph, limit = flow.checked, flow.checked.spec.limits.usd_per_request
    if limit is not None:
        _check_compute(flow)
        return limit
    dearest = {END: 0.0}
    for name in reversed(graph.order):
        if name != END:
            onward = max((dearest[way.target] for way in graph.ways[name]), default=0.0)
            dearest[name] = onward + (0.0 if name == START else _node(flow, graph.nodes[name]))
    return dearest[START]


def _node(flow: Flow, plan: NodePlan) -> float:
    """One visit of a node, with its members, or all that is inside it."""
    members = math.fsum(_node(flow, flow.checked.nodes[member]) for member in plan.members)
    inner = flow.resources.cold_node(plan.id).inner()
    if inner is not None:
        return most_usd(inner.flow)
    return members + (0.0 if plan.model is None else _calls(flow, plan, plan.model))


def _calls(flow: Flow, plan: NodePlan, model: str) -> float:
    """All attempts of one visit at a model."""
    known = flow.resources.known(model)
    if known.price is None:
        raise _no_cap(f"the price of {model!r} is unknown", f"give {model!r} a `price:`")
    context = known.capabilities.context
    prompt_rate, answer_rate = known.price.most(2**62 if context is None else context)
    longest = longest_answer(flow.checked, plan)
    if (prompt_rate and context is None) or (answer_rate and longest is None):
        lacks = [f"a prompt of {model!r} may have any length"] if prompt_rate and context is None else []
        lacks += [f"an answer of {model!r} may have any length"] if answer_rate and longest is None else []
        raise _no_cap(" and ".join(lacks), f"give {model!r} `capabilities: {{context: …}}` and `max_tokens`")
    usd = (prompt_rate * (context or 0) + answer_rate * (longest or 0)) / 1e6
    # Each attempt may be billed for its tokens; the visit's time is shared by all of them.
    return usd * _attempts(flow, model) + known.price.second * _seconds(flow.checked, plan, model, known.price.second)


def _attempts(flow: Flow, model: str) -> int:
    """Attempts at a model that one visit may make."""
    from dynflow.models.attempts import RETRIES

    settings = flow.resources.model_settings(model)
    usual = 0 if settings.provider == "host" else RETRIES
    return 1 + (settings.retries if isinstance(settings.retries, int) else usual)


def _seconds(graph: CheckedGraph, plan: NodePlan, model: str, usd_per_second: float) -> float:
    """The longest that a visit takes. Raises `CalibrationError` where time has a price and no end."""
    limits = [limit for limit in (plan.common.timeout, graph.spec.limits.timeout) if limit is not None]
    if usd_per_second and not limits:
        raise _no_cap(f"each second of {model!r} has a price, and {plan.id!r} may take any time", "set a `timeout:`")
    return min(limits, default=0.0)


def _check_compute(flow: Flow) -> None:
    """What time costs is counted only when it was spent, so that no limit in USD holds it back."""
    for plan in flow.checked.nodes.values():
        price = flow.resources.known(plan.model).price if plan.model is not None else None
        if plan.model is not None and price is not None:
            _seconds(flow.checked, plan, plan.model, price.second)
        inner = flow.resources.cold_node(plan.id).inner()
        if inner is not None:
            _check_compute(inner.flow)


def _no_cap(why: str, mend: str) -> CalibrationError:
    text = f"{why}, so one request may cost anything, and no mean cost can be promised"
    return CalibrationError(f"{text}: set `limits: {{usd_per_request: …}}`, or {mend}", "no_cap")
