"""The interface of all estimators: from texts to the quality that each route would reach on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]
    Tensors = dict[str, Array]

WEAK, STRONG = 0, 1  # columns of a quality; routes between the two come after them


class Estimator(ABC):
    """Predicts the quality of each route from texts. `settings` are its hyper-parameters, an entry of `grid`.

    `tensors` hold what was learnt, by name: all that an artefact keeps.
    """

    kind: ClassVar[str]
    grid: ClassVar[tuple[tuple[float, ...], ...]]
    """What cross-validation chooses the settings from, the default first."""
    made_of: ClassVar[str]
    """What it reads and how it learns, for the model card."""
    encoder: ClassVar[str | None] = None
    """The early-exit model whose encoder it reads with, as it was given; None: it has its own."""

    def __init__(self, settings: tuple[float, ...] = (), tensors: Tensors | None = None) -> None:
        self.settings = settings or self.grid[0]
        self.tensors: Tensors = tensors or {}

    @classmethod
    @abstractmethod
    def features_of(cls) -> str:
        """What the features depend on beside the text; heads and features of another are not to be mixed."""

    @abstractmethod
    def features(self, texts: Sequence[str]) -> Array:
        """What is learnt from of each raw text: float32 [n, d]. The same before and after fitting."""

    @abstractmethod
    def fit_features(self, features: Array, quality: Array) -> None:
        """As `fit`, from features that are already at hand."""

    @abstractmethod
    def predict_features(self, features: Array) -> Array:
        """As `predict`, from features that are already at hand."""

    def fit(self, texts: Sequence[str], quality: Array) -> None:
        """Learn from texts and the quality that each route reached on them, 0…1, [n, k] as (weak, strong, …)."""
        self.fit_features(self.features(texts), quality)

    def predict(self, texts: Sequence[str]) -> Array:
        """Raw predicted quality per route, [n, k]; not calibrated, and not kept within 0…1."""
        return self.predict_features(self.features(texts))
