"""What is known of an answer before it is asked for: about what it would cost, and why a request cannot go there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dynflow.eligible import lack_of
from dynflow.graph import CheckedGraph, NodePlan
from dynflow.ledger import Usage, cost
from dynflow.models.known import Known
from dynflow.request import Request, estimate_tokens

if TYPE_CHECKING:
    from dynflow.flow import Flow


def expected_usd(
    graph: CheckedGraph,
    known: Callable[[str], Known],
    subflows: Mapping[str, Flow],
    node: str,
    request: Request,
    answer_tokens: int,
) -> float | None:
    """USD of an answer of so many tokens, or of as many as the node may write; None where a price is unknown.

    Of a group it is what all its members cost, of a sub-graph what the dearest of its answers does. Time of compute is
    not in it: how long it would take is unknown.
    """
    plan = graph.nodes[node]
    if plan.members:
        costs = [expected_usd(graph, known, subflows, member, request, answer_tokens) for member in plan.members]
        return None if None in costs else math.fsum(usd for usd in costs if usd is not None)
    if node in subflows:
        inner = subflows[node]
        costs = [inner.resources.expected_usd(name, request, answer_tokens) for name in inner.checked.answers]
        return None if None in costs else max((usd for usd in costs if usd is not None), default=0.0)
    if plan.model is None:
        return 0.0
    prompt = request.tokens + request.tool_tokens + _system_tokens(plan)
    most = longest_answer(graph, plan)
    answer = answer_tokens if most is None else min(answer_tokens, most)
    return cost(known(plan.model).price, Usage(plan.model, prompt, answer, estimated=True))


def longest_answer(graph: CheckedGraph, plan: NodePlan) -> int | None:
    """Tokens that one answer of a node with a model may have at most; None where the graph does not say."""
    model = None if plan.model is None else graph.spec.models[plan.model].max_tokens
    stated = (getattr(plan.options, "max_tokens", None), model, graph.spec.limits.max_tokens)
    return min((tokens for tokens in stated if isinstance(tokens, int)), default=None)


def _system_tokens(plan: NodePlan) -> int:
    system = getattr(plan.options, "system", None)
    return estimate_tokens(system) if isinstance(system, str) else 0


def why_closed(graph: CheckedGraph, known: Callable[[str], Known], node: str, request: Request) -> str:
    """Why a request cannot go to a node that is closed for it, in words."""
    plan = graph.nodes[node]
    for each in (plan, *(graph.nodes[member] for member in plan.members)):
        model = each.model
        if model is not None and (found := lack_of(each, known(model).capabilities, request)):
            return found
    return "every way on from it is closed"
