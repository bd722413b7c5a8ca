"""Readout: probabilities from the states of all layers so far, for criteria that the exits' own are not enough for."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class Readout(nn.Module):
    """Stands in for all exits but the last one, whose answer stays that of the whole model."""

    @abstractmethod
    def forward(self, layer: int, state: Tensor, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits (rows, labels) at the exit after `layer` layers, and what is to be remembered of the rows until the
        next exit: (rows, …).

        `state` (rows, width) is pooled as the exits pool theirs, and `logits` are the exit's own; `memory` is what was
        remembered at the exit before, of the rows that have stayed, None at the first.
        """
