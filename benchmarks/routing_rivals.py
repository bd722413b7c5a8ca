"""What our estimators are held against: plain baselines, other tools' scores, and published rows.

The scores of LiteLLM and cascadeflow come from their own installed code, unchanged and offline; each is left out where
it is not installed (`pip install litellm`, `pip install cascadeflow`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
from routing_data import Array

PLAIN = "plain MiniLM + ridge"
RANDOM = "random"
LENGTH = "prompt length"
TFIDF = "TF-IDF + ridge"
ORACLE = "oracle"

PUBLISHED = {
    "mmlu": {"apgr": 0.603, "cpt50": 0.354, "cpt80": 0.703},
    "gsm8k": {"apgr": 0.622, "cpt50": 0.336, "cpt80": 0.633},
}
"""RouteLLM's best router on each full set (arXiv 2406.18665): on other rows, so never paired with ours."""

_PENALTIES = (3.0, 10.0, 30.0, 100.0)
_SMALL = 1e-9


def plain_ridge(features: Array, gain: Array, test: Array) -> Array:
    """Ridge regression of the gain on centred embeddings; the penalty by generalised cross-validation.

    Golub, Heath & Wahba 1979: the penalty with the least error when each row is left out, in its usual approximation.
    """
    mean, centre = features.mean(0), gain.mean()
    values, directions = np.linalg.eigh((features - mean).T @ (features - mean))
    projected = directions.T @ ((features - mean).T @ (gain - centre))
    total = np.square(gain - centre).sum()
    losses, weights = [], []
    for penalty in _PENALTIES:
        weight = projected / (values + penalty)
        error = total - 2 * weight @ projected + np.square(weight) @ values
        freedom = 1 + (values / (values + penalty)).sum()
        losses.append(error / (1 - freedom / len(gain)) ** 2)
        weights.append(weight)
    scores: Array = (test - mean) @ (directions @ weights[int(np.argmin(losses))]) + centre
    return scores


def tfidf_ridge(train: Sequence[str], gain: Array, test: Sequence[str]) -> Array:
    """Ridge regression of the gain on TF-IDF of words and pairs of words (scikit-learn)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    vectoriser = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    known = vectoriser.fit_transform(train)
    scores: Array = Ridge(alpha=3.0).fit(known, gain).predict(vectoriser.transform(test))
    return scores


Scorer = Callable[[Sequence[str]], Sequence[float]]
"""Scores of prompts; higher means: the strong model."""


def prompt_scorers() -> dict[str, Scorer]:
    """Other tools' scores of a prompt alone, by name; those that are installed."""
    found: dict[str, Scorer] = {}
    if find_spec("litellm"):
        found |= _litellm()
    if find_spec("cascadeflow"):
        found |= _cascadeflow()
    return found


def _litellm() -> dict[str, Scorer]:
    """Of LiteLLM's complexity router: its weighted heuristics, and its trained tiers (`heuristic_v2`)."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        from litellm.router_strategy.complexity_router import complexity_router, tier_predictor
    except ImportError:  # a version without it
        return {}
    router = complexity_router.ComplexityRouter("benchmark", None, derive_savings_baseline=False)  # type: ignore[arg-type]
    tiers = tier_predictor.TierSuccessPredictor(tier_predictor.resolve_tier_artifact("ultrafeedback"))

    def trained(prompt: str) -> float:
        """The chance that the lowest tier fails."""
        return 1 - tiers.predict(prompt, complexity_router.classify_prompt(prompt)).probabilities[1]

    return {
        "LiteLLM complexity router": lambda prompts: [router.classify(prompt)[1] for prompt in prompts],
        "LiteLLM complexity router, heuristic_v2": lambda prompts: [trained(prompt) for prompt in prompts],
    }


def _cascadeflow() -> dict[str, Scorer]:
    """cascadeflow's two ways to tell hard queries: levels from its detector, and its difficulty estimate."""
    from cascadeflow.quality.complexity import ComplexityDetector, QueryComplexity
    from cascadeflow.quality.query_difficulty import QueryDifficultyEstimator

    detector, estimator = ComplexityDetector(), QueryDifficultyEstimator()
    levels = list(QueryComplexity)

    def level(prompt: str) -> float:
        found, sure = detector.detect(prompt)
        return float(levels.index(found)) + _SMALL * sure

    return {
        "cascadeflow complexity": lambda prompts: [level(prompt) for prompt in prompts],
        "cascadeflow difficulty": lambda prompts: [float(estimator.estimate(prompt)) for prompt in prompts],
    }


def answer_scorers() -> dict[str, Callable[[Sequence[tuple[str, str]]], Sequence[Sequence[float]]]]:
    """Other tools' scores of (prompt, draft) pairs: the doubt of the draft, and 1 where their own gate escalates."""
    if not find_spec("cascadeflow"):
        return {}
    from cascadeflow.quality.confidence import ProductionConfidenceEstimator
    from cascadeflow.quality.quality import QualityConfig, QualityValidator

    estimator, validator = ProductionConfidenceEstimator(), QualityValidator(QualityConfig.for_cascade())

    def doubts(pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
        found = []
        for prompt, draft in pairs:
            sure = estimator.estimate(draft, prompt).final_confidence
            found.append([1 - sure, float(not validator.validate(draft, prompt, sure).passed)])
        return found

    return {"cascadeflow confidence": doubts}
