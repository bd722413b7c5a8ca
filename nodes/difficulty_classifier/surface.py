"""`surface`: ridge regression on what can be counted in a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import ENDING_WORDS, NAMES, ending, normalise, surface_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array


class SurfaceEstimator(Estimator):
    """Needs no model, takes well under a millisecond. The one setting is the ridge penalty (Hoerl & Kennard 1970).

    It reads the last words alone, lettered choices too: of a whole text any preamble moves the counts, and no penalty
    helps against that.

    Ridge is linear, so the difference of two routes' predictions is the ridge regression of their difference.
    """

    kind = "surface"
    grid = ((300.0,), (30.0,), (100.0,), (1000.0,), (3000.0,))
    made_of = (
        f"ridge regressions, one per route, on surface features (length, numbers, signs, kinds of words) of the last "
        f"{ENDING_WORDS} words"
    )

    @classmethod
    def features_of(cls) -> str:
        return "\n".join([*NAMES, f"of the last {ENDING_WORDS} words, choices too"])

    def features(self, texts: Sequence[str]) -> Array:
        return surface_features([ending(normalise(text)) for text in texts])

    def fit_features(self, features: Array, quality: Array) -> None:
        import numpy as np

        features = features.astype(np.float64)
        mean, scale = features.mean(0), features.std(0) + 1e-6
        standard = (features - mean) / scale
        intercept = quality.mean(0)
        gram = standard.T @ standard + self.settings[0] * np.eye(standard.shape[1])
        weights = np.linalg.solve(gram, standard.T @ (quality - intercept))
        fitted = {"mean": mean, "scale": scale, "weights": weights, "intercept": intercept}
        self.tensors = {name: value.astype(np.float32) for name, value in fitted.items()}

    def predict_features(self, features: Array) -> Array:
        fitted = self.tensors
        predicted: Array = ((features - fitted["mean"]) / fitted["scale"]) @ fitted["weights"] + fitted["intercept"]
        return predicted
