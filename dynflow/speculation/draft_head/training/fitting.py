"""Fits a draft head to the target's hidden states and its own text (needs torch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from dynflow.errors import InputError

if TYPE_CHECKING:
    from dynflow.learning.checkpoint import Checkpoint
    from dynflow.learning.kept import Progress
    from dynflow.speculation.draft_head.network import HeadNetwork, TargetWeights
    from dynflow.speculation.draft_head.training.writing import Answer

_STATES = 0.2
"""Weight of the loss on forecast states, in standard deviations, beside that on tokens."""
_WARM_UP = 0.05
"""Share of the steps in which the rate rises."""
_NORM = 1.0
"""To which gradients are cut."""


@dataclass(frozen=True)
class Fit:
    """How a head is fitted. `depth`: tokens that it drafts in a row while it learns; `rate`: of AdamW, at its peak."""

    epochs: int = 10
    depth: int = 4
    batch_rows: int = 8
    rate: float = 1e-3
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit(
    network: HeadNetwork,
    target: TargetWeights,
    answers: Sequence[Answer],
    how: Fit,
    checkpoint: Checkpoint,
    progress: Progress,
) -> None:
    """Teach the network, in place. Raises InputError where it diverges."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=how.rate, betas=(0.9, 0.95), weight_decay=0.01)
    steps_of_epoch = math.ceil(len(answers) / how.batch_rows)
    steps, done = how.epochs * steps_of_epoch, 0
    if (state := checkpoint.read()) is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["done"]
    spread = torch.cat([answer.states[:8].float() for answer in answers]).std(dim=0).clamp(min=1e-3)
    for step in range(done, steps):
        progress(step, steps, "fitting the head")
        epoch, place = divmod(step, steps_of_epoch)
        order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(how.seed + epoch)).tolist()
        batch = [answers[index] for index in order[place * how.batch_rows : (place + 1) * how.batch_rows]]
        for group in optimiser.param_groups:
            group["lr"] = how.rate * _rate(step / steps)
        loss = _loss(network, target, batch, how.depth, spread)
        if not math.isfinite(loss.item()):
            raise InputError(f"the training diverged in step {step}: give a smaller --rate than {how.rate:g}")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), _NORM)
        optimiser.step()
        if checkpoint.is_due():
            checkpoint.keep({"network": network.state_dict(), "optimiser": optimiser.state_dict(), "done": step + 1})
    progress(steps, steps, "fitting the head")


def _rate(share: float) -> float:
    """Of the peak, at this share of the steps: up in a line, down along a cosine."""
    return min(share / _WARM_UP + 0.01, 1.0, 0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)


def _loss(network: HeadNetwork, target: TargetWeights, batch: Sequence[Answer], depth: int, spread: Tensor) -> Tensor:
    """Cross-entropy with the target's own distribution over the draft vocabulary, and distance from its states."""
    tokens = pad_sequence([answer.tokens for answer in batch], batch_first=True)
    states = pad_sequence([answer.states for answer in batch], batch_first=True).float()
    there = pad_sequence([torch.ones_like(answer.tokens) for answer in batch], batch_first=True).bool()
    embedded = target.embed(tokens).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=target.dtype == torch.bfloat16):
        with torch.no_grad():
            meant = target.logits(states).float().softmax(dim=-1)
        total, forecast = torch.zeros(()), states
        for ahead in range(1, min(depth, tokens.shape[1] - 1) + 1):
            forecast = network(forecast[:, :-1], embedded[:, ahead - 1 : -1])
            counted = there[:, ahead:]
            said = target.logits(forecast[counted]).float().log_softmax(dim=-1)
            missed = (forecast[counted].float() - states[:, ahead:][counted]) / spread
            total = total - (meant[:, ahead:][counted] * said).sum(dim=-1).mean()
            total = total + _STATES * functional.smooth_l1_loss(missed, torch.zeros_like(missed))
    return total / depth
