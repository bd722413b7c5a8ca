"""Nodes that remember earlier requests: with them a conversation is what is drawn, not each of its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.calibration.outcomes import OutcomeFile
from dynflow.errors import CalibrationError

if TYPE_CHECKING:
    from dynflow.flow import Flow
    from dynflow.node import Memory


def remembering(flow: Flow) -> dict[str, Memory]:
    """Nodes whose output depends on earlier requests of a conversation; those of sub-graphs as `node/inner`."""
    nodes = {name: flow.resources.cold_node(name).remembers for name in flow.checked.nodes}
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
            f"{names} keeps conversations on their route: what happens to a request depends on those before it, and no "
            'row says which these are; give each row its "conversation", with the rows of one in their order, or '
            "remove `sticky`, calibrate, and leave it out",
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
