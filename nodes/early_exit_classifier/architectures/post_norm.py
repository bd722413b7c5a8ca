"""The layer that BERT, RoBERTa, ALBERT and DistilBERT share: attention and feed-forward, each normalised afterwards.

The stock modules spend a sixth of a short text's time on Python and on three small products where one does. The layer
here makes the same numbers from the same weights, for inference only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture, Context

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Parts:
    """The modules of one layer, by what they do."""

    query: Any
    key: Any
    value: Any
    attended: Any
    """Linear, after attention."""
    attention_norm: Any
    widen: Any
    activation: Callable[[Tensor], Tensor]
    narrow: Any
    output_norm: Any
    heads: int

    @property
    def stock(self) -> bool:
        """Whether these are the stock modules, with nothing wrapped around them or hung on them."""
        linear = (self.query, self.key, self.value, self.attended, self.widen, self.narrow)
        norms = (self.attention_norm, self.output_norm)
        return (
            all(type(module) is torch.nn.Linear and module.bias is not None for module in linear)
            and all(type(module) is torch.nn.LayerNorm for module in norms)
            and not any(module._forward_hooks or module._forward_pre_hooks for module in (*linear, *norms))
        )


class PostNorm(Architecture):
    """What these architectures share: stock layers in training, joint ones in inference."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.prepare()

    def stock_layers(self) -> list[Any]:
        """The encoder's layer modules, one for each place; a shared module stands in several."""
        return list(self.encoder.encoder.layer)

    @abstractmethod
    def parts(self, layer: Any) -> Parts | None:
        """What a layer module is made of; None for one that is made otherwise."""

    def prepare(self) -> None:
        self._stock = self.stock_layers()
        made: dict[int, _JointLayer | None] = {}
        for layer in self._stock:
            if id(layer) not in made:
                parts = self.parts(layer)
                made[id(layer)] = _JointLayer(parts) if parts is not None and parts.stock else None
        self._joint = [made[id(layer)] for layer in self._stock]

    def layer(self, index: int, hidden: Tensor, context: Context) -> Tensor:
        joint = self._joint[index]
        if joint is not None and self.plain:
            return joint(hidden, context.rest)
        stock: Tensor = self._stock[index](hidden, context.rest)
        return stock


class _JointLayer:
    """One layer as plain functions; query, key and value come of one product.

    The three projections' weights become views of the joint one, so that it takes no memory of its own and follows
    changes made in place.
    """

    def __init__(self, parts: Parts) -> None:
        projections = (parts.query, parts.key, parts.value)
        width = parts.query.weight.shape[0]
        with torch.inference_mode(False), torch.no_grad():
            self._joint = torch.cat([module.weight for module in projections])
            self._joint_bias = torch.cat([module.bias for module in projections])
            for place, module in enumerate(projections):
                rows = slice(place * width, (place + 1) * width)
                module.weight.data, module.bias.data = self._joint[rows], self._joint_bias[rows]
        self._attended = parts.attended.weight, parts.attended.bias
        self._widen = parts.widen.weight, parts.widen.bias
        self._narrow = parts.narrow.weight, parts.narrow.bias
        first, second = parts.attention_norm, parts.output_norm
        self._attention_norm = first.normalized_shape, first.weight, first.bias, first.eps
        self._output_norm = second.normalized_shape, second.weight, second.bias, second.eps
        # transformers' own module for it adds a call and nothing else
        self._activation = functional.gelu if type(parts.activation).__name__ == "GELUActivation" else parts.activation
        self._heads = parts.heads
        self._head_width = width // parts.heads

    def __call__(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        rows, columns, width = hidden.shape
        joint = functional.linear(hidden, self._joint, self._joint_bias)
        query, key, value = joint.view(rows, columns, 3, self._heads, self._head_width).permute(2, 0, 3, 1, 4).unbind(0)
        attention = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = functional.linear(attention.transpose(1, 2).reshape(rows, columns, width), *self._attended)
        hidden = torch.layer_norm(attended.add_(hidden), *self._attention_norm)
        fed = functional.linear(self._activation(functional.linear(hidden, *self._widen)), *self._narrow)
        return torch.layer_norm(fed.add_(hidden), *self._output_norm)
