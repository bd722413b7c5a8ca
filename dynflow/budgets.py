"""The limits in USD: what is reserved before a call and settled after it, for a request, a day, and callers."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

from dynflow.budget_store import MOST, BudgetStore
from dynflow.errors import BudgetExceeded, ParamError
from dynflow.language.spec import Limits
from dynflow.models.settings import Price
from dynflow.prompt_size import PromptSize
from dynflow.state import VARIABLE, state_folder

STORE_NAME = "budgets.sqlite3"
_log = logging.getLogger("dynflow")


def nano_dollars(usd: float) -> int:
    """USD as whole nano-dollars, rounded up but for what floats add by themselves; never less than none."""
    return MOST if usd >= MOST / 1e9 else max(0, math.ceil(usd * 1e9 - 1e-3))


def today() -> str:
    """The day that it is in UTC, such as `2026-01-31`."""
    return time.strftime("%Y-%m-%d", time.gmtime())


class Allowance(Protocol):
    """An amount of USD that reservations draw on."""

    @property
    def limit(self) -> str:
        """The key of `limits:` that sets it."""
        ...

    @property
    def left(self) -> float:
        """USD neither spent nor reserved."""
        ...

    def take(self, nano: int) -> int | None:
        """Reserve; what to settle it by, or None where so much is not left."""
        ...

    def settle(self, taken: int, nano: int) -> None:
        """Replace what was taken by what was really spent."""
        ...

    def spend(self, nano: int) -> None:
        """Count what nothing was reserved for."""
        ...


class RequestAllowance:
    """What one request may spend. Threads may share it."""

    limit = "usd_per_request"

    def __init__(self, usd: float) -> None:
        self._limit = nano_dollars(usd)
        self._taken = 0
        self._lock = threading.RLock()  # a finaliser may settle in the middle of a `take` of its thread

    @property
    def left(self) -> float:
        return max(0, self._limit - self._taken) / 1e9

    def take(self, nano: int) -> int | None:
        with self._lock:
            if self._taken + nano > self._limit:
                return None
            self._taken += nano
            return nano

    def settle(self, taken: int, nano: int) -> None:
        with self._lock:
            self._taken += nano - taken

    def spend(self, nano: int) -> None:
        self.settle(0, nano)


class TotalAllowance(RequestAllowance):
    """What many requests may spend together."""

    limit = "total"


class DayAllowance:
    """What all requests of a graph may spend in one UTC day, whichever process they run in."""

    limit = "usd_per_day"

    def __init__(self, usd: float, books: Books, today: Callable[[], str] = today) -> None:
        self._limit = nano_dollars(usd)
        self._books = books
        self._today = today

    @property
    def left(self) -> float:
        """USD neither spent nor reserved today; none where that cannot be told."""
        try:
            taken = self._books.store.taken(self._books.key, self._today())
        except BudgetExceeded as error:
            _log.warning("%s", error)
            return 0.0
        return max(0, self._limit - taken) / 1e9

    def take(self, nano: int) -> int | None:
        """Reserve. Raises `BudgetExceeded` where spending cannot be counted."""
        try:
            return self._books.store.reserve(self._books.key, self._today(), nano, self._limit)
        except BudgetExceeded as error:
            error.limit = self.limit
            raise

    def settle(self, taken: int, nano: int) -> None:
        try:
            self._books.store.settle(taken, nano)
        except BudgetExceeded as error:  # the answer is there; what was reserved for it stays counted
            _log.warning("%s", error)

    def spend(self, nano: int) -> None:
        try:
            self._books.store.spend(self._books.key, self._today(), nano)
        except BudgetExceeded as error:
            _log.warning("%s", error)


class BaselineShare:
    """Limits the share of one caller's requests in a UTC day that may visit the baseline."""

    FEWEST = 20
    """Requests that a caller counts as having made at least, so that the first need not wait for others."""

    def __init__(self, share: float, books: Books, today: Callable[[], str] = today) -> None:
        self._share = share
        self._books = books
        self._today = today

    def arrive(self, caller: str) -> None:
        """Count a request. One that cannot be counted does not raise the caller's share."""
        try:
            self._books.store.arrive(self._books.key, self._today(), self._name(caller))
        except BudgetExceeded as error:
            _log.warning("%s", error)

    def left(self, caller: str) -> int:
        """Visits of the baseline that the caller may make now; none where that cannot be told."""
        try:
            requests, visits = self._books.store.visits(self._books.key, self._today(), self._name(caller))
        except BudgetExceeded as error:
            _log.warning("%s", error)
            return 0
        return max(0, math.floor(self._share * max(requests, self.FEWEST) + 1e-9) - visits)

    def admit(self, caller: str) -> str:
        """Count a visit of the baseline; the day that it counts for. Raises `BudgetExceeded` where it would pass the
        share."""
        name, day = self._name(caller), self._today()
        if not self._books.store.admit(self._books.key, day, name, self._share, self.FEWEST):
            raise BudgetExceeded(
                f"limits.baseline_share: no more than {self._share:g} of a caller's requests in a day may take the "
                "baseline, and this one's would; handle it by an edge with `when: <baseline>.failed`"
            )
        return day

    def give_back(self, caller: str, day: str) -> None:
        """A visit that counted on that day came to nothing."""
        try:
            self._books.store.give_back(self._books.key, day, self._name(caller))
        except BudgetExceeded as error:
            _log.warning("%s", error)

    def _name(self, caller: str) -> str:
        """Callers' names are not kept."""
        return hashlib.sha256(f"{self._books.key}\0{caller}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def caller_of(configurable: Mapping[str, Any]) -> str:
    """Who asks: `config["configurable"]["caller"]`; all that name nobody are one caller. Raises `ParamError`."""
    caller = configurable.get("caller", "")
    if not isinstance(caller, str):
        raise ParamError(f"configurable.caller names who asks, as a text; not {type(caller).__name__}")
    return caller


class Books:
    """Where one graph's spending is counted: for all processes if it has a file, else for this flow alone."""

    def __init__(self, store: BudgetStore, key: str) -> None:
        self.store = store
        self.key = key

    @classmethod
    def of(cls, graph: Path | None) -> Books:
        """The books of a graph file, named by its resolved path, or (None) of a graph that came as text."""
        if graph is None:
            return cls(BudgetStore(None), "")
        try:
            file = state_folder() / STORE_NAME
        except RuntimeError as error:
            raise BudgetExceeded(f"there is no folder to count spending in: {error}; set {VARIABLE}") from None
        with _opening:
            store = _stores.get(file)
            if store is None:
                store = _stores[file] = BudgetStore(file)
        return cls(store, str(graph.resolve()))


_stores: WeakValueDictionary[Path, BudgetStore] = WeakValueDictionary()
_opening = threading.Lock()


def standing_limits(limits: Limits, graph: Path | None) -> tuple[DayAllowance | None, BaselineShare | None]:
    """The limits that outlive a request: the day's, and callers' shares; None where not set."""
    if limits.usd_per_day is None and limits.baseline_share is None:
        return None, None
    books = Books.of(graph)
    day = None if limits.usd_per_day is None else DayAllowance(limits.usd_per_day, books)
    share = None if limits.baseline_share is None else BaselineShare(limits.baseline_share, books)
    return day, share


class Reservation:
    """USD set aside for one attempt at a model until it is settled: once, by the process that made it.

    One that nobody settles stays counted as spent.
    """

    def __init__(self, usd: float = 0.0, taken: Sequence[tuple[Allowance, int | None]] = ()) -> None:
        self.usd = usd
        self._taken = taken
        self._process = os.getpid()
        self._open = True
        self._lock = threading.RLock()

    def settle(self, usd: float) -> None:
        """Replace it by what was really spent; nothing happens the second time, nor in a forked process."""
        if os.getpid() != self._process or sys.is_finalizing():
            return
        with self._lock:
            if not self._open:
                return
            self._open = False
        nano = nano_dollars(usd)
        for allowance, taken in self._taken:
            if taken is not None:
                allowance.settle(taken, nano)
            elif nano:
                allowance.spend(nano)


class Budget:
    """One request's money: its own allowance, the day's, and those of the flows around it."""

    def __init__(self, limits: Limits, day: Allowance | None = None, outer: Budget | None = None) -> None:
        self._request = None if limits.usd_per_request is None else RequestAllowance(limits.usd_per_request)
        self._day = day
        self._outer = outer
        own = [allowance for allowance in (self._request, day) if allowance is not None]
        self._allowances: Sequence[Allowance] = [*own, *(outer._allowances if outer else ())]

    @property
    def request_left(self) -> float:
        """USD left for this request, here and in the flows around it."""
        own = math.inf if self._request is None else self._request.left
        return own if self._outer is None else min(own, self._outer.request_left)

    @property
    def day_left(self) -> float:
        """USD left today, here and in the flows around it."""
        own = math.inf if self._day is None else self._day.left
        return own if self._outer is None else min(own, self._outer.day_left)

    def reserve(
        self,
        model: str,
        price: Price | None,
        prompt: PromptSize,
        max_tokens: int | None,
        context: int | None = None,
        seconds: float = math.inf,
    ) -> tuple[int | None, Reservation]:
        """The max_tokens that the limits afford (None: no limit of ours) and the USD reserved for them.

        `context` is the most that the model can write, `seconds` the longest that it may compute: without an end, what
        a price per second comes to is counted afterwards.
        Raises `BudgetExceeded` where the limits do not afford the call, or the price is unknown while one is set.
        """
        if not self._allowances:
            return max_tokens, Reservation()
        if price is None:
            raise BudgetExceeded(
                f"the price of {model!r} is unknown while a USD limit is set: give the model a `price:`"
            )
        per_prompt_token, per_token = price.most(prompt.most)
        compute = price.second * seconds if price.second and seconds < math.inf else 0.0
        fixed = prompt.most * per_prompt_token / 1e6 + compute
        per_token /= 1e6
        most, short = max_tokens, self._allowances[0]
        if max_tokens is None and per_token > 0:
            # The tiny addend: a limit that affords exactly n tokens must not lose one to rounding.
            left, short = min(((each.left, each) for each in self._allowances), key=itemgetter(0))
            most = int((left - fixed) / per_token + 1e-6)
            if context is not None and 0 < context <= most:
                most = context
            else:
                max_tokens = most
        needed = fixed + per_token * (most or 0)
        nano = nano_dollars(needed)
        if price.second and not compute:
            nano = max(nano, 1)  # not free, only not known before: something must be left
        enough = per_token == 0 or max_tokens is None or max_tokens >= 1
        taken = self._take(nano) if enough else short
        if isinstance(taken, list):
            return max_tokens, Reservation(needed, taken)
        tokens = max(1, most or 0)
        parts = ["its prompt", f"{tokens} tokens of answer", *([f"{seconds:.3g} s of compute"] if compute else [])]
        refused = BudgetExceeded(
            f"a call of {model!r} could cost ${fixed + per_token * tokens:.8f} ({', '.join(parts)}); "
            f"limits leave ${min(self.request_left, self.day_left):.8f}"
        )
        refused.limit = taken.limit
        raise refused

    def spend(self, usd: float) -> None:
        """Count what nothing was reserved for."""
        if usd > 0:
            for allowance in self._allowances:
                allowance.spend(nano_dollars(usd))

    def _take(self, nano: int) -> list[tuple[Allowance, int | None]] | Allowance:
        """Reserve with all allowances, or with none; then the one that refused."""
        if nano == 0:  # free: nothing to count, and no file to open
            return [(allowance, None) for allowance in self._allowances]
        taken: list[tuple[Allowance, int | None]] = []
        try:
            for allowance in self._allowances:
                part = allowance.take(nano)
                if part is None:
                    Reservation(0.0, taken).settle(0.0)
                    return allowance
                taken.append((allowance, part))
        except BaseException:
            Reservation(0.0, taken).settle(0.0)
            raise
        return taken
