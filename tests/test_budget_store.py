"""The store under any interleaving of reserving, settling, crashes, restarts and days, against a plain model of it."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dynflow.budget_store import BudgetStore
from tests.effort import EFFORT

CAP = 1_000
KEYS = st.sampled_from(["graph", "another"])
AMOUNTS = st.integers(min_value=0, max_value=CAP // 2)
Held = tuple[int, int, str, str, int]
"""Which process, reservation, key, day, amount."""


class Books(RuleBasedStateMachine):
    """Two processes on one file. Never is more spent and reserved than the cap and what calls cost beyond their due."""

    held = Bundle("held")
    settled = Bundle("settled")

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.file = Path(self.folder.name) / "budgets.sqlite3"
        self.stores = [BudgetStore(self.file), BudgetStore(self.file)]
        self.lives = [0, 0]
        """How often each process has begun anew: who held a reservation before knows nothing of it now."""
        self.day = 1
        self.spent: dict[tuple[str, str], int] = defaultdict(int)
        self.reserved: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        self.beyond: dict[tuple[str, str], int] = defaultdict(int)

    @property
    def today(self) -> str:
        return f"2026-03-{self.day:02}"

    @rule(target=held, process=st.integers(0, 1), key=KEYS, nano=AMOUNTS)
    def reserve(self, process: int, key: str, nano: int) -> Any:
        at = key, self.today
        taken = self.spent[at] + sum(self.reserved[at].values())
        reservation = self.stores[process].reserve(key, self.today, nano, CAP)
        assert (reservation is not None) == (taken + nano <= CAP)
        if reservation is None:
            return multiple()
        self.reserved[at][reservation] = nano
        return process, self.lives[process], reservation, key, self.today, nano

    @rule(target=settled, it=consumes(held), part=st.floats(0, 1))
    def settle(self, it: Any, part: float) -> Any:
        return self._settle(it, int(it[5] * part))

    @rule(target=settled, it=consumes(held))
    def release(self, it: Any) -> Any:
        return self._settle(it, 0)

    @rule(target=settled, it=consumes(held), more=st.integers(1, 50))
    def cost_more(self, it: Any, more: int) -> Any:
        process, life, _, key, day, nano = it
        if life == self.lives[process]:
            self.beyond[key, day] += more
        return self._settle(it, nano + more)

    def _settle(self, it: Any, nano: int) -> Any:
        process, life, reservation, key, day, _ = it
        if life != self.lives[process]:
            return multiple()  # its process died: nobody is there to settle it
        self.stores[process].settle(reservation, nano)
        if self.reserved[key, day].pop(reservation, None) is not None:
            self.spent[key, day] += nano
        return it

    @rule(it=settled, process=st.integers(0, 1), nano=AMOUNTS)
    def settle_again(self, it: Any, process: int, nano: int) -> None:
        self.stores[process].settle(it[2], nano)

    @rule(process=st.integers(0, 1))
    def crash_and_restart(self, process: int) -> None:
        self.stores[process].close()
        self.stores[process] = BudgetStore(self.file)
        self.lives[process] += 1

    @rule(process=st.integers(0, 1))
    def fail_in_a_transaction(self, process: int) -> None:
        try:
            with self.stores[process]._transaction() as books:
                books.execute("DELETE FROM reserved")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass

    @rule()
    def midnight(self) -> None:
        self.day = min(self.day + 1, 28)
        for at in [*self.reserved]:  # days before yesterday are forgotten, at the next reservation
            if int(at[1][-2:]) < self.day - 1:
                del self.reserved[at]
                self.spent.pop(at, None)

    @invariant()
    def nothing_is_lost_and_the_cap_holds(self) -> None:
        for key in ("graph", "another"):
            for day in {self.today, f"2026-03-{max(1, self.day - 1):02}"}:
                taken = self.spent[key, day] + sum(self.reserved[key, day].values())
                assert [store.taken(key, day) for store in self.stores] == [taken, taken]
                assert taken <= CAP + self.beyond[key, day]

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=25 * EFFORT, stateful_step_count=40, deadline=None)
