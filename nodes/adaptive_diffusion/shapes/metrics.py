"""How alike two pictures are, and two sets of pictures. Needs numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

_WINDOW, _SPREAD = 11, 1.5
_STABLE = (0.01**2, 0.03**2)


def ssim(images: Floats, references: Floats) -> Floats:
    """Structural similarity of each picture to its reference: [pictures], at most 1.

    Pictures are [pictures, height, width, channels] from 0 to 1, at least 11 pixels a side. Wang et al., IEEE TIP
    13(4), 2004: a Gaussian window of 11 pixels, standard deviation 1.5, where it lies wholly inside; channels' mean.
    """
    first, second = (np.asarray(each, np.float64) for each in (images, references))
    mean, other_mean = _blurred(first), _blurred(second)
    variance = _blurred(first * first) - mean**2
    other_variance = _blurred(second * second) - other_mean**2
    covariance = _blurred(first * second) - mean * other_mean
    alike = (2 * mean * other_mean + _STABLE[0]) * (2 * covariance + _STABLE[1])
    alike /= (mean**2 + other_mean**2 + _STABLE[0]) * (variance + other_variance + _STABLE[1])
    return np.asarray(alike.mean((1, 2, 3)))


def _blurred(images: Floats) -> Floats:
    """The window's weighted mean wherever it lies wholly inside."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * _SPREAD**2))
    weights /= weights.sum()
    rows, columns = images.shape[1] - _WINDOW + 1, images.shape[2] - _WINDOW + 1
    upright = sum((weight * images[:, at : at + rows] for at, weight in enumerate(weights)), np.zeros(()))
    return sum((weight * upright[:, :, at : at + columns] for at, weight in enumerate(weights)), np.zeros(()))


def psnr(images: Floats, references: Floats) -> Floats:
    """Peak signal-to-noise ratio of each picture in decibels, [pictures]: infinite for equal ones; else as `ssim`."""
    error = np.square(np.asarray(images, np.float64) - references).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(error))


def frechet(features: Floats, others: Floats) -> float:
    """Fréchet distance between normal distributions fitted to two sets of features, [pictures, features] each.

    Heusel et al., arXiv 1706.08500. Both sets need more pictures than features, and it falls with their number: compare
    sets of one size only.
    """
    first, second = (np.asarray(each, np.float64) for each in (features, others))
    spread, other_spread = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = _root(spread)
    common = np.linalg.eigvalsh(root @ other_spread @ root).clip(0)
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    return float(apart + np.trace(spread) + np.trace(other_spread) - 2 * np.sqrt(common).sum())


def _root(spread: Floats) -> Floats:
    """The symmetric square root of a covariance matrix."""
    values, vectors = np.linalg.eigh(spread)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)
