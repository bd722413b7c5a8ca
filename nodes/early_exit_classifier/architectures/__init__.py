"""One adapter for each architecture of transformers whose encoder can be left between its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.errors import ArtefactError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The adapter of this model. Raises ArtefactError for an architecture that has none."""
    from dynflow.nodes.early_exit_classifier.architectures.bert import Bert

    known = {family: kind for kind in (Bert,) for family in kind.families}
    kind = known.get(model.config.model_type)
    if kind is None:
        raise ArtefactError(
            f"early exits are known for {', '.join(known)}, not for the architecture {model.config.model_type!r}"
        )
    return kind(model)
