"""All kinds of estimator, by name."""

from __future__ import annotations

from dynflow.nodes.difficulty_classifier.causal_lm import CausalLmEstimator
from dynflow.nodes.difficulty_classifier.embedding import EmbeddingEstimator
from dynflow.nodes.difficulty_classifier.encoder import EncoderEstimator
from dynflow.nodes.difficulty_classifier.estimator import STRONG, WEAK, Estimator
from dynflow.nodes.difficulty_classifier.matrix_factorization import MatrixFactorizationEstimator
from dynflow.nodes.difficulty_classifier.similarity_weighted import SimilarityWeightedEstimator
from dynflow.nodes.difficulty_classifier.surface import SurfaceEstimator

__all__ = ["KINDS", "SHIPPED", "STRONG", "WEAK", "Estimator"]

KINDS: dict[str, type[Estimator]] = {
    kind.kind: kind
    for kind in (
        EmbeddingEstimator,
        SurfaceEstimator,
        SimilarityWeightedEstimator,
        MatrixFactorizationEstimator,
        EncoderEstimator,
        CausalLmEstimator,
    )
}
SHIPPED = (EmbeddingEstimator.kind, SurfaceEstimator.kind)
"""Those of which a trained one comes with dynflow."""
