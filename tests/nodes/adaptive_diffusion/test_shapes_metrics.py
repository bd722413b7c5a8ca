"""Similarity and distance of pictures, against what they are by definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from dynflow.nodes.adaptive_diffusion.shapes.metrics import frechet, psnr, ssim

RNG = np.random.default_rng(0)
PICTURES = RNG.random((2, 14, 15, 3))
OTHERS = np.clip(PICTURES + RNG.normal(0, 0.2, PICTURES.shape), 0, 1)


def by_definition(first, second):
    """SSIM of two pictures, window by window."""
    axis = np.arange(11) - 5
    weights = np.exp(-(axis[:, None] ** 2 + axis**2) / 4.5)
    weights /= weights.sum()
    values = []
    for channel in range(3):
        for top in range(first.shape[0] - 10):
            for left in range(first.shape[1] - 10):
                x = first[top : top + 11, left : left + 11, channel]
                y = second[top : top + 11, left : left + 11, channel]
                mean, other = (weights * x).sum(), (weights * y).sum()
                spread, other_spread = (weights * (x - mean) ** 2).sum(), (weights * (y - other) ** 2).sum()
                common = (weights * (x - mean) * (y - other)).sum()
                alike = (2 * mean * other + 1e-4) * (2 * common + 9e-4)
                values.append(alike / ((mean**2 + other**2 + 1e-4) * (spread + other_spread + 9e-4)))
    return np.mean(values)


def test_ssim_is_what_its_paper_defines() -> None:
    expected = [by_definition(first, second) for first, second in zip(PICTURES, OTHERS, strict=True)]
    np.testing.assert_allclose(ssim(PICTURES, OTHERS), expected, atol=1e-9)
    np.testing.assert_allclose(ssim(PICTURES, PICTURES), 1)


def test_psnr_in_decibels() -> None:
    grey = np.full((1, 12, 12, 3), 0.5)
    assert psnr(grey + 0.1, grey) == pytest.approx(20)
    assert psnr(grey, grey) == np.inf


def test_frechet_is_what_its_paper_defines() -> None:
    first = RNG.normal(size=(500, 4)) @ RNG.normal(size=(4, 4))
    second = RNG.normal(size=(400, 4)) @ RNG.normal(size=(4, 4)) + 0.3
    spread, other = np.cov(first.T), np.cov(second.T)
    root = linalg.sqrtm(spread @ other).real
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(spread + other - 2 * root)
    assert frechet(first, second) == pytest.approx(expected)
    assert frechet(first, first) == pytest.approx(0, abs=1e-6)
