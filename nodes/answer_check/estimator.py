"""From features of an answer to the quality that it, and a stronger model's in its place, would be graded with.

One kernel ridge regression (Saunders, Gammerman & Vovk 1998) with a sum of kernels: linear and Laplacian on the
standardised features of `features.py`, and, where an encoder is at hand, linear on the products of the question's and
the answer's embedding, coordinate by coordinate. What is linear is kept as plain weights; the Laplacian part keeps its
anchors. Last come what the graph brings along of the answer (`EVIDENCE`); what is unknown of it is NaN, and counts as
the mean of the training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dynflow.nodes.answer_check.features import NAMES, features

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

WEAK, STRONG = 0, 1  # columns of a quality
EVIDENCE = ("token_confidence", "agreement", "judge")
"""What a graph may know of an answer, each 0…1: columns after all others."""
LINEAR, LAPLACIAN, EMBEDDED, BROUGHT = 0.3, 0.7, 0.2, 0.3  # what each kernel counts; the last is for each evidence
WIDTH = 1.0  # of the Laplacian kernel, per feature
PENALTIES = (1.0, 3.0)  # of the weak and of the strong route: when the strong one fails is harder to tell
MOST_ANCHORS = 2_000  # with more rows the kernel is approximated from this many of them (Nyström)
_FURTHEST = 3.0  # standardised features are cut here, so that no single one decides


@dataclass(frozen=True)
class Head:
    """Fitted numbers: `mean`, `scale` [d]; `weights` [d, 2] of what is linear; `anchors` [m, s] (standardised, of the
    first s features) with their `anchor_weights` [m, 2]; `intercept` [2]."""

    mean: Array
    scale: Array
    weights: Array
    anchors: Array
    anchor_weights: Array
    intercept: Array


class SurfaceEstimator:
    """Predicts from a question and a given answer how good it is, and how good a stronger model's would be."""

    kind: ClassVar[str] = "surface"

    def __init__(self, head: Head | None = None) -> None:
        self.head = head

    @property
    def size(self) -> int:
        """Columns of its features."""
        return len(NAMES) + len(EVIDENCE)

    @property
    def weighs(self) -> tuple[bool, ...]:
        """For each evidence, whether it has learnt to read it."""
        head = self._fitted()
        return tuple(bool(scale < float("inf")) for scale in head.scale[-len(EVIDENCE) :])

    def features(self, prompts: Sequence[str], answers: Sequence[str], evidence: Array | None = None) -> Array:
        """Features of answers to prompts: float32 [n, d]. `evidence` [n, 3] is as `EVIDENCE` has it; default: NaN."""
        import numpy as np

        brought = np.full((len(prompts), len(EVIDENCE)), np.nan) if evidence is None else evidence
        return np.concatenate([*self._parts(prompts, answers), brought], axis=1, dtype=np.float32)

    def _parts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Array]:
        return [features(prompts, answers)]

    def fit_features(self, features: Array, quality: Array) -> None:
        """Learn from `features` of the weak route's answers and the quality of both routes, 0…1, [n, 2]."""
        import numpy as np

        known = np.ma.masked_invalid(np.asarray(features, dtype=np.float64))
        mean, spread = known.mean(0).filled(0.0), known.std(0).filled(0.0)
        scale = np.where(spread > 1e-6, spread, np.inf)  # what never varied says nothing
        standard = _standard(features, mean, scale)
        count = len(standard)
        places = np.arange(count)
        if count > MOST_ANCHORS:
            places = np.sort(np.random.default_rng(0).permutation(count)[:MOST_ANCHORS])
        anchors = standard[places]
        kernel = _linear(standard, anchors) + LAPLACIAN * _laplacian(standard, anchors)
        among = kernel[places]
        intercept = quality.mean(0)
        dual = np.column_stack(
            [
                np.linalg.solve(among + penalty * np.eye(count), quality[:, route] - intercept[route])
                if count == len(places)
                else np.linalg.solve(
                    kernel.T @ kernel + penalty * among + 1e-8 * count * np.eye(len(places)),
                    kernel.T @ (quality[:, route] - intercept[route]),
                )
                for route, penalty in zip((WEAK, STRONG), PENALTIES, strict=True)
            ]
        )
        weights = _emphasis(anchors.shape[1])[:, None] * (anchors.T @ dual)
        parts = (mean, scale, weights, anchors[:, : len(NAMES)], LAPLACIAN * dual, intercept)
        self.head = Head(*(np.ascontiguousarray(part, dtype=np.float32) for part in parts))

    def predict_features(self, features: Array) -> Array:
        """Raw predicted quality of both routes, [n, 2]; not calibrated, and not kept within 0…1. Raises ValueError
        where it is not fitted. Each row is judged alone."""
        import numpy as np

        head = self._fitted()
        standard = _standard(np.asarray(features, dtype=np.float32), head.mean, head.scale)
        near = _laplacian(standard, head.anchors)
        predicted: Array = standard @ head.weights + near @ head.anchor_weights + head.intercept
        return predicted

    def _fitted(self) -> Head:
        if self.head is None:
            raise ValueError("the estimator is not fitted: call fit_features, or load an artefact")
        return self.head


class EmbeddingEstimator(SurfaceEstimator):
    """Reads the embeddings of question and answer beside the features: some milliseconds an answer."""

    kind = "embedding"

    @property
    def size(self) -> int:
        from dynflow.models.encoder import DIMENSIONS

        return super().size + DIMENSIONS

    def _parts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Array]:
        from dynflow.models.encoder import Encoder

        encoder = Encoder.shared()
        return [*super()._parts(prompts, answers), encoder.embed(prompts) * encoder.embed(answers)]


KINDS: dict[str, type[SurfaceEstimator]] = {kind.kind: kind for kind in (EmbeddingEstimator, SurfaceEstimator)}


def _standard(features: Array, mean: Array, scale: Array) -> Array:
    import numpy as np

    standard: Array = np.nan_to_num(np.clip((features - mean) / scale, -_FURTHEST, _FURTHEST))
    return standard


def _emphasis(size: int) -> Array:
    """How much each column counts in the linear kernels: [size]."""
    import numpy as np

    first, last = len(NAMES), len(EVIDENCE)
    middle = size - first - last
    parts = np.full(first, LINEAR / first), np.full(middle, EMBEDDED / max(middle, 1)), np.full(last, BROUGHT)
    return np.concatenate(parts)


def _linear(rows: Array, anchors: Array) -> Array:
    kernel: Array = (rows * _emphasis(rows.shape[1])) @ anchors.T
    return kernel


def _laplacian(rows: Array, anchors: Array) -> Array:
    """exp(-width · mean absolute difference) over the features without embeddings, [rows, anchors]."""
    import numpy as np

    first = len(NAMES)
    distance = np.empty((len(rows), len(anchors)), dtype=rows.dtype)
    for place, row in enumerate(rows[:, :first]):
        distance[place] = np.abs(anchors[:, :first] - row).mean(1)
    kernel: Array = np.exp(-WIDTH * distance)
    return kernel
