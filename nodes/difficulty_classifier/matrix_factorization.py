"""`matrix_factorization`: a hidden scoring function of route and request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.nodes.difficulty_classifier.estimator import Estimator
from dynflow.nodes.difficulty_classifier.features import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Array, Tensors

HIDDEN = 128
BATCH = 64
RATE = 3e-4
DECAY = 1e-5
_SEED = 0


class MatrixFactorizationEstimator(Estimator):
    """RouteLLM's matrix factorisation (arXiv 2406.18665 §4.2), on the local encoder. The setting is the epochs.

    A route M scores s(M, q) = w · (v_M ⊙ (W v_q + b)) on a request q; P(M beats M') = logistic(s(M, q) - s(M', q)). It
    is learnt by Adam from each row's pairs of routes, of which one wins by as much as its quality is higher; equal ones
    tie. Size (128), rate (3e-4) and weight decay (1e-5) are the paper's.
    """

    kind = "matrix_factorization"
    grid = ((30.0,), (10.0,), (100.0,))
    made_of = "RouteLLM's matrix factorisation (arXiv 2406.18665 §4.2), of routes and the all-MiniLM-L6-v2 embedding"

    @classmethod
    def features_of(cls) -> str:
        from dynflow.models.encoder import SHA256

        return f"{SHA256} embedding"

    def features(self, texts: Sequence[str]) -> Array:
        from dynflow.models.encoder import Encoder

        return Encoder.shared().embed([reading(text) for text in texts])

    def fit_features(self, features: Array, quality: Array) -> None:
        import numpy as np

        random = np.random.default_rng(_SEED)
        routes, columns = quality.shape[1], features.shape[1]
        values: Tensors = {
            "routes": random.standard_normal((routes, HIDDEN)),
            "projection": random.uniform(-1, 1, (columns, HIDDEN)) / np.sqrt(columns),
            "offset": np.zeros(HIDDEN),
            "score": random.uniform(-1, 1, HIDDEN) / np.sqrt(HIDDEN),
        }
        first, second = _moments(values), _moments(values)
        pairs = [(one, other) for one in range(routes) for other in range(one)]
        step = 0
        for _ in range(int(self.settings[0])):
            order = random.permutation(len(features))
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                gradients = _gradients(values, features[rows], quality[rows], pairs)
                step += 1
                for name, gradient in gradients.items():
                    gradient = gradient + DECAY * values[name]
                    first[name] = 0.9 * first[name] + 0.1 * gradient
                    second[name] = 0.999 * second[name] + 0.001 * np.square(gradient)
                    rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
                    values[name] = values[name] - rate * first[name] / (np.sqrt(second[name]) + 1e-8)
        self.tensors = {name: value.astype(np.float32) for name, value in values.items()}

    def predict_features(self, features: Array) -> Array:
        fitted = self.tensors
        hidden = features @ fitted["projection"] + fitted["offset"]
        scores: Array = hidden @ (fitted["routes"] * fitted["score"]).T
        return scores


def _moments(values: Tensors) -> Tensors:
    import numpy as np

    return {name: np.zeros_like(value) for name, value in values.items()}


def _gradients(values: Tensors, features: Array, quality: Array, pairs: list[tuple[int, int]]) -> Tensors:
    """Of the mean cross-entropy of all pairs of routes."""
    import numpy as np

    hidden = features @ values["projection"] + values["offset"]
    scores = hidden @ (values["routes"] * values["score"]).T
    missed = np.zeros_like(scores)  # derivative of the loss by each score
    for one, other in pairs:
        won = (1 + quality[:, one] - quality[:, other]) / 2
        error = (1 / (1 + np.exp(scores[:, other] - scores[:, one])) - won) / (len(features) * len(pairs))
        missed[:, one] += error
        missed[:, other] -= error
    by_route = missed.T @ hidden
    by_hidden = missed @ (values["routes"] * values["score"])
    return {
        "routes": by_route * values["score"],
        "score": (by_route * values["routes"]).sum(0),
        "projection": features.T @ by_hidden,
        "offset": by_hidden.sum(0),
    }
