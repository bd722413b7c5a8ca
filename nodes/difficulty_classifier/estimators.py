"""From texts to the quality that the weak and the strong route would reach: ridge regressions on their features.

The gain, what the strong route adds, is the difference of the two; ridge is linear, so this is the ridge on the gain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dynflow.nodes.difficulty_classifier.features import NAMES, reading, surface_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

WEAK, STRONG = 0, 1  # columns of a quality


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression on standardised features: `mean`, `scale` [d], `weights` [d, k], `intercept` [k]."""

    mean: Array
    scale: Array
    weights: Array
    intercept: Array

    @classmethod
    def fit(cls, features: Array, targets: Array, penalties: Array) -> Ridge:
        """Least squares of targets [n, k] on features [n, d], with one penalty per feature (Hoerl & Kennard 1970)."""
        import numpy as np

        features = features.astype(np.float64)
        mean, scale = features.mean(0), features.std(0) + 1e-6
        standard = (features - mean) / scale
        intercept = targets.mean(0)
        gram = standard.T @ standard + np.diag(penalties)
        weights = np.linalg.solve(gram, standard.T @ (targets - intercept))
        return cls(*(part.astype(np.float32) for part in (mean, scale, weights, intercept)))

    def predict(self, features: Array) -> Array:
        """Targets, float32 [n, k]."""
        predicted: Array = ((features - self.mean) / self.scale) @ self.weights + self.intercept
        return predicted


class Estimator(ABC):
    """Predicts the quality of both routes from texts. `penalties` are the ridge penalties of its feature blocks."""

    kind: ClassVar[str]
    grid: ClassVar[tuple[tuple[float, ...], ...]]  # what cross-validation chooses the penalties from

    def __init__(self, penalties: tuple[float, ...] = (), ridge: Ridge | None = None) -> None:
        self.penalties = penalties or self.grid[0]
        self.ridge = ridge

    @abstractmethod
    def features(self, texts: Sequence[str]) -> Array:
        """Features of raw texts: float32 [n, d], block after block."""

    @property
    @abstractmethod
    def block_sizes(self) -> tuple[int, ...]:
        """Columns of each block of features."""

    def fit(self, texts: Sequence[str], quality: Array) -> None:
        """Learn from texts and the quality that each route reached on them, 0…1, [n, 2] as (weak, strong)."""
        self.fit_features(self.features(texts), quality)

    def fit_features(self, features: Array, quality: Array) -> None:
        """As `fit`, from features that are already at hand."""
        import numpy as np

        self.ridge = Ridge.fit(features, quality, np.repeat(self.penalties, self.block_sizes))

    def predict(self, texts: Sequence[str]) -> Array:
        """Raw predicted quality per route, float32 [n, 2]; not calibrated, and not kept within 0…1."""
        return self.predict_features(self.features(texts))

    def predict_features(self, features: Array) -> Array:
        """As `predict`, from features that are already at hand."""
        if self.ridge is None:
            raise ValueError("the estimator is not fitted: call fit, or load an artefact")
        return self.ridge.predict(features)


class SurfaceEstimator(Estimator):
    """Reads surface features alone: needs no model, takes well under a millisecond."""

    kind = "surface"
    grid = ((30.0,), (100.0,), (300.0,), (1000.0,), (3000.0,))

    @property
    def block_sizes(self) -> tuple[int, ...]:
        return (len(NAMES),)

    def features(self, texts: Sequence[str]) -> Array:
        return surface_features([reading(text) for text in texts])


class EmbeddingEstimator(Estimator):
    """Reads the MiniLM embedding beside the surface features: some milliseconds a text."""

    kind = "embedding"
    grid = tuple((a, b) for a in (5e3, 1e4, 2e4, 4e4, 8e4) for b in (100.0, 300.0, 1000.0, 10_000.0))

    @property
    def block_sizes(self) -> tuple[int, ...]:
        from dynflow.models.encoder import DIMENSIONS

        return (DIMENSIONS, len(NAMES))

    def features(self, texts: Sequence[str]) -> Array:
        import numpy as np

        from dynflow.models.encoder import Encoder

        read = [reading(text) for text in texts]
        return np.concatenate([Encoder.shared().embed(read), surface_features(read)], axis=1)


KINDS: dict[str, type[Estimator]] = {kind.kind: kind for kind in (EmbeddingEstimator, SurfaceEstimator)}
