"""Deltas: what training changed an encoder's weights by, small enough to ship."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def deltas(before: Mapping[str, Tensor], after: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The changes, as `artefact.apply_deltas` reads them: matrices in a low rank in float16, the rest whole.

    The low-rank change is the nearest to the real one (Eckart and Young 1936). With `rank` 0, or where a low rank would
    take more room, a matrix's change is kept whole. What did not change is left out.
    """
    found: dict[str, Tensor] = {}
    for name, value in after.items():
        change = (value.detach().cpu() - before[name].detach().cpu()).float()
        if not change.any():
            continue
        if change.ndim == 2 and 0 < rank * sum(change.shape) < change.numel():
            found[f"{name}.up"], found[f"{name}.down"] = (factor.half() for factor in _factors(change, rank))
        else:
            found[f"{name}.delta"] = change.half() if change.ndim > 1 else change
    return found


def _factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(out, rank) and (rank, in), whose product is nearest to the change."""
    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    root = sizes[:rank].sqrt()
    return (left[:, :rank] * root).contiguous(), (root[:, None] * right[:rank]).contiguous()
