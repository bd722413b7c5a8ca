"""Folds do not leak, and probabilities hold."""

from __future__ import annotations

import numpy as np
import pytest

from dynflow.learning.crossfitting import cross_fit, fit_logistic, folds_of, near_duplicates

PASSAGE = "the quick brown fox jumps over the lazy dog and then it sleeps for days"


def test_near_duplicates_share_twelve_words_but_no_template() -> None:
    prompts = ["Something else altogether.", f"{PASSAGE}. Why?", f"Read this: {PASSAGE.upper()}. When?"]
    assert near_duplicates(prompts).tolist() == [0, 1, 1]
    many = [f"{PASSAGE}. Question {number}?" for number in range(21)]
    assert near_duplicates(many, 20).tolist() == list(range(21))
    assert near_duplicates(many[:20], 20).tolist() == [0] * 20
    assert near_duplicates(many).tolist() == [0] * 21
    assert near_duplicates(["short", "Short.", "shorter"]).tolist() == [0, 0, 2]


def test_near_duplicates_through_others_are_one_group() -> None:
    words = [str(number) for number in range(40)]
    texts = [" ".join(words[:15]), " ".join(words[20:]), "apart", " ".join(words[3:32])]
    assert near_duplicates(texts).tolist() == [0, 0, 2, 0]


def test_groups_stay_whole_and_folds_are_about_equally_large() -> None:
    groups = [f"group {number}" for number in range(30) for _ in range(number % 4 + 1)]
    folds = folds_of(groups, 5)
    assert all(len({fold for fold, of in zip(folds, groups, strict=True) if of == group}) == 1 for group in groups)
    assert np.ptp(np.bincount(folds, minlength=5)) <= 1
    assert folds.tolist() == folds_of(groups, 5).tolist() == folds_of(np.array(groups), 5).tolist()
    assert folds.tolist() != folds_of(groups, 5, seed=1).tolist()


def test_rows_are_predicted_by_learners_that_did_not_see_their_fold() -> None:
    class Mean:
        def fit_features(self, features: np.ndarray, quality: np.ndarray) -> None:
            self.mean = quality.mean(0)

        def predict_features(self, features: np.ndarray) -> np.ndarray:
            return np.tile(self.mean, (len(features), 1))

    quality = np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    held_out = cross_fit(Mean, np.zeros((3, 1)), quality, np.array([0, 1, 2]))
    assert held_out.tolist() == [[1.0, 0.5], [0.5, 0.5], [0.5, 1.0]]


def test_probabilities_are_calibrated() -> None:
    raw = np.random.default_rng(2).normal(size=4000)
    slope, offset = fit_logistic(raw, 1 / (1 + np.exp(-(1.5 * raw - 0.5))))
    assert (slope, offset) == pytest.approx((1.5, -0.5), abs=0.01)
