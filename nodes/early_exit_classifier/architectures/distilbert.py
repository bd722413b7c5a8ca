"""DistilBERT: BERT's layers under other names, without token types and without a pooler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dynflow.nodes.early_exit_classifier.architectures.architecture import no_head
from dynflow.nodes.early_exit_classifier.architectures.post_norm import Parts, PostNorm

if TYPE_CHECKING:
    from torch import Tensor


class DistilBert(PostNorm):
    """DistilBERT; it has no token types, so that those given are not read."""

    families: ClassVar[tuple[str, ...]] = ("distilbert",)

    def stock_layers(self) -> list[Any]:
        return list(self.encoder.transformer.layer)

    def parts(self, layer: Any) -> Parts:
        attention = layer.attention
        return Parts(
            query=attention.q_lin,
            key=attention.k_lin,
            value=attention.v_lin,
            attended=attention.out_lin,
            attention_norm=layer.sa_layer_norm,
            widen=layer.ffn.lin1,
            activation=layer.ffn.activation,
            narrow=layer.ffn.lin2,
            output_norm=layer.output_layer_norm,
            heads=attention.n_heads,
        )

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.encoder.embeddings(input_ids)
        return hidden

    def head(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if not self.has_head:
            raise no_head(self.model)
        model: Any = self.model
        pooled = torch.relu(model.pre_classifier(hidden[:, 0]))
        logits: Tensor = model.classifier(model.dropout(pooled))
        return logits
