"""Stages of a training, and the loss of each of their steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from dynflow.nodes.early_exit_classifier.training.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """So many epochs with one optimiser.

    `last_only`: of which steps only the last exit learns, all or every other. `tunes`: whether the encoder learns.
    """

    name: str
    epochs: int
    last_only: bool = False
    alternates: bool = False
    tunes: bool = True

    def trains_last_only(self, step: int) -> bool:
        """Whether the last exit alone learns in this step."""
        return self.last_only or (self.alternates and step % 2 == 0)


def stages_of(recipe: Recipe) -> list[Stage]:
    """The stages, in order; the one alone comes first, if any."""
    alone = [Stage("the encoder alone", recipe.alone_epochs, last_only=True)] if recipe.alone_epochs else []
    main = {
        "joint": Stage("all exits", recipe.epochs),
        "two-stage": Stage("the other exits", recipe.epochs, tunes=False),
        "alternating": Stage("all exits and the last in turns", recipe.epochs, alternates=True),
    }[recipe.method]
    return [*alone, main]


class Loss:
    """What a step makes smaller: cross-entropy with the labels, and with the teacher's softened probabilities (Hinton
    et al., arXiv 1503.02531), weighted over the exits."""

    def __init__(self, recipe: Recipe, exits: int, class_weights: Tensor | None) -> None:
        self._recipe = recipe
        self._weights = recipe.weights(exits)
        self._class_weights = class_weights

    def __call__(self, logits: Sequence[Tensor], labels: Tensor, teacher: Tensor | None, last_only: bool) -> Tensor:
        """`logits` (rows, labels) of each exit. `teacher` are logits too; None is for the last exit's own."""
        if last_only:
            return self._of_exit(logits[-1].float(), labels, teacher)
        target = logits[-1].detach().float() if teacher is None else teacher
        total = torch.zeros(())
        for place, (weight, each) in enumerate(zip(self._weights, logits, strict=True)):
            imitates_itself = teacher is None and place == len(logits) - 1
            total = total + weight * self._of_exit(each.float(), labels, None if imitates_itself else target)
        return total / len(logits)

    def _of_exit(self, logits: Tensor, labels: Tensor, teacher: Tensor | None) -> Tensor:
        share = 0.0 if teacher is None else self._recipe.distil
        loss = (1 - share) * self._of_labels(logits, labels)
        return loss if teacher is None or not share else loss + share * self._of_teacher(logits, teacher)

    def _of_labels(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels, self._class_weights)

    def _of_teacher(self, logits: Tensor, teacher: Tensor) -> Tensor:
        heat = self._recipe.temperature
        softened = functional.log_softmax(logits / heat, dim=1)
        return (
            heat * heat * functional.kl_div(softened, functional.softmax(teacher / heat, dim=1), reduction="batchmean")
        )
