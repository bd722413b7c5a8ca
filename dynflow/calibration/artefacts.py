"""The artefacts that a calibration was made with: with others it proves nothing, though the graph is the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynflow.flow import Flow


def fingerprints(flow: Flow) -> dict[str, str]:
    """What each node that has an artefact depends on (`Node.fingerprint`), by name; of sub-graphs as `node/name`.

    As cheap as checking the graph. Raises `ArtefactError`.
    """
    found: dict[str, str] = {}
    for name in flow.checked.nodes:
        node = flow.resources.cold_node(name)
        if (inner := node.inner()) is not None:
            found |= {f"{name}/{each}": told for each, told in fingerprints(inner.flow).items()}
        elif (told := node.fingerprint()) is not None:
            found[name] = told
    return found


def changed(flow: Flow, artefacts: Mapping[str, str]) -> list[str]:
    """Nodes whose artefact is another one now than in `artefacts`."""
    now = fingerprints(flow) if artefacts else {}
    return [name for name, told in artefacts.items() if now.get(name) != told]
