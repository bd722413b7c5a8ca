"""One adapter for each architecture of transformers whose encoder can be left between its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.errors import ArtefactError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The adapter of this model. Raises ArtefactError for an architecture that has none."""
    from dynflow.nodes.early_exit_classifier.architectures.albert import Albert
    from dynflow.nodes.early_exit_classifier.architectures.bert import Bert
    from dynflow.nodes.early_exit_classifier.architectures.deberta_v2 import DebertaV2
    from dynflow.nodes.early_exit_classifier.architectures.distilbert import DistilBert
    from dynflow.nodes.early_exit_classifier.architectures.modernbert import ModernBert
    from dynflow.nodes.early_exit_classifier.architectures.roberta import Roberta

    kinds = (Bert, Roberta, Albert, DistilBert, DebertaV2, ModernBert)
    known: dict[str, type[Architecture]] = {family: kind for kind in kinds for family in kind.families}
    kind = known.get(model.config.model_type)
    if kind is None:
        raise ArtefactError(
            f"early exits are known for {', '.join(known)}, not for the architecture {model.config.model_type!r}"
        )
    if getattr(model.config, "is_decoder", False):
        raise ArtefactError("early exits are for encoders, and this model is configured as a decoder")
    return kind(model)
