"""PastFuture: logits from the states at all exits so far, and from imitations of those at the exits to come."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dynflow.nodes.early_exit_classifier.criteria.learnt import Learnt
from dynflow.nodes.early_exit_classifier.readout import Readout

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PastFutureShape:
    """`layers` after which there are exits, the last one too; `width` of states, `size` that they are shrunk to."""

    layers: tuple[int, ...]
    width: int
    size: int
    labels: int


class PastFuture(Readout):
    """GPFEE (NAACL 2021, 2021.naacl-main.162, section 3), small enough to cost next to nothing beside a layer.

    At an exit the state is shrunk to a few numbers; one linear imitator makes the shrunk states of all later exits from
    those so far; and what one linear classifier reads from past and imitated future together is added to what the exit
    itself says, which takes the place of the paper's whole states.
    """

    def __init__(self, shape: PastFutureShape) -> None:
        super().__init__()
        self.shape = shape
        self._places = {layer: place for place, layer in enumerate(shape.layers[:-1])}
        exits, size = len(shape.layers), shape.size
        self.shrink = nn.ModuleList(nn.Linear(shape.width, size) for _ in self._places)
        self.imitate = nn.ModuleList(
            nn.Linear((place + 1) * size, (exits - place - 1) * size) for place in range(exits - 1)
        )
        self.decide = nn.ModuleList(nn.Linear(exits * size, shape.labels) for _ in self._places)
        for each in self.decide.parameters():
            nn.init.zeros_(each)  # to begin with what the exit says

    @classmethod
    def of(cls, learnt: Learnt) -> PastFuture:
        """The one that `learnt` tells. Raises TypeError, KeyError or RuntimeError where it tells none."""
        made = cls(PastFutureShape(**{**learnt.facts, "layers": tuple(learnt.facts["layers"])}))
        made.load_state_dict({name: value.float() for name, value in learnt.tensors.items()})
        return made.eval()

    def learnt(self) -> Learnt:
        """As an artefact keeps it, in half precision."""
        facts: dict[str, Any] = {**asdict(self.shape), "layers": list(self.shape.layers)}
        return Learnt(facts, {name: value.half() for name, value in self.state_dict().items()})

    def forward(self, layer: int, state: Tensor, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        told, past, _future = self.looked(layer, state, logits, memory)
        return told, past

    def looked(self, layer: int, state: Tensor, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (rows, labels); the shrunk states of the exits so far, and imitations of the others', (rows, …)."""
        place = self._places[layer]
        present = torch.tanh(self.shrink[place](state))
        past = present if memory is None else torch.cat([memory, present], dim=1)
        future = torch.tanh(self.imitate[place](past))
        return logits + self.decide[place](torch.cat([past, future], dim=1)), past, future
