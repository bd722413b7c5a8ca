"""Learning to look past and ahead: the criterion `past_future`, with encoder and exits as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dynflow.nodes.early_exit_classifier.criteria.learnt import Learnt, Lesson
from dynflow.nodes.early_exit_classifier.past_future import PastFuture, PastFutureShape

if TYPE_CHECKING:
    from torch import Tensor

_SIZE = 12
"""Numbers that a state is shrunk to; as many as there are labels, if these are more."""
_EPOCHS = 2
_LEAST_STEPS = 200
"""Where rows are few, there are more epochs."""
_BATCH_ROWS = 128
_RATE = 3e-3
_DISTIL = 0.5
"""Share of the last exit's probabilities in what is to be told; the labels' is the rest."""


def learn(lesson: Lesson) -> Learnt:
    """Fit shrinking, imitation and decision together, on the rows that encoder and exits were trained on.

    The loss of an exit is its classification's, and the cosine distance of each imitated state from the one that the
    row came to have (GPFEE, 2021.naacl-main.162, section 3).
    """
    rows, _exits, width = lesson.trained.states.shape
    labels = lesson.trained.logits.shape[-1]
    truth = functional.one_hot(torch.from_numpy(lesson.trained.truth.astype(np.int64)), labels)
    said = torch.from_numpy(lesson.trained.logits)
    target = (1 - _DISTIL) * truth + _DISTIL * functional.softmax(said[:, -1], dim=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        size = max(_SIZE, labels)
        readout = PastFuture(PastFutureShape(lesson.layers, width, size, labels))
        last = nn.Sequential(nn.Linear(width, size), nn.Tanh(), nn.Linear(size, labels))
        optimiser = torch.optim.AdamW([*readout.parameters(), *last.parameters()], lr=_RATE, fused=True)
        batches = -(-rows // _BATCH_ROWS)
        epochs = max(_EPOCHS, -(-_LEAST_STEPS // batches))
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, epochs * batches)
        for _epoch in range(epochs):
            for batch in torch.split(torch.randperm(rows), _BATCH_ROWS):
                states = torch.from_numpy(lesson.trained.states[batch.numpy()]).float()
                loss = _loss(readout, last, states, said[batch], target[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
    return readout.learnt()


def _loss(readout: PastFuture, last: nn.Sequential, states: Tensor, said: Tensor, target: Tensor) -> Tensor:
    """`last` shrinks the state after the last layer, which is to be imitated, and learns by classifying too."""
    memory: Tensor | None = None
    futures: list[Tensor] = []
    shrunk = last[:2](states[:, -1])
    loss = functional.cross_entropy(last[2](shrunk), target)
    for place, layer in enumerate(readout.shape.layers[:-1]):
        logits, memory, future = readout.looked(layer, states[:, place], said[:, place], memory)
        loss = loss + functional.cross_entropy(logits, target)
        futures.append(future)
    real = torch.cat([shrunk] if memory is None else [memory, shrunk], dim=1).detach()
    for future in futures:
        parts = (len(future), -1, readout.shape.size)
        imitated, aim = future.view(parts), real[:, -future.shape[1] :].reshape(parts)
        loss = loss + (1 - functional.cosine_similarity(imitated, aim, dim=-1)).mean()
    return loss
