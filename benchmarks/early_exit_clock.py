"""Wall-clock of early exit against the stock transformers model, in one process, the contenders in turn."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from dynflow.learning.kept import Progress
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.base import load_base
from dynflow.nodes.early_exit_classifier.criteria import Criterion
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.reading import Tokens

STOCK = "stock"
BATCH = 32
ONE_BY_ONE, UNSORTED, SORTED = "batch 1", f"batch {BATCH}", f"batch {BATCH}, sorted by length"
Run = Callable[[Sequence[Tokens]], Any]


class Stock:
    """The model as transformers runs it, all layers, with the artefact's last head."""

    def __init__(self, described: artefact.Described, model: EarlyExitModel) -> None:
        self._encoder = load_base(described.facts.base, described.folder)[0].base_model
        self._encoder.load_state_dict(model.encoder.state_dict())
        self._encoder.eval()
        self._model = model

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[Tokens]) -> list[int]:
        """The place of each row's label; the rows are one batch."""
        model = self._model
        ids, mask = model.reader.batch(tokens)
        hidden = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        labels: list[int] = model.heads(model.architecture.depth, hidden, mask).argmax(-1).tolist()
        return labels


def timed(
    model: EarlyExitModel,
    stock: Stock,
    texts: Sequence[str],
    criteria: Mapping[str, Criterion],
    rows: int,
    rounds: int,
    progress: Progress,
) -> dict[str, Any]:
    """Seconds of the stock model, of ours without exits, and of each criterion, by way of batching. Reading the texts
    is in nobody's time."""
    drawn = random.Random(0).sample(list(texts), min(rows, len(texts)))
    tokens = [model.reader.read(text) for text in drawn]
    contenders: dict[str, Run] = {STOCK: stock, "all layers": partial(model.classify_tokens, criterion=None)}
    for name, criterion in criteria.items():
        contenders[name] = partial(model.classify_tokens, criterion=criterion)
    ordered = sorted(tokens, key=len)
    ways = {
        ONE_BY_ONE: [[each] for each in tokens],
        UNSORTED: [tokens[at : at + BATCH] for at in range(0, len(tokens), BATCH)],
        SORTED: [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)],
    }
    return {
        "rows": len(tokens),
        "layers": {
            name: float(np.mean([found.layer for found in model.classify_tokens(tokens, criterion)]))
            for name, criterion in criteria.items()
        },
        "seconds": {way: _seconds(contenders, batches, rounds, way, progress) for way, batches in ways.items()},
    }


def _seconds(
    contenders: Mapping[str, Run], batches: Sequence[Sequence[Tokens]], rounds: int, way: str, progress: Progress
) -> dict[str, float]:
    """Seconds of all batches, by contender: of each batch the median over the rounds, so that a hitch counts for
    nothing; the contenders take turns at each batch."""
    for run in contenders.values():
        run(batches[0])
    found = {name: np.zeros((rounds, len(batches))) for name in contenders}
    for turn in range(rounds):
        for place, batch in enumerate(batches):
            if place % 50 == 0:
                progress(turn * len(batches) + place, rounds * len(batches), way)
            for name, run in contenders.items():
                began = time.perf_counter()
                run(batch)
                found[name][turn, place] = time.perf_counter() - began
    progress(rounds * len(batches), rounds * len(batches), way)
    return {name: float(np.median(taken, axis=0).sum()) for name, taken in found.items()}
