"""DeBERTa, versions 2 and 3: attention by relative positions, and a convolution beside the first layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture, Context, no_head

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


class DebertaV2(Architecture):
    """The stock layers; what they share of a batch, positions above all, is made once for all layers."""

    families: ClassVar[tuple[str, ...]] = ("deberta-v2",)

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        self._positions: Tensor | None = None
        """Of the longest text so far, for inference: (1, columns, columns), of which a shorter one takes a corner."""
        self.prepare()

    def prepare(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            self._relative: Tensor | None = self.encoder.encoder.get_rel_embedding()

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden: Tensor = self.encoder.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, mask=mask)
        return hidden

    def context(self, attention_mask: Tensor | None, hidden: Tensor) -> Context:
        stack, columns = self.encoder.encoder, hidden.shape[1]
        mask = torch.ones(hidden.shape[:2], dtype=torch.long) if attention_mask is None else attention_mask
        if self.plain:
            relative = self._relative
            positions = self._positions
            if positions is None or positions.shape[-1] < columns:
                positions = self._positions = stack.get_rel_pos(hidden)
            positions = None if positions is None else positions[:, :columns, :columns]
        else:
            relative, positions = stack.get_rel_embedding(), stack.get_rel_pos(hidden)
        return Context(attention_mask, (mask, stack.get_attention_mask(mask), positions, relative))

    def layer(self, index: int, hidden: Tensor, context: Context) -> Tensor:
        stack = self.encoder.encoder
        mask, pairs, positions, relative = context.rest
        after: Tensor = stack.layer[index](hidden, pairs, relative_pos=positions, rel_embeddings=relative)[0]
        if index == 0 and stack.conv is not None:
            convolved: Tensor = stack.conv(hidden, after, mask)
            return convolved
        return after

    def head(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if not self.has_head:
            raise no_head(self.model)
        model: Any = self.model
        logits: Tensor = model.classifier(model.dropout(model.pooler(hidden)))
        return logits
