"""What one visit owes: a charge for each attempt at a model, reserved before it is sent and settled once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from dynflow.budgets import Reservation
from dynflow.errors import ArtefactError, MissingDependency, MissingModel, Overloaded, failure_kind
from dynflow.ledger import Usage, cost
from dynflow.models.settings import Price
from dynflow.prompt_size import PromptSize
from dynflow.request import estimate_tokens

_UNBILLED = frozenset({"auth", "invalid", "rate_limit", "budget"})
"""Failures after which upstream surely billed nothing."""
_NEVER_SENT = (ArtefactError, MissingDependency, MissingModel, Overloaded, ConnectionRefusedError)
"""Failures before anything went upstream."""


class Charge:
    """One attempt at a model. Open until it is settled; what becomes of a settled one changes nothing."""

    def __init__(
        self,
        model: str,
        price: Price | None,
        prompt: PromptSize,
        max_tokens: int | None,
        reservation: Reservation,
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        """Most tokens that the answer may have; None where no limit of ours says so."""
        self.usage: Usage | None = None
        """What it used, once it is settled; None where upstream billed nothing."""
        self.usd: float | None = 0.0
        """What it cost, once it is settled; None where the price is unknown."""
        self.seconds = 0.0
        self.first_token_seconds: float | None = None
        """From its start until the first content came; None where nothing came in parts."""
        self.open = True
        self._price = price
        self._prompt_tokens = prompt.tokens
        self._reservation = reservation
        self._received: int | None = None
        self._began = time.perf_counter()

    def receive(self, text: str) -> None:
        """A part of the answer has come: should it break off, so much of it was surely written."""
        if text and self.first_token_seconds is None:
            self.first_token_seconds = time.perf_counter() - self._began
        self._received = (self._received or 0) + estimate_tokens(text)

    def used(self, usage: Usage, share: float = math.inf) -> None:
        """Settle at what the model says it used.

        Seconds of compute are what the model was at work where it says so, else the time since the charge was made,
        or `share`, this request's share of a batch, where that is less.
        """
        if usage.estimated and not usage.input_tokens:
            usage = replace(usage, input_tokens=self._prompt_tokens)
        if usage.compute is not None:
            watts = self._price.watts if self._price else None
            usage = replace(usage, compute=usage.compute.estimated(watts))
        seconds = usage.compute.seconds if usage.compute else self._elapsed(share)
        self._settle(usage, cost(self._price, usage, seconds), seconds)

    def failed(self, error: BaseException | None, share: float = math.inf) -> None:
        """Settle an attempt that failed, or (None) that was cut off: nothing where nothing came and surely nothing was
        billed, else the prompt and the received tokens, else, with nothing received, all that was reserved."""
        seconds = self._elapsed(share)
        if error is not None and surely_unbilled(error) and not self._received:  # a stream may end with a 429, too
            self._settle(None, 0.0, seconds)
            return
        usage = Usage(self.model, self._prompt_tokens, self._received or 0, estimated=True)
        unknown = self._received is None and self._reservation.usd > 0
        self._settle(usage, self._reservation.usd if unknown else cost(self._price, usage, seconds), seconds)

    def _elapsed(self, share: float) -> float:
        return min(time.perf_counter() - self._began, share)

    def _settle(self, usage: Usage | None, usd: float | None, seconds: float) -> None:
        if not self.open:
            return
        self.open = False
        self.usage, self.usd, self.seconds = usage, usd, seconds
        self._reservation.settle(self._reservation.usd if usd is None else usd)


def settle(
    charges: Sequence[Charge], usage: Usage | None, error: BaseException | None, seconds: float
) -> tuple[Usage | None, float | None]:
    """Settle what is still open as a visit ends; what it used and cost in all.

    `usage` is what the node says of its last attempt. Without it, and without an error, the visit was cut off.
    """
    *earlier, last = charges
    for charge in earlier:
        charge.failed(error)
    left = max(0.0, seconds - math.fsum(charge.seconds for charge in earlier))
    if usage is not None:
        last.used(usage, left)
    else:
        last.failed(error, left)
    return total(charges)


def total(charges: Sequence[Charge]) -> tuple[Usage | None, float | None]:
    """Usage and USD of settled charges together."""
    usage: Usage | None = None
    for charge in charges:
        if charge.usage is not None:
            usage = charge.usage if usage is None else usage + charge.usage
    costs = [charge.usd for charge in charges]
    return usage, None if None in costs else math.fsum(usd for usd in costs if usd is not None)


def surely_unbilled(error: BaseException) -> bool:
    """Whether upstream surely billed nothing; providers mark such errors of theirs with `billed = False`."""
    marked = getattr(error, "billed", True) is False
    return marked or failure_kind(error) in _UNBILLED or isinstance(error, _NEVER_SENT)
