"""ALBERT: one layer, or a few groups of them, that stands in all places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from dynflow.nodes.early_exit_classifier.architectures.architecture import no_head
from dynflow.nodes.early_exit_classifier.architectures.post_norm import Parts, PostNorm

if TYPE_CHECKING:
    from torch import Tensor


class Albert(PostNorm):
    """A layer is a whole group; its embeddings are narrower than its hidden states and are widened once."""

    families: ClassVar[tuple[str, ...]] = ("albert",)

    def stock_layers(self) -> list[Any]:
        groups, depth = self.encoder.encoder.albert_layer_groups, self.depth
        return [groups[int(place / (depth / len(groups)))] for place in range(depth)]

    def parts(self, layer: Any) -> Parts | None:
        if len(layer.albert_layers) > 1:
            return None
        [inner] = layer.albert_layers
        attention = inner.attention
        return Parts(
            query=attention.query,
            key=attention.key,
            value=attention.value,
            attended=attention.dense,
            attention_norm=attention.LayerNorm,
            widen=inner.ffn,
            activation=inner.activation,
            narrow=inner.ffn_output,
            output_norm=inner.full_layer_layer_norm,
            heads=attention.num_attention_heads,
        )

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        narrow = self.encoder.embeddings(input_ids, token_type_ids=token_type_ids)
        hidden: Tensor = self.encoder.encoder.embedding_hidden_mapping_in(narrow)
        return hidden

    def head(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        encoder, model = self.encoder, self.model
        if not self.has_head or encoder.pooler is None:
            raise no_head(model)
        pooled = encoder.pooler_activation(encoder.pooler(hidden[:, 0]))
        classifier: Any = model
        logits: Tensor = classifier.classifier(classifier.dropout(pooled))
        return logits
