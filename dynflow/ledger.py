"""What a request costs: per node, in all, against the baseline; and the budgets that hold it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dynflow.errors import BudgetExceeded
from dynflow.language.spec import Limits
from dynflow.models.settings import Price


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one model call used. `model` is an entry of `models:`."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        """Both together; the model named is the first one's."""
        return Usage(
            self.model,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )


def cost(price: Price | None, usage: Usage, seconds: float = 0.0) -> float | None:
    """USD of one call, or None where the price is unknown."""
    if price is None:
        return None
    cached = price.input if price.cached is None else price.cached
    fresh = max(0, usage.input_tokens - usage.cached_tokens)
    tokens = fresh * price.input + usage.cached_tokens * cached + usage.output_tokens * price.output
    return tokens / 1e6 + seconds * price.second


@dataclass(frozen=True, slots=True)
class Entry:
    """One node's line in the ledger."""

    node: str
    seconds: float
    usd: float | None
    usage: Usage | None = None


@dataclass
class Ledger:
    """All that one request cost, and what the baseline would have."""

    entries: list[Entry] = field(default_factory=list)
    baseline: str | None = None
    baseline_usd: float | None = None
    """Cost of the baseline answer; an estimate where it did not run: its price for this request's tokens."""

    @property
    def usd(self) -> float | None:
        """USD in all, or None where a price is unknown."""
        costs = [entry.usd for entry in self.entries]
        return None if None in costs else math.fsum(cost for cost in costs if cost is not None)

    @property
    def seconds(self) -> float:
        """Seconds that nodes ran, in all."""
        return math.fsum(entry.seconds for entry in self.entries)

    @property
    def saved_usd(self) -> float | None:
        """USD saved against the baseline; negative where the path cost more."""
        usd = self.usd
        return None if usd is None or self.baseline_usd is None else self.baseline_usd - usd

    def tokens(self) -> dict[str, int]:
        """Tokens in all: `input`, `output`."""
        used = [entry.usage for entry in self.entries if entry.usage is not None]
        return {
            "input": sum(usage.input_tokens for usage in used),
            "output": sum(usage.output_tokens for usage in used),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for metadata and JSON."""
        return {
            "usd": self.usd,
            "seconds": round(self.seconds, 6),
            "tokens": self.tokens(),
            "baseline": self.baseline,
            "baseline_usd": self.baseline_usd,
            "saved_usd": self.saved_usd,
            "nodes": [
                {
                    "node": entry.node,
                    "seconds": round(entry.seconds, 6),
                    "usd": entry.usd,
                    **(
                        {
                            "model": entry.usage.model,
                            "input_tokens": entry.usage.input_tokens,
                            "output_tokens": entry.usage.output_tokens,
                            "estimated": entry.usage.estimated,
                        }
                        if entry.usage
                        else {}
                    ),
                }
                for entry in self.entries
            ],
        }


class Allowance:
    """An amount of USD that reservations draw on; `None` is without end. Threads may share one."""

    def __init__(self, usd: float | None) -> None:
        self.limit = usd
        self._taken = 0.0
        self._lock = threading.Lock()

    @property
    def left(self) -> float:
        """USD neither spent nor reserved."""
        return math.inf if self.limit is None else max(0.0, self.limit - self._taken)

    def take(self, usd: float) -> bool:
        """Reserve, all or nothing."""
        with self._lock:
            if self.limit is not None and self._taken + usd > self.limit * (1 + 1e-9):
                return False
            self._taken += usd
            return True

    @property
    def period(self) -> str:
        """The time that the amount is for; a reservation of an earlier one is no longer part of it."""
        return ""

    def settle(self, reserved: float, actual: float) -> None:
        """Replace a reservation by what was really spent."""
        with self._lock:
            self._taken = max(0.0, self._taken + actual - reserved)


class DayAllowance(Allowance):
    """An allowance that begins anew each day (UTC). Kept in this process: each process has its own."""

    _of_files: ClassVar[dict[tuple[Path, float], DayAllowance]] = {}

    @classmethod
    def of(cls, usd: float | None, file: Path | None) -> DayAllowance:
        """The allowance of a graph: one for all flows made from the same file, one for each made from text."""
        if usd is None or file is None:
            return cls(usd)
        return cls._of_files.setdefault((file.resolve(), usd), cls(usd))

    def __init__(
        self, usd: float | None, today: Callable[[], str] = lambda: time.strftime("%Y-%m-%d", time.gmtime())
    ) -> None:
        super().__init__(usd)
        self._today = today
        self._day = today()

    @property
    def left(self) -> float:
        self._roll()
        return super().left

    def take(self, usd: float) -> bool:
        self._roll()
        return super().take(usd)

    @property
    def period(self) -> str:
        self._roll()
        return self._day

    def _roll(self) -> None:
        with self._lock:
            today = self._today()
            if today != self._day:
                self._day, self._taken = today, 0.0


class Budget:
    """One request's money: its own allowance, the day's, and those of the flows around it."""

    def __init__(self, limits: Limits, day: DayAllowance, outer: Budget | None = None) -> None:
        self.request = Allowance(limits.usd_per_request)
        self.day = day
        self.outer = outer
        self._periods: dict[int, str] = {}
        """When each allowance was last drawn on."""

    @property
    def request_left(self) -> float:
        """USD left for this request, here and in the flows around it."""
        return min(self.request.left, self.outer.request_left if self.outer else math.inf)

    @property
    def day_left(self) -> float:
        """USD left today, here and in the flows around it."""
        return min(self.day.left, self.outer.day_left if self.outer else math.inf)

    @property
    def _limited(self) -> bool:
        own = self.request.limit is not None or self.day.limit is not None
        return own or (self.outer is not None and self.outer._limited)

    def _allowances(self) -> list[Allowance]:
        return [self.request, self.day, *(self.outer._allowances() if self.outer else [])]

    def reserve(
        self, model: str, price: Price | None, input_tokens: int, max_tokens: int | None, room: int | None = None
    ) -> tuple[int | None, float]:
        """The max_tokens that the limits afford (None: no limit of ours) and the USD reserved for them.

        `room` is what the model's context leaves for the answer: limits that afford all of it limit nothing.
        Raises `BudgetExceeded` where the limits do not afford the call, or the price is unknown while one is set.
        """
        if not self._limited:
            return max_tokens, 0.0
        if price is None:
            raise BudgetExceeded(
                f"the price of {model!r} is unknown while a USD limit is set: give the model a `price:`"
            )
        prompt = input_tokens * price.input / 1e6
        per_token = price.output / 1e6
        most = max_tokens
        if max_tokens is None and per_token > 0:
            # The tiny addend: a limit that affords exactly n tokens must not lose one to rounding.
            most = int((min(self.request_left, self.day_left) - prompt) / per_token + 1e-6)
            if room is not None and 0 < room <= most:
                most = room
            else:
                max_tokens = most
        needed = prompt + per_token * (most or 0)
        if (per_token > 0 and max_tokens is not None and max_tokens < 1) or not self._take(needed):
            left = min(self.request_left, self.day_left)
            tokens = max(1, most or 0)
            could = prompt + per_token * tokens
            refused = BudgetExceeded(
                f"a call of {model!r} could cost ${could:.8f} (its prompt, and {tokens} tokens of answer); "
                f"limits leave ${left:.8f}"
            )
            refused.limit = "usd_per_day" if self.day_left < self.request_left else "usd_per_request"
            raise refused
        return max_tokens, needed

    def settle(self, reserved: float, actual: float) -> None:
        """Replace a reservation by what was really spent."""
        for allowance in self._allowances():
            same = self._periods.get(id(allowance)) == allowance.period
            allowance.settle(reserved if same else 0.0, actual)

    def _take(self, usd: float) -> bool:
        taken: list[Allowance] = []
        for allowance in self._allowances():
            if not allowance.take(usd):
                for earlier in taken:
                    earlier.settle(usd, 0.0)
                return False
            taken.append(allowance)
            self._periods[id(allowance)] = allowance.period
        return True
