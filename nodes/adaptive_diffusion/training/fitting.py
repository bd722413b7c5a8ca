"""A head that tells quantiles of the steps that a prompt needs, from its sentence embedding."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dynflow.nodes.adaptive_diffusion.predictor import forward

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTILES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
OFFSETS, JUDGED, STOPPED = 0.2, 0.15, 0.1
"""Shares of the prompts: those that offsets rest on, those that the card's figures are taken on, and those that end the
learning; the others are learnt from."""
_ABOVE = 1e-3
_HIDDEN = 32
_RATE, _DECAY = 5e-3, 0.1
_STEPS, _LOOK, _PATIENCE = 600, 10, 100


@dataclass(frozen=True)
class Parts:
    """Places of prompts, by what becomes of them."""

    learnt: NDArray[np.intp]
    stopped: NDArray[np.intp]
    offsets: NDArray[np.intp]
    judged: NDArray[np.intp]

    @classmethod
    def of(cls, prompts: int, seed: int = 0) -> Parts:
        """By lot."""
        order = np.random.default_rng(seed).permutation(prompts)
        ends = np.cumsum([math.ceil(share * prompts) for share in (OFFSETS, JUDGED, STOPPED)])
        offsets, judged, stopped, learnt = np.split(order, ends)
        return cls(learnt, stopped, offsets, judged)


@dataclass(frozen=True)
class Fitted:
    """The head's tensors, the quantiles that it tells and their offsets, in doublings."""

    tensors: dict[str, NDArray[Any]]
    quantiles: tuple[float, ...]
    offsets: tuple[float, ...]


def fit(
    embeddings: NDArray[np.float32],
    needed: NDArray[np.intp],
    owner: NDArray[np.intp],
    counts: Sequence[int],
    parts: Parts,
    seed: int = 0,
) -> Fitted:
    """Learn how many steps of `counts` images `needed` [n] from embeddings [prompts, 384] of their prompts `owner` [n].

    Quantile regression (Koenker & Bassett 1978) on their doublings, ended where prompts set apart are told worse. A
    quantile that so few prompts cannot correct is not told.
    """
    doublings = np.log2(needed).astype(np.float32)
    tensors = _learnt(embeddings, doublings, owner, parts, seed)
    told = forward(tensors, embeddings)
    offsets = {}
    rows = np.isin(owner, parts.offsets)
    # What is told is rounded up to a count: it suffices where it is above the count before the one that was needed.
    before = np.log2([counts[0] / 2, *counts])[np.searchsorted(counts, needed)] + _ABOVE
    for place, quantile in enumerate(QUANTILES):
        found = offset(before[rows] - told[owner[rows], place], owner[rows], quantile)
        if found is not None:
            offsets[quantile] = found
    places = [QUANTILES.index(quantile) for quantile in offsets]
    tensors["weight2"], tensors["bias2"] = tensors["weight2"][places], tensors["bias2"][places]
    return Fitted(tensors, tuple(offsets), tuple(offsets.values()))


def offset(missed: NDArray[Any], owner: Sequence[int] | NDArray[Any], quantile: float) -> float | None:
    """What must be added to a quantile so that it covers this share of images of new prompts; None: these are too few.

    `missed` [n] is by how much images needed more than was told. Images of one prompt hang together: each prompt has
    the same weight, and the new one, of which nothing is known, counts as infinitely far off (Lee, Barber & Willett,
    arXiv 2306.06342, §3).
    """
    _, inverse, images = np.unique(np.asarray(owner), return_inverse=True, return_counts=True)
    prompts = len(images)
    order = np.argsort(missed)
    covered = np.cumsum(1 / images[inverse][order]) / (prompts + 1)
    enough = np.flatnonzero(covered >= quantile - 1e-9)
    return float(missed[order][enough[0]]) if len(enough) else None


def _learnt(
    embeddings: NDArray[np.float32], doublings: NDArray[Any], owner: NDArray[np.intp], parts: Parts, seed: int
) -> dict[str, NDArray[Any]]:
    scale = math.sqrt(embeddings.shape[1])  # their numbers are about 1 / scale
    levels = torch.tensor(QUANTILES)

    def rows(places: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        mine = np.isin(owner, places)
        return torch.from_numpy(embeddings[owner[mine]] * scale), torch.from_numpy(doublings[mine])[:, None]

    def loss(told: Tensor, truth: Tensor) -> Tensor:
        short = truth - told
        return torch.maximum(levels * short, (levels - 1) * short).mean()

    learnt, stopped = rows(parts.learnt), rows(parts.stopped)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        last = nn.Linear(_HIDDEN, len(QUANTILES))
        with torch.no_grad():  # it begins with what is true of all prompts
            last.weight.mul_(0.1)
            last.bias.copy_(torch.quantile(learnt[1], levels))
        head = nn.Sequential(nn.Linear(embeddings.shape[1], _HIDDEN), nn.ReLU(), last)
        optimiser = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=_DECAY)
        best, least, found_at = copy.deepcopy(head.state_dict()), math.inf, 0
        for step in range(_STEPS):
            if step % _LOOK == 0:
                with torch.no_grad():
                    now = float(loss(head(stopped[0]), stopped[1]))
                if now < least:
                    best, least, found_at = copy.deepcopy(head.state_dict()), now, step
                elif step - found_at >= _PATIENCE:
                    break
            optimiser.zero_grad()
            loss(head(learnt[0]), learnt[1]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    found = {name: value.numpy() for name, value in best.items()}
    return {
        "weight1": np.ascontiguousarray(found["0.weight"] * np.float32(scale)),
        "bias1": found["0.bias"],
        "weight2": found["2.weight"],
        "bias2": found["2.bias"],
    }
