"""LearntCriterion: a criterion that rests on something learnt from rows, which an artefact keeps for it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynflow.nodes.early_exit_classifier.criteria.criterion import Criterion

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from dynflow.nodes.early_exit_classifier.readout import Readout


@dataclass(frozen=True)
class Recording:
    """What whole runs had at each exit, [rows, exits, …], and the place of each row's true label, [rows]."""

    states: NDArray[np.float16]
    """Hidden states, pooled as the exits pool them: [rows, exits, width]."""
    logits: NDArray[np.float32]
    """Of the exits: [rows, exits, labels]."""
    truth: NDArray[np.intp]


@dataclass(frozen=True)
class Lesson:
    """What a criterion learns from.

    `layers` after which there are exits. `trained` are rows that encoder and exits were trained on: many, and too well
    known to them. `fresh` are rows that they were not trained on: fewer, and as new texts are.
    """

    layers: tuple[int, ...]
    trained: Recording
    fresh: Recording
    seed: int


@dataclass(frozen=True)
class Learnt:
    """What a criterion has learnt: `facts` as JSON has them, `tensors` by name."""

    facts: Mapping[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)


class LearntCriterion(Criterion):
    """A criterion that an artefact must have been taught: `dynflow train exit-criteria`.

    Whatever takes long is imported inside `learn` and `readout` only, since graphs are checked without it.
    """

    def __init__(self, threshold: float, facts: Mapping[str, Any]) -> None:
        """`facts` are those of `learn`. Raises ValueError for a threshold, or facts, that can be none."""
        super().__init__(threshold)

    @classmethod
    @abstractmethod
    def learn(cls, lesson: Lesson) -> Learnt:
        """What there is to know, from these rows."""

    @classmethod
    def readout(cls, learnt: Learnt) -> Readout | None:
        """What turns states into the probabilities that this criterion reads; None where it reads the exits'.

        Raises ValueError, KeyError or RuntimeError for what `learn` cannot have made.
        """
        return None
