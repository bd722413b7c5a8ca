"""ModernBERT: normalised before each layer, rotary positions, most layers see a window of the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture, Context, no_head

if TYPE_CHECKING:
    from torch import Tensor


class ModernBert(Architecture):
    """The stock layers; masks and positions of both kinds of attention are made once for all layers."""

    families: ClassVar[tuple[str, ...]] = ("modernbert",)
    pre_norm: ClassVar[bool] = True

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.encoder.embeddings(input_ids=input_ids)
        return hidden

    def context(self, attention_mask: Tensor | None, hidden: Tensor) -> Context:
        from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

        given = {"config": self.config, "inputs_embeds": hidden, "attention_mask": attention_mask}
        masks = {
            "full_attention": create_bidirectional_mask(**given),
            "sliding_attention": create_bidirectional_sliding_window_mask(**given),
        }
        places = torch.arange(hidden.shape[1], device=hidden.device).unsqueeze(0)
        rest = {
            kind: (masks[kind], self.encoder.rotary_emb(hidden, places, kind))
            for kind in dict.fromkeys(self.config.layer_types)
        }
        return Context(attention_mask, rest)

    def layer(self, index: int, hidden: Tensor, context: Context) -> Tensor:
        stock = self.encoder.layers[index]
        mask, positions = context.rest[stock.attention_type]
        after: Tensor = stock(hidden, attention_mask=mask, position_embeddings=positions)
        return after

    def head(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if not self.has_head:
            raise no_head(self.model)
        model: Any = self.model
        hidden = self.encoder.final_norm(hidden)
        if self.config.classifier_pooling == "cls":
            pooled = hidden[:, 0]
        elif attention_mask is None:
            pooled = hidden.mean(1)
        else:
            present = attention_mask.unsqueeze(-1)
            pooled = (hidden * present).sum(1) / present.sum(1)
        logits: Tensor = model.classifier(model.drop(model.head(pooled)))
        return logits
