"""What decides how many steps an image takes: each decider may lower its plan, and may end its run."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from dynflow.nodes.adaptive_diffusion.finishing import Rest

Watch = Callable[["torch.Tensor", int], bool]
"""`watch(clean, left)`: whether an image may stop; its predicted clean latents, and how many planned steps are left."""

TURNINGS = frozenset(round(2 ** (third / 3)) for third in range(3, 31))
"""Steps after which a run may be left to be finished: 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40 and so on.

Each is about a quarter more than the last: images that come to rest at about the same time finish in one batch, and a
recording of all that could happen is of these.
"""


def turnings(total: int, finish: int) -> list[int]:
    """After which steps a run of so many may be left, to be finished in fewer than are left."""
    return [steps for steps in sorted(TURNINGS) if total - steps > finish]


@dataclass(slots=True)
class Decision:
    """What one decider says of one image."""

    planned: int
    """Steps that its schedule has."""
    watch: Callable[[], Watch] | None = None
    """Begins to watch a run of it; called anew where a run is begun again."""
    settle: Callable[[int, float], object] = lambda taken, seconds: None
    """Told of its end: steps taken, 0 where it was not drawn, and seconds."""
    finish: int = 0
    """Longer steps that take what is left where it is stopped; 0: it ends there, with its clean image."""
    follow: Callable[[Rest], object] | None = None
    """Told after each step where its run stands, in any case."""


def drift(before: torch.Tensor, now: torch.Tensor, left: int) -> torch.Tensor:
    """About how far clean images [n, …] would still go at the pace of their last step, relative to their size: [n].

    The change since the step before, as root mean square over the image's own, times the steps that are `left`.
    """
    changed, size = ((each.flatten(1).square().mean(1)).sqrt() for each in (now - before, now))
    return (left * changed / size).masked_fill(changed == 0, 0.0)  # black that stays black has come to rest


class Decider(ABC):
    """Deciders are asked in turn, each with the plan that those before it have left."""

    @abstractmethod
    def decide(self, prompt: str, steps: int) -> Decision:
        """How an image with this prompt should run, in `steps` steps at most."""


@dataclass(frozen=True, slots=True)
class Converge(Decider):
    """Stop where the predicted clean image no longer moves: keep that image, or take what is left in `finish` steps.

    Its `drift` must be at most `threshold` at `patience` steps in a row, of which the first is at least step `least`.
    To be finished it is left at a turning only.
    """

    threshold: float
    patience: int = 1
    least: int = 2
    finish: int = 0

    def decide(self, prompt: str, steps: int) -> Decision:
        return Decision(steps, watch=self._watch, finish=self.finish)

    def _watch(self) -> Watch:
        before: torch.Tensor | None = None
        taken = calm = 0

        def watch(clean: torch.Tensor, left: int) -> bool:
            nonlocal before, taken, calm
            now, last, before = clean.float(), before, clean.float()
            taken += 1
            if last is None or taken < self.least:
                return False
            calm = calm + 1 if float(drift(last[None], now[None], left)) <= self.threshold else 0
            return calm >= self.patience and (not self.finish or taken in TURNINGS)

        return watch


@dataclass(slots=True)
class Account:
    """What a stream of images has left of its budget; shared by all requests of a node.

    An image that was not drawn is none of the stream: it takes nothing, and leaves nothing to others.
    """

    saved: float = 0.0
    """What images before have left over, in the budget's unit; negative where they took more."""
    seconds_per_step: float | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class BudgetOfSteps(Decider):
    """Hold the mean of steps: an image gets the mean, and what those before it have left over.

    So at no time have n images been given more than n times the mean.
    """

    mean: float
    account: Account

    def decide(self, prompt: str, steps: int) -> Decision:
        account = self.account
        with account.lock:
            planned = max(1, min(steps, math.floor(self.mean + account.saved + 1e-9)))
            account.saved += self.mean - planned

        def settle(taken: int, _seconds: float) -> None:
            with account.lock:
                account.saved += planned - (taken if taken else self.mean)

        return Decision(planned, settle=settle)


@dataclass(frozen=True, slots=True)
class BudgetOfSeconds(Decider):
    """Hold the mean of seconds, at the pace of the images before; the first one sets it.

    A debt is carried: where an image takes longer, those after it get fewer steps, one at the least.
    """

    mean: float
    account: Account

    def decide(self, prompt: str, steps: int) -> Decision:
        account = self.account
        with account.lock:
            pace = account.seconds_per_step
            affordable = steps if pace is None else math.floor((self.mean + account.saved) / pace)
            planned = max(1, min(steps, affordable))
            reserved = planned * (pace or 0.0)
            account.saved += self.mean - reserved

        def settle(taken: int, seconds: float) -> None:
            with account.lock:
                account.saved += reserved - (seconds if taken else self.mean)
                if taken:
                    newest = seconds / taken
                    known = account.seconds_per_step
                    account.seconds_per_step = newest if known is None else 0.7 * known + 0.3 * newest

        return Decision(planned, settle=settle)
