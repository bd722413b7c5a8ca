"""Nodes that remember earlier requests: with them a conversation is what is drawn, not each of its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.calibration.outcomes import OutcomeFile
from dynflow.errors import CalibrationError
from dynflow.node import Memory

if TYPE_CHECKING:
    from dynflow.flow import Flow


_CARRIED = ("string", "number", "integer", "boolean")
"""Kinds of ports that a replay can carry from turn to turn."""


def memory_of(flow: Flow, name: str) -> Memory | None:
    """What a node carries from one request of a conversation to the next; None: nothing.

    Raises `CalibrationError` (`dependent`) where its type does not tell it in a way that can be replayed.
    """
    plan, told = flow.checked.nodes[name], flow.resources.cold_node(name).remembers
    if told is None:
        return None
    where = f"the node type {plan.cls.type!r} says of {name!r} that it `remembers`"
    if not isinstance(told, Memory):
        raise CalibrationError(
            f"{where} {told!r}, which does not tell a replay what it carries from one request to the next: let it be a "
            "dynflow.node.Memory(key, port), or None where its output depends on the request alone",
            "dependent",
        )
    if told.port not in plan.ports or plan.ports[told.port].kind not in _CARRIED:
        fitting = [port for port, kind in plan.ports.items() if kind.kind in _CARRIED]
        raise CalibrationError(
            f"{where} its port {told.port!r}, and has no port of that name with a text or number: "
            f"name one that it has ({', '.join(fitting) or 'none yet'})",
            "dependent",
        )
    return told


def remembering(flow: Flow) -> dict[str, Memory]:
    """Nodes whose output depends on earlier requests of a conversation; those of sub-graphs as `node/inner`."""
    nodes = {name: memory_of(flow, name) for name in flow.checked.nodes}
    found = {name: memory for name, memory in nodes.items() if memory is not None}
    for name, inner in flow.resources.subflows.items():
        found |= {f"{name}/{each}": memory for each, memory in remembering(inner).items()}
    return found


def check_independent(flow: Flow, file: OutcomeFile) -> None:
    """Raises `CalibrationError` (`dependent`) where the file does not say which requests hang together."""
    if not (found := remembering(flow)):
        return
    names = " and ".join(map(repr, found))
    if not file.conversational:
        raise CalibrationError(
            f"{names} keeps conversations on their route, or remembers them otherwise: what happens to a request "
            'depends on those before it, and no row says which these are; give each row its "conversation", with the '
            "rows of one in their order, or calibrate and use a graph that remembers none (a router without `sticky`)",
            "dependent",
        )
    if len(keys := sorted({memory.key for memory in found.values()})) > 1:
        raise CalibrationError(
            f"{names} tell conversations by different keys ({', '.join(keys)}), and a row has one conversation: "
            "let them have the same `conversation`",
            "dependent",
        )


def memory_notes(flow: Flow, file: OutcomeFile) -> list[str]:
    """What is to be known of an evaluation of such nodes."""
    if file.conversational:
        return []
    return [
        f'{name} is sticky, and no row says its "conversation": each counts as the first turn of one'
        for name in remembering(flow)
    ]
