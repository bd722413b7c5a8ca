"""EarlyExitModel: an encoder whose rows leave after the layer where they are sure enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from dynflow.errors import ArtefactError
from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion, shares_at
from dynflow.nodes.early_exit_classifier.heads import Heads, layers_of, pooled
from dynflow.nodes.early_exit_classifier.reading import Reader, Tokens

if TYPE_CHECKING:
    from torch import Tensor

    from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture
    from dynflow.nodes.early_exit_classifier.readout import Readout

BATCH_ROWS = 32
BATCH_TOKENS = 4096
"""In one pass, padding too: bounds the memory, and how long a run goes on when nobody waits for it any more."""
_PADDING = 32
"""Tokens of padding in one pass; beyond that a second pass is cheaper, which on a CPU costs as much as 10 tokens do."""


@dataclass(frozen=True, slots=True)
class Classified:
    """What was said of one text.

    `probabilities` are in the model's order of labels; `layer` of `layers` is where the row left.
    """

    label: str
    probabilities: tuple[float, ...]
    confidence: float
    layer: int
    layers: int
    notes: tuple[str, ...] = ()


class EarlyExitModel(torch.nn.Module):
    """An encoder, the heads between its layers, its tokenizer and its labels.

    Where the heads have none for the last layer, the stock head of the model stands there. Call `train` or `eval` again
    after replacing modules of the encoder.
    """

    def __init__(self, architecture: Architecture, heads: Heads, reader: Reader, labels: Sequence[str]) -> None:
        """Raises ArtefactError where these do not belong together."""
        super().__init__()
        self.architecture = architecture
        self.encoder = architecture.model
        self.heads = heads
        self.reader = reader
        self.labels = tuple(labels)
        self.layers = layers_of(heads.layers, architecture.depth)
        """After how many layers there is an exit, in order; the last one is the whole encoder."""
        self.learnt: dict[str, Mapping[str, Any]] = {}
        """What criteria have learnt, by name: `criterion_of` takes it."""
        self.readouts: dict[str, Readout] = {}
        """What those criteria read that the exits' own logits are not enough for, by name."""
        _agree(architecture, heads, self.labels)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.architecture.prepare()
        return self

    # One pass over all layers, for training, calibration and benchmarks.

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> list[Tensor]:
        """Logits (rows, labels) of every exit, in the order of `layers`. Differentiable."""
        return [self.exit(layer, hidden, attention_mask) for layer, hidden in self.passes(input_ids, attention_mask)]

    def exit(self, layer: int, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Logits (rows, labels) of the exit after `layer` layers."""
        if layer in self.heads.layers:
            logits: Tensor = self.heads(layer, hidden, attention_mask)
            return logits
        return self.architecture.head(hidden, attention_mask)

    def state(self, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Hidden states as the exits pool them: (rows, width)."""
        return pooled(hidden, attention_mask, self.heads.shape.pooling)

    def passes(self, input_ids: Tensor, attention_mask: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Hidden states (rows, columns, width) at every exit, with how many layers made them."""
        hidden = self.architecture.embed(input_ids, attention_mask)
        context = self.architecture.context(attention_mask, hidden)
        for layer in range(self.architecture.depth + 1):
            if layer:
                hidden = self.architecture.layer(layer - 1, hidden, context)
            if layer in self.layers:
                yield layer, hidden

    @torch.inference_mode()
    def trajectories(
        self, texts: Sequence[str], *, criterion: str | None = None, batch_rows: int = BATCH_ROWS
    ) -> NDArray[np.float32]:
        """Logits of every exit, as the criterion of this name reads them: float32 [rows, exits, labels].

        Rows are in the texts' order; by default the logits are the exits' own. Raises InputError as `classify`.
        """
        readout = self.readouts.get(criterion) if criterion is not None else None
        tokens = [self.reader.read(text) for text in texts]
        found = np.zeros((len(texts), len(self.layers), len(self.labels)), dtype=np.float32)
        for rows in _batches(tokens, batch_rows):
            ids, mask = self.reader.batch([tokens[row] for row in rows])
            memory: Tensor | None = None
            for place, (layer, hidden) in enumerate(self.passes(ids, mask)):
                logits = self.exit(layer, hidden, mask)
                if readout is not None and layer < self.architecture.depth:
                    logits, memory = readout(layer, self.state(hidden, mask), logits, memory)
                found[rows, place] = logits.numpy()
        return found

    @torch.inference_mode()
    def states(
        self, texts: Sequence[str], *, batch_rows: int = BATCH_ROWS
    ) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
        """Pooled hidden states [rows, exits, width] and logits [rows, exits, labels] of every exit, for learning."""
        tokens = [self.reader.read(text) for text in texts]
        states = np.zeros((len(texts), len(self.layers), self.architecture.width), dtype=np.float16)
        logits = np.zeros((len(texts), len(self.layers), len(self.labels)), dtype=np.float32)
        for rows in _batches(tokens, batch_rows):
            ids, mask = self.reader.batch([tokens[row] for row in rows])
            for place, (layer, hidden) in enumerate(self.passes(ids, mask)):
                states[rows, place] = self.state(hidden, mask).numpy()
                logits[rows, place] = self.exit(layer, hidden, mask).numpy()
        return states, logits

    # Early exit.

    def warm_up(self) -> None:
        """Run once, so that the first text does not wait for memory and threads."""
        self.classify_tokens([Tokens([self.reader.padding] * 8)], None)

    def classify(
        self,
        texts: Sequence[str],
        criterion: Criterion | None,
        *,
        batch_rows: int = BATCH_ROWS,
        check: Callable[[], None] | None = None,
    ) -> list[Classified]:
        """One result for each text, in their order; without a criterion every row takes all layers.

        `check` is called between layers, so that it can end a long run by raising. Raises InputError for an empty text
        or one of which the encoder knows no word, ArtefactError for weights that give no numbers.
        """
        return self.classify_tokens(
            [self.reader.read(text) for text in texts], criterion, batch_rows=batch_rows, check=check
        )

    @torch.inference_mode()
    def classify_tokens(
        self,
        tokens: Sequence[Tokens],
        criterion: Criterion | None,
        *,
        batch_rows: int = BATCH_ROWS,
        check: Callable[[], None] | None = None,
    ) -> list[Classified]:
        """The same for texts that were read already."""
        if len(tokens) == 1:
            return self._together(tokens, criterion, check)
        found: list[Classified | None] = [None] * len(tokens)
        for rows in _batches(tokens, batch_rows):
            for row, result in zip(rows, self._together([tokens[row] for row in rows], criterion, check), strict=True):
                found[row] = result
        return [result for result in found if result is not None]

    def _together(
        self, tokens: Sequence[Tokens], criterion: Criterion | None, check: Callable[[], None] | None
    ) -> list[Classified]:
        """One batch. Rows that are sure leave it, and columns of padding leave with their longest row."""
        architecture, depth = self.architecture, self.architecture.depth
        found: dict[int, Classified] = {}
        staying = list(range(len(tokens)))
        histories: list[list[list[float]]] = [[] for _ in tokens]
        readout = None if criterion is None else self.readouts.get(criterion.name)
        memory: Tensor | None = None  # of the readout
        input_ids, mask = self.reader.batch(tokens)
        hidden = architecture.embed(input_ids, mask)
        context = architecture.context(mask, hidden)
        for layer in range(depth + 1):
            if layer:
                if check is not None:
                    check()
                hidden = architecture.layer(layer - 1, hidden, context)
            last = layer == depth
            if not last and (criterion is None or layer not in self.layers or not criterion.reads(layer)):
                continue
            outputs = self.exit(layer, hidden, mask)
            if readout is not None and not last:
                outputs, memory = readout(layer, self.state(hidden, mask), outputs, memory)
            kept: list[int] = []  # places in the batch as it is
            for place, logits in enumerate(outputs.tolist()):
                row = staying[place]
                history = histories[row]
                history.append(shares_at(layer, logits))
                if last or (criterion is not None and criterion.leaves(history, layer)):
                    found[row] = self._classified(history, criterion, layer, tokens[row].notes)
                else:
                    kept.append(place)
            if not kept:
                break
            if len(kept) < len(staying):
                staying = [staying[place] for place in kept]
                lengths = [len(tokens[row]) for row in staying]
                columns = max(lengths)
                hidden = hidden[kept, :columns]
                memory = None if memory is None else memory[kept]
                mask = None if mask is None or min(lengths) == columns else mask[kept, :columns]
                context = architecture.context(mask, hidden)
        return [found[row] for row in range(len(tokens))]

    def _classified(
        self, history: list[list[float]], criterion: Criterion | None, layer: int, notes: tuple[str, ...]
    ) -> Classified:
        if criterion is None:
            shares = history[-1]
            place = shares.index(max(shares))
        else:
            place, given = criterion.answer(history)
            shares = list(given)
        return Classified(self.labels[place], tuple(shares), shares[place], layer, self.architecture.depth, notes)


def _batches(tokens: Sequence[Tokens], batch_rows: int) -> Iterator[list[int]]:
    """The rows, from short to long, parted into passes of at most `batch_rows` and little padding."""
    rows: list[int] = []
    whole = 0  # tokens of these rows, without padding
    for row in sorted(range(len(tokens)), key=lambda row: len(tokens[row])):
        columns = len(tokens[row])
        padded = (len(rows) + 1) * columns
        if rows and (len(rows) == batch_rows or padded > BATCH_TOKENS or padded - columns - whole > _PADDING):
            yield rows
            rows, whole = [], 0
        rows.append(row)
        whole += columns
    if rows:
        yield rows


def _agree(architecture: Architecture, heads: Heads, labels: tuple[str, ...]) -> None:
    shape, depth = heads.shape, architecture.depth
    if len(set(labels)) != len(labels) or len(labels) < 2:
        raise ArtefactError(f"labels are two or more, all different: {', '.join(labels)} are not")
    if shape.labels != len(labels):
        raise ArtefactError(
            f"the heads tell {shape.labels} labels apart, and {len(labels)} are named: {', '.join(labels)}"
        )
    if shape.width != architecture.width or (shape.layers and shape.layers[-1] > depth):
        raise ArtefactError(
            f"the heads were made for another model: for hidden states of {shape.width} numbers and exits after layers "
            f"{', '.join(map(str, shape.layers))}; this one has {architecture.width} and {depth} layers"
        )
    if depth in shape.layers:
        return
    if not architecture.has_head:
        raise ArtefactError("nothing stands after the last layer: the heads have none for it, and the model no own")
    if architecture.config.num_labels != len(labels):
        raise ArtefactError(
            f"the model's own head tells {architecture.config.num_labels} labels apart, and {len(labels)} are named: "
            f"{', '.join(labels)}"
        )
