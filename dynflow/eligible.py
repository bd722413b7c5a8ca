"""Which models can take a request, and so which nodes are closed for it; and for callers that bind tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dynflow.errors import NoEligibleAnswer
from dynflow.graph import CheckedGraph, NodePlan
from dynflow.language.spec import Role
from dynflow.models.known import Known
from dynflow.models.settings import Capabilities
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.flow import Flow


def lack(model: str, has: Capabilities, request: Request, role: Role = "answer") -> str | None:
    """What a model is known to lack for a request, in words. Tools are offered to answers alone."""
    tokens = request.tokens + (request.tool_tokens if role == "answer" else 0)
    if has.context is not None and tokens > has.context:
        return f"model {model!r} takes {has.context:,} tokens, the request has about {tokens:,}"
    if request.has_tools and has.tools is False and role == "answer":
        return f"model {model!r} calls no tools"
    if request.has_images and has.images is False:
        return f"model {model!r} reads no images"
    if request.has_audio and has.audio is False:
        return f"model {model!r} hears no audio"
    return None


def lack_of(plan: NodePlan, has: Capabilities, request: Request) -> str | None:
    """The same of a node's model, which hears where the node is for sound, and sees where it begins with an image."""
    if plan.cls.hears:
        has = has.model_copy(update={"audio": True})
    if plan.cls.sees(plan.options):
        has = has.model_copy(update={"images": True})
    return lack(plan.model or "", has, request, plan.role)


def closed_nodes(graph: CheckedGraph, known: Callable[[str], Known], request: Request) -> frozenset[str]:
    """The nodes that are closed for a request: their model lacks what it needs, or all ways on from them are closed."""

    def lacks(plan: NodePlan) -> bool:
        return lack_of(plan, known(plan.model or "").capabilities, request) is not None

    # Most requests need nothing special: asking each model once is quicker than walking the graph.
    if not any(lack(model, known(model).capabilities, request) for model in graph.spec.models):
        return frozenset()
    return graph.closed_where(lacks)


def need_open_defaults(flow: Flow) -> None:
    """Raises `NoEligibleAnswer` where tools would close a default edge, in the flow's graph or in a sub-graph."""
    checked, known = flow.checked, flow.resources.known

    def calls_none(plan: NodePlan) -> bool:
        return plan.role == "answer" and known(plan.model or "").capabilities.tools is False

    closed = checked.closed_where(calls_none)
    for source, ways in checked.ways.items():
        for way in ways:
            if way.when is not None or way.target not in closed or source in closed:
                continue
            plan = checked.nodes[way.target]
            why = "all ways on from there are closed"
            if plan.model is not None and calls_none(plan):
                why = f"its model {plan.model!r} calls no tools"
            raise NoEligibleAnswer(
                f"tools would close the default edge from {source!r} to {way.target!r} in graph {flow.get_name()!r}: "
                f"{why}. Put the most capable model last: give the default edge to an answer whose model calls tools"
            )
    for inner in flow.resources.subflows.values():
        need_open_defaults(inner)
