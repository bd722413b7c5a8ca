"""The training loop: stages, steps, and a state kept on disk from which a killed training goes on unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dynflow.errors import InputError
from dynflow.learning.precision import half_precision
from dynflow.nodes.early_exit_classifier.training.stages import Loss, Stage, stages_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from dynflow.learning.checkpoint import Checkpoint
    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
    from dynflow.nodes.early_exit_classifier.reading import Tokens
    from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

_WARM_UP = 0.05
"""Share of a stage's steps in which the rate rises."""
_MOST_GRADIENT = 1.0
_JUDGED_ROWS = 256


class Fitting:
    """One training of a model on rows. `fit` runs it; the model is changed in place."""

    def __init__(
        self,
        model: EarlyExitModel,
        recipe: Recipe,
        tokens: Sequence[Tokens],
        labels: Sequence[int],
        checkpoint: Checkpoint,
        progress: Callable[[int, int, str], None],
        *,
        held_out: Sequence[Tokens] = (),
        teacher: Tensor | None = None,
    ) -> None:
        """`tokens` and `labels` are learnt, and `teacher`, a larger model's logits on them, is imitated from the
        beginning; of `held_out`, only `alone` is told."""
        self._model = model
        self._recipe = recipe
        self._tokens = tokens
        self._labels = torch.tensor(labels)
        self._checkpoint = checkpoint
        self._progress = progress
        self._loss = Loss(recipe, len(model.layers), self._class_weights() if recipe.balanced else None)
        self._given = teacher is not None
        self._teacher = teacher
        """Logits (rows, labels) to imitate: those given, else of the last exit as it was trained alone."""
        self._held_out = held_out
        self.alone: Tensor | None = None
        """Logits (rows, labels) on the rows held out, of encoder and last exit trained alone."""

    def fit(self) -> None:
        """Run all stages, or what an earlier run has left of them. Raises InputError where a loss is not finite."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._recipe.seed)
            stages = stages_of(self._recipe)
            kept = self._checkpoint.read()
            if kept is not None:
                self._model.load_state_dict(kept["model"])
                self._teacher, self.alone = kept["teacher"], kept["alone"]
                torch.set_rng_state(kept["random"])
            for number, stage in enumerate(stages):
                if kept is None or number == kept["stage"]:
                    self._run(number, stage, kept)
                    kept = None
                    if number + 1 < len(stages):
                        self._end(number, stage)
        self._model.eval()

    def _run(self, number: int, stage: Stage, kept: dict[str, Any] | None) -> None:
        model, steps = self._model, stage.epochs * -(-len(self._tokens) // self._recipe.batch_rows)
        self._choose_trained(stage)
        optimiser = self._optimiser()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
        begun = 0
        if kept is not None and "optimiser" in kept:
            optimiser.load_state_dict(kept["optimiser"])
            schedule.load_state_dict(kept["schedule"])
            begun = kept["step"]
        for step, rows in enumerate(self._batches(number, stage.epochs)):
            if step < begun:
                continue
            self._progress(step, steps, stage.name)
            if self._checkpoint.is_due():
                states = {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
                self._keep(number, step=step, **states)
            last_only = stage.trains_last_only(step)
            teacher = None if self._teacher is None else self._teacher[rows]
            with half_precision():
                logits = self._logits([self._tokens[row] for row in rows])
            loss = self._loss(logits, self._labels[rows], teacher, last_only)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            gradient = torch.nn.utils.clip_grad_norm_(model.parameters(), _MOST_GRADIENT)
            if not (loss.isfinite() and gradient.isfinite()):
                raise InputError(
                    f"the training diverged: {stage.name}, step {step + 1:,} of {steps:,}, has a loss of {loss.item()} "
                    f"with a gradient of {gradient.item()}; lower the rates, --rate and --heads-rate"
                )
            optimiser.step()
            schedule.step()
        self._progress(steps, steps, stage.name)

    def _end(self, number: int, stage: Stage) -> None:
        """What one stage leaves to the next."""
        if stage.last_only:
            if not self._given:
                self._teacher = self._last_logits(self._tokens)
            self.alone = self._last_logits(self._held_out)
        self._keep(number + 1)

    def _keep(self, stage: int, **of_stage: Any) -> None:
        self._checkpoint.keep(
            {
                "stage": stage,
                "model": self._model.state_dict(),
                "teacher": self._teacher,
                "alone": self.alone,
                "random": torch.get_rng_state(),
                **of_stage,
            }
        )

    def _choose_trained(self, stage: Stage) -> None:
        self._model.train()
        self._model.encoder.train(stage.tunes)
        self._model.encoder.requires_grad_(stage.tunes)

    def _optimiser(self) -> torch.optim.Optimizer:
        recipe = self._recipe
        encoder = [value for value in self._model.encoder.parameters() if value.requires_grad]
        groups = [
            {"params": [value for value in encoder if value.ndim > 1], "lr": recipe.rate, "weight_decay": recipe.decay},
            {"params": [value for value in encoder if value.ndim < 2], "lr": recipe.rate, "weight_decay": 0.0},
            {"params": list(self._model.heads.parameters()), "lr": recipe.heads_rate, "weight_decay": recipe.decay},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)

    def _batches(self, number: int, epochs: int) -> Iterator[NDArray[np.intp]]:
        """Rows of each step: about equally long ones together, in an order that the seed gives."""
        lengths = np.array([len(each) for each in self._tokens])
        for epoch in range(epochs):
            draw = np.random.default_rng((self._recipe.seed, number, epoch))
            order = np.argsort(lengths + draw.random(len(lengths)), kind="stable")
            batches = [order[at : at + self._recipe.batch_rows] for at in range(0, len(order), self._recipe.batch_rows)]
            for place in draw.permutation(len(batches)):
                yield batches[place]

    def _logits(self, tokens: Sequence[Tokens]) -> list[Tensor]:
        logits: list[Tensor] = self._model(*self._model.reader.batch(tokens))
        return logits

    @torch.no_grad()
    def _last_logits(self, tokens: Sequence[Tokens]) -> Tensor:
        self._model.eval()
        found = torch.zeros(len(tokens), len(self._model.labels))
        order = np.argsort([len(each) for each in tokens], kind="stable")
        for at in range(0, len(order), _JUDGED_ROWS):
            rows = order[at : at + _JUDGED_ROWS]
            with half_precision():
                found[torch.from_numpy(rows)] = self._logits([tokens[row] for row in rows])[-1].float()
        return found

    def _class_weights(self) -> Tensor:
        counts = torch.bincount(self._labels, minlength=len(self._model.labels)).clamp(min=1)
        return len(self._labels) / (len(counts) * counts)


def _rate(step: int, steps: int) -> float:
    warm = max(_WARM_UP * steps, 1.0)
    return min((step + 1) / warm, (steps - step) / max(steps - warm, 1.0), 1.0)
