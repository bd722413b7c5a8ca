"""The encoder of an early-exit model on its own: what it makes of a text, for whoever else reads texts."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from dynflow.models.apart import apart
from dynflow.nodes.early_exit_classifier.artefact import DELTAS, Described, load

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel


class SharedEncoder:
    """The encoder as training has changed it, loaded once with the node's own (`dynflow.learning.shared_encoder`)."""

    def __init__(self, described: Described) -> None:
        self._described = described

    @property
    def depth(self) -> int:
        """Layers that it has."""
        return self._described.facts.depth

    @property
    def digest(self) -> str:
        """SHA-256 that tells its weights, and where it cuts texts; not its exits, which may be trained anew."""
        facts = self._described.facts
        made_of = (facts.base.sha256, facts.sha256.get(DELTAS, ""), str(facts.max_tokens))
        return hashlib.sha256(" ".join(made_of).encode()).hexdigest()

    @cached_property
    def _model(self) -> EarlyExitModel:
        return load(self._described)

    def states(self, texts: Sequence[str], layers: Sequence[int]) -> NDArray[np.float32]:
        """The mean state of each text's tokens after each of these layers, side by side, each of length 1: float32
        [texts, layers times width].

        A text is judged alone, so that no other moves its vector, and whatever it holds. Raises MissingDependency,
        MissingModel or ArtefactError where the model cannot be loaded.
        """
        if threading.current_thread().daemon:
            return apart(lambda: self.states(texts, layers))
        import numpy as np

        return np.array([self._read(text, layers) for text in texts], dtype=np.float32).reshape(len(texts), -1)

    def _read(self, text: str, layers: Sequence[int]) -> NDArray[np.float32]:
        import torch

        architecture, reader = self._model.architecture, self._model.reader
        means = []
        with torch.inference_mode():
            hidden = architecture.embed(torch.tensor([reader.ids(text)]), None)
            context = architecture.context(None, hidden)
            for layer in range(1, max(layers) + 1):
                hidden = architecture.layer(layer - 1, hidden, context)
                if layer in layers:
                    means.append(torch.nn.functional.normalize(hidden.mean(1)))
            found: NDArray[np.float32] = torch.cat(means, dim=1)[0].numpy()
        return found
