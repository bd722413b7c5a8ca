"""Architecture: where an encoder has its embeddings, its layers and its head, so that a run can stop between layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from dynflow.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Context:
    """What layers need besides the hidden states of a batch."""

    attention_mask: Tensor | None
    """(rows, columns), 1 for tokens and 0 for padding; None where nothing is padded."""
    rest: Any = None
    """Whatever else the architecture makes of it: an additive mask, positions."""


class Architecture(ABC):
    """One encoder of transformers, run layer by layer.

    `model` is the encoder alone (`BertModel`) or with its stock head (`BertForSequenceClassification`). Its own weights
    are used, and nothing in it is changed. A mask of None says that nothing is padded; it costs nothing then.
    """

    families: ClassVar[tuple[str, ...]]
    """`config.model_type` of the models that it runs."""
    pre_norm: ClassVar[bool] = False
    """Whether states are normalised before each layer, not after it, so that between layers they are not."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.encoder: Any = model.base_model
        self.config: Any = model.config

    @property
    def depth(self) -> int:
        """Layers of the whole encoder."""
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        """Numbers in a hidden state."""
        return int(self.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """The most tokens that a text can have."""
        return int(self.config.max_position_embeddings)

    @property
    def has_head(self) -> bool:
        """Whether the model has a stock head."""
        return self.model is not self.encoder

    @abstractmethod
    def embed(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None = None) -> Tensor:
        """Hidden states before the first layer: (rows, columns, width)."""

    def context(self, attention_mask: Tensor | None, hidden: Tensor) -> Context:
        """What the layers need for a batch of these hidden states; by default a mask to add to attention scores."""
        return Context(attention_mask, additive(attention_mask, hidden))

    @abstractmethod
    def layer(self, index: int, hidden: Tensor, context: Context) -> Tensor:
        """Hidden states after layer `index`, counted from 0."""

    @abstractmethod
    def head(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits (rows, labels) that the stock head makes of the last layer's hidden states."""

    def prepare(self) -> None:
        """Get ready for inference. Called again whenever modules or their weights may have been replaced."""

    @property
    def plain(self) -> bool:
        """Whether neither gradients nor dropout are wanted, so that a quicker way to the same numbers may be taken."""
        return not (torch.is_grad_enabled() or self.model.training)


def additive(attention_mask: Tensor | None, hidden: Tensor) -> Tensor | None:
    """(rows, 1, 1, columns): 0 for tokens and the least finite number for padding; None where nothing is padded."""
    if attention_mask is None:
        return None
    absent = attention_mask == 0
    return torch.zeros_like(absent, dtype=hidden.dtype).masked_fill_(absent, torch.finfo(hidden.dtype).min)[
        :, None, None, :
    ]


def no_head(model: PreTrainedModel) -> ArtefactError:
    return ArtefactError(
        f"{type(model).__name__} has no classification head: load a …ForSequenceClassification, or give it a head for "
        f"its last layer"
    )
