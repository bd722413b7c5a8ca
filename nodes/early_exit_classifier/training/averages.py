"""Averages of weights over a training's last steps, which are better than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_EVERY = 4
"""Steps between two that are averaged: neighbours hardly differ."""
_WARM_UP = 10


class Averages:
    """Exponential averages of parameters over about so many steps (Polyak averaging; Adam, arXiv 1412.6980, section
    7.2). At first they forget faster, so that they do not remember where the training began."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], steps: int) -> None:
        self._parameters = [each.data for each in parameters]
        self._averages = [each.clone() for each in self._parameters]
        self._least = _EVERY / steps
        """The part that a step makes of the averages, once they are warm."""
        self._steps = 0

    def add(self) -> None:
        """Take note of the parameters after a step."""
        self._steps += 1
        if self._steps % _EVERY == 0:
            taken = self._steps // _EVERY
            part = max(self._least, 1 - (1 + taken) / (_WARM_UP + taken))
            torch._foreach_lerp_(self._averages, self._parameters, part)

    def put(self) -> None:
        """Give the parameters their averages."""
        torch._foreach_copy_(self._parameters, self._averages)

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"averages": self._averages, "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another was."""
        torch._foreach_copy_(self._averages, state["averages"])
        self._steps = state["steps"]
