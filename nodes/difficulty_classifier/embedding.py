"""`embedding`: kernel ridge regression on the middle layers of the sentence encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array

COMPONENTS = 64
ANCHORS = 1_500  # with more rows the kernel is approximated from this many of them
_SEED = 0


class EmbeddingEstimator(Estimator):
    """Some milliseconds a text: one pass of the encoder. The settings are the kernel's sharpness and the ridge penalty.

    The encoder's middle layers tell what kind of task a text is, which its last one, trained for similar meaning,
    gives up. They are projected on their 64 principal components, then comes ridge regression with a Gaussian kernel
    exp(-sharpness · |x - y|² / 2), where 2 is the mean of |x - y|² (Saunders, Gammerman & Vovk 1998). It learns from
    1,500 rows exactly, from more by Nyström's approximation (Williams & Seeger 2001).
    """

    kind = "embedding"
    grid = tuple((sharpness, penalty) for sharpness in (1.5, 0.75) for penalty in (10.0, 5.0, 20.0, 40.0))
    made_of = (
        "ridge regression with a Gaussian kernel, one per route, on 64 principal components of the vectors that "
        "layers 3 and 5 of all-MiniLM-L6-v2 give"
    )

    @classmethod
    def features_of(cls) -> str:
        from dynflow.models.encoder import MIDDLE_LAYERS, SHA256

        return f"{SHA256} {MIDDLE_LAYERS}"

    def features(self, texts: Sequence[str]) -> Array:
        from dynflow.models.encoder import Encoder

        return Encoder.shared().middle([reading(text) for text in texts])

    def fit_features(self, features: Array, quality: Array) -> None:
        import numpy as np

        sharpness, penalty = self.settings
        mean = features.mean(0)
        centred = (features - mean).astype(np.float64)
        components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
        spread = np.sqrt(np.square(centred @ components).sum(1).mean()) + 1e-9
        projection = (components * np.sqrt(sharpness) / spread).astype(np.float16)  # the kernel's width is within it
        points = (features - mean) @ projection.astype(np.float32)
        drawn = np.sort(np.random.default_rng(_SEED).permutation(len(points))[:ANCHORS])
        anchors = points[drawn].astype(np.float16)

        near, own = _gaussian(points, anchors), _gaussian(anchors, anchors)
        if len(anchors) == len(points):
            gram, target = own + penalty * np.eye(len(own)), quality - quality.mean(0)
        else:
            gram = near.T @ near + penalty * own + 1e-6 * np.eye(len(own))
            target = near.T @ (quality - quality.mean(0))
        weights = np.linalg.solve(gram, target)
        self.tensors = {
            "mean": mean.astype(np.float32),
            "projection": projection,
            "anchors": anchors,
            "weights": weights.astype(np.float32),
            "intercept": quality.mean(0).astype(np.float32),
        }

    def predict_features(self, features: Array) -> Array:
        fitted = self.tensors
        points = (features - fitted["mean"]) @ fitted["projection"].astype("float32")
        predicted: Array = _gaussian(points, fitted["anchors"]) @ fitted["weights"] + fitted["intercept"]
        return predicted


def _gaussian(one: Array, other: Array) -> Array:
    """exp(-|x - y|² / 2) of all pairs, float64 [n, m]; rounding makes no distance negative."""
    import numpy as np

    one, other = one.astype(np.float64), other.astype(np.float64)
    distances = np.square(one).sum(1)[:, None] + np.square(other).sum(1) - 2 * one @ other.T
    kernel: Array = np.exp(-np.maximum(distances, 0) / 2)
    return kernel
