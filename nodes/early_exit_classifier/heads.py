"""Heads: a small classifier after each layer of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

Pooling = Literal["mean", "first"]


@dataclass(frozen=True)
class HeadsShape:
    """What heads look like.

    `layers`: after how many layers of the encoder there is an exit, 0 being the embeddings; `width` of the hidden
    states; `labels`: how many. `pooling`: the mean over a text's tokens, or its first token. `inner`: width of a tanh
    layer between, 0 for none. `norm`: normalise the pooled state first, which encoders want that normalise before each
    layer and not after it. `shared`: one head's weights serve all exits. `dropout` is for training.
    """

    layers: tuple[int, ...]
    width: int
    labels: int
    pooling: Pooling = "mean"
    inner: int = 0
    norm: bool = False
    shared: bool = False
    dropout: float = 0.1

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; `HeadsShape.of` reads it."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def of(cls, facts: dict[str, Any]) -> HeadsShape:
        """The shape that `as_dict` wrote. Raises TypeError, KeyError or ValueError where it is none."""
        shape = cls(**{**facts, "layers": tuple(facts["layers"])})
        if shape.pooling not in ("mean", "first") or list(shape.layers) != sorted(set(shape.layers)):
            raise ValueError("no shape of heads")
        return shape


class Heads(nn.Module):
    """The heads of all exits. `heads(layer, hidden, attention_mask)` gives logits (rows, labels)."""

    def __init__(self, shape: HeadsShape) -> None:
        super().__init__()
        self.shape = shape
        names = ["shared"] if shape.shared else [str(layer) for layer in shape.layers]
        self.exits = nn.ModuleDict({name: _Head(shape) for name in names})
        self._by_layer: dict[int, Any] = {
            layer: self.exits["shared" if shape.shared else str(layer)] for layer in shape.layers
        }

    @property
    def layers(self) -> tuple[int, ...]:
        """After how many layers there is an exit, in order."""
        return self.shape.layers

    def forward(self, layer: int, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (rows, labels) of the exit after `layer` layers, from hidden states (rows, columns, width)."""
        logits: Tensor = self._by_layer[layer](pooled(hidden, attention_mask, self.shape.pooling))
        return logits


class _Head(nn.Module):
    def __init__(self, shape: HeadsShape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width) if shape.norm else None
        self.inner = nn.Linear(shape.width, shape.inner) if shape.inner else None
        self.dropout = nn.Dropout(shape.dropout)
        self.output = nn.Linear(shape.inner or shape.width, shape.labels)

    def forward(self, state: Tensor) -> Tensor:
        if self.norm is not None:
            state = self.norm(state)
        if self.inner is not None:
            state = torch.tanh(self.inner(state))
        if self.training:
            state = self.dropout(state)
        logits: Tensor = self.output(state)
        return logits


def pooled(hidden: Tensor, attention_mask: Tensor | None, pooling: Pooling) -> Tensor:
    """One state (rows, width) for each row's (rows, columns, width)."""
    if pooling == "first":
        return hidden[:, 0]
    if attention_mask is None:
        return hidden.mean(1)
    present = attention_mask.to(hidden.dtype)
    return torch.einsum("rcw,rc->rw", hidden, present) / present.sum(1, keepdim=True)


def layers_of(exits: Sequence[int], depth: int) -> tuple[int, ...]:
    """All layers after which a run can end: those of the heads, and the last one."""
    return tuple(sorted({*exits, depth}))
