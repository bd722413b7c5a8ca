"""The encoder of a trained early-exit model, for estimators of other nodes: one encoder serves both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dynflow.node import node_type

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREFIX = "embedded/"


class SharedEncoder(Protocol):
    """An encoder that is loaded on first use, and once for all who hold it."""

    @property
    def depth(self) -> int:
        """Layers that it has."""
        ...

    @property
    def digest(self) -> str:
        """What its states depend on beside the text."""
        ...

    def states(self, texts: Sequence[str], layers: Sequence[int]) -> NDArray[np.float32]:
        """The mean state of each text's tokens after each of these layers, side by side."""
        ...


def shared_encoder(name_or_path: str, folder: Path | None = None) -> SharedEncoder:
    """That of `embedded/<name>` or of a folder that `dynflow train early-exit` has made, a relative one counted from
    `folder`. Cheap: nothing is loaded. Raises ArtefactError where there is none."""
    kind: Any = node_type("early_exit_classifier")
    found: SharedEncoder = kind.shared_encoder(name_or_path, folder)
    return found
