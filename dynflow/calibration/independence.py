"""Nodes that remember earlier requests: what replay shows of their requests one by one is not what a user will see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.errors import CalibrationError

if TYPE_CHECKING:
    from dynflow.flow import Flow


def remembering(flow: Flow) -> list[str]:
    """Nodes whose output may depend on earlier requests; those of sub-graphs as `node/inner`."""
    found = [name for name in flow.checked.nodes if flow.resources.cold_node(name).remembers]
    for name, inner in flow.resources.subflows.items():
        found += [f"{name}/{each}" for each in remembering(inner)]
    return found


def check_independent(flow: Flow) -> None:
    """Raises `CalibrationError` (`dependent`) where turns of one conversation are no independent draws."""
    if names := remembering(flow):
        listed = " and ".join(map(repr, names))
        raise CalibrationError(
            f"{listed} keeps conversations on their route: what happens to a request depends on those before it, so a "
            "promise tested on requests one by one would not hold; remove `sticky`, calibrate, and leave it out",
            "dependent",
        )


def memory_notes(flow: Flow) -> list[str]:
    """What is to be known of an evaluation of such nodes."""
    return [f"{name} is sticky: each row counts as the first turn of a conversation" for name in remembering(flow)]
