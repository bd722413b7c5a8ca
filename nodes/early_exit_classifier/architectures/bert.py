"""BERT; MiniLM is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from dynflow.nodes.early_exit_classifier.architectures.architecture import no_head
from dynflow.nodes.early_exit_classifier.architectures.post_norm import Parts, PostNorm

if TYPE_CHECKING:
    from torch import Tensor


class Bert(PostNorm):
    """BERT."""

    families: ClassVar[tuple[str, ...]] = ("bert",)

    def parts(self, layer: Any) -> Parts:
        return bert_parts(layer)

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


def bert_parts(layer: Any) -> Parts:
    """What a layer of BERT, or of RoBERTa, is made of."""
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
