"""Which default edges stay open when a caller binds tools: asked once, as they are bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.errors import NoEligibleAnswer
from dynflow.graph import NodePlan

if TYPE_CHECKING:
    from dynflow.flow import Flow


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
