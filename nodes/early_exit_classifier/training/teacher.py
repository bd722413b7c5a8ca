"""A larger classifier, whose certainties a training imitates besides the labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dynflow.errors import InputError
from dynflow.learning.checkpoint import Checkpoint
from dynflow.nodes.early_exit_classifier.base import find_base, read_base, weights_digest

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from dynflow.learning.kept import Progress

_AT_ONCE = 64
_MOST_TOKENS = 512


@dataclass(frozen=True)
class Teacher:
    """A sequence classifier of transformers: the `model` that was named, its folder, and SHA-256 of its weights."""

    model: str
    place: Path
    sha256: str

    def logits(self, texts: Sequence[str], labels: Sequence[str], folder: Path, progress: Progress) -> Tensor:
        """What it makes of the texts, float32 (texts, labels), its classes in the order of `labels`.

        Kept in `folder` as it goes. Raises InputError where it does not tell these labels apart, and ArtefactError
        where it cannot be loaded.
        """
        model, tokenizer = read_base(self.place)
        columns = _columns(model, labels, self.model)
        told = hashlib.sha256(json.dumps([self.sha256, columns, list(texts)]).encode()).hexdigest()
        kept = Checkpoint(folder, told, "teacher")
        most = min(_MOST_TOKENS, getattr(model.config, "max_position_embeddings", _MOST_TOKENS))
        lengths = [len(each) for each in tokenizer(list(texts), truncation=True, max_length=most).input_ids]
        order = np.argsort(lengths, kind="stable")
        state = kept.read() or {"logits": torch.zeros(len(texts), len(labels)), "done": 0}
        found: Tensor = state["logits"]
        for at in range(state["done"], len(order), _AT_ONCE):
            progress(at, len(order), f"asking {self.model}")
            rows = order[at : at + _AT_ONCE]
            read = tokenizer(
                [texts[row] for row in rows],
                truncation=True,
                max_length=most,
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                found[torch.from_numpy(rows)] = model(**read).logits.float()[:, columns]
            if kept.is_due():
                kept.keep({"logits": found, "done": at + len(rows)})
        progress(len(order), len(order), f"asking {self.model}")
        kept.keep({"logits": found, "done": len(order)})
        return found


def find_teacher(model: str) -> Teacher:
    """The teacher of this folder or hub id. Raises MissingModel."""
    place = find_base(model)
    return Teacher(model, place, weights_digest(place))


def _columns(model: PreTrainedModel, labels: Sequence[str], name: str) -> list[int]:
    """Which of the model's classes each label is: by name, or in order where the model's have none."""
    named = {str(told).casefold(): place for place, told in (model.config.id2label or {}).items()}
    if not type(model).__name__.endswith("ForSequenceClassification"):
        raise InputError(f"the teacher {name} is no classifier: its class is {type(model).__name__}")
    if set(named) == {label.casefold() for label in labels}:
        return [int(named[label.casefold()]) for label in labels]
    if len(named) == len(labels) and set(named) == {f"label_{place}" for place in range(len(labels))}:
        return list(range(len(labels)))
    raise InputError(
        f"the teacher {name} tells {', '.join(named)} apart, and the data {', '.join(labels)}: give a teacher of these "
        "labels, or name yours as it does with --name LABEL=NAME"
    )
