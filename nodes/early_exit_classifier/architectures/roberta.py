"""RoBERTa, and XLM-RoBERTa, which is built alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from dynflow.nodes.early_exit_classifier.architectures.architecture import no_head
from dynflow.nodes.early_exit_classifier.architectures.bert import bert_parts
from dynflow.nodes.early_exit_classifier.architectures.post_norm import Parts, PostNorm

if TYPE_CHECKING:
    from torch import Tensor


class Roberta(PostNorm):
    """BERT's layers; positions count from after the padding token's id, and the head is another."""

    families: ClassVar[tuple[str, ...]] = ("roberta", "xlm-roberta")

    @property
    def max_tokens(self) -> int:
        return int(self.config.max_position_embeddings - self.config.pad_token_id - 1)

    def parts(self, layer: Any) -> Parts:
        return bert_parts(layer)

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.encoder.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        return hidden

    def head(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if not self.has_head:
            raise no_head(self.model)
        model: Any = self.model
        logits: Tensor = model.classifier(hidden)
        return logits
