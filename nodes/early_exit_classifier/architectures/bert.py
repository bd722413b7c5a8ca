"""BERT and what is built like it: MiniLM, RoBERTa, XLM-RoBERTa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture, Context, no_head
from dynflow.nodes.early_exit_classifier.architectures.post_norm import Parts, PostNormLayer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class PostNorm(Architecture):
    """What the architectures with post-norm layers share: stock layers in training, the joint ones in inference."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self.prepare()

    def stock_layers(self) -> list[Any]:
        """The encoder's layer modules, one for each place; a shared module stands in several."""
        return list(self.encoder.encoder.layer)

    def parts(self, layer: Any) -> Parts:
        """What a layer module is made of."""
        attention = layer.attention.self
        return Parts(
            query=attention.query,
            key=attention.key,
            value=attention.value,
            attended=layer.attention.output.dense,
            attention_norm=layer.attention.output.LayerNorm,
            widen=layer.intermediate.dense,
            activation=layer.intermediate.intermediate_act_fn,
            narrow=layer.output.dense,
            output_norm=layer.output.LayerNorm,
            heads=attention.num_attention_heads,
        )

    def prepare(self) -> None:
        self._stock = self.stock_layers()
        made: dict[int, PostNormLayer | None] = {}
        for layer in self._stock:
            if id(layer) not in made:
                parts = self.parts(layer)
                made[id(layer)] = PostNormLayer(parts) if parts.plain else None
        self._layers = [made[id(layer)] for layer in self._stock]

    def layer(self, index: int, hidden: Tensor, context: Context) -> Tensor:
        joint = self._layers[index]
        if joint is not None and self.plain:
            return joint(hidden, context.rest)
        stock: Tensor = self._stock[index](hidden, context.rest)
        return stock


class Bert(PostNorm):
    """BERT; MiniLM is one."""

    families: ClassVar[tuple[str, ...]] = ("bert",)

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        embeddings = self.encoder.embeddings
        if token_type_ids is not None or not self.plain:
            stock: Tensor = embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
            return stock
        hidden = functional.embedding(input_ids, embeddings.word_embeddings.weight)
        hidden = hidden.add_(embeddings.token_type_embeddings.weight[0])
        hidden = hidden.add_(embeddings.position_embeddings.weight[: input_ids.shape[1]])
        norm = embeddings.LayerNorm
        return torch.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def head(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if not self.has_head or self.encoder.pooler is None:
            raise no_head(self.model)
        model: Any = self.model
        logits: Tensor = model.classifier(model.dropout(self.encoder.pooler(hidden)))
        return logits
