"""Ridge regression with a Gaussian kernel, on the principal components of its features."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynflow.nodes.difficulty_classifier.estimator import Array, Tensors

COMPONENTS = 64
ANCHORS = 1_500  # with more rows the kernel is approximated from this many of them
_SEED = 0


def fit(features: Array, quality: Array, sharpness: float, penalty: float) -> Tensors:
    """What `predict` needs, learnt from features [n, d] and qualities [n, k].

    The features are projected on their 64 principal components, then comes ridge regression with the kernel
    exp(-sharpness · |x - y|² / 2), where 2 is the mean of |x - y|² (Saunders, Gammerman & Vovk 1998). It learns from
    1,500 rows exactly, from more by Nyström's approximation (Williams & Seeger 2001).
    """
    import numpy as np

    mean = features.mean(0)
    centred = (features - mean).astype(np.float64)
    components = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :COMPONENTS]
    spread = np.sqrt(np.square(centred @ components).sum(1).mean()) + 1e-9
    projection = (components * np.sqrt(sharpness) / spread).astype(np.float16)  # the kernel's width is within it
    points = (features - mean) @ projection.astype(np.float32)
    drawn = np.sort(np.random.default_rng(_SEED).permutation(len(points))[:ANCHORS])
    anchors = points[drawn].astype(np.float16)

    own = _gaussian(anchors, anchors)
    intercept = quality.mean(0)
    if len(anchors) == len(points):
        gram, target = own + penalty * np.eye(len(own)), quality - intercept
    else:
        near = _gaussian(points, anchors).astype(np.float32)  # the costly product: half the time, and exact enough
        gram, target = near.T @ near + penalty * own + 1e-4 * np.eye(len(own)), near.T @ (quality - intercept)
    return {
        "mean": mean.astype(np.float32),
        "projection": projection,
        "anchors": anchors,
        "weights": np.linalg.solve(gram, target).astype(np.float32),
        "intercept": intercept.astype(np.float32),
    }


def predict(fitted: Tensors, features: Array) -> Array:
    """Qualities [n, k] of features [n, d]."""
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
