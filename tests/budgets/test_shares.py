"""Callers' shares of the baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynflow import BudgetExceeded
from dynflow.budget_store import BudgetStore
from dynflow.budgets import BaselineShare, Books
from tests.budgets.spending import DAY


def share_of(books: Books, share: float) -> BaselineShare:
    return BaselineShare(share, books, today=lambda: DAY)


def admitted(share: BaselineShare, caller: str = "") -> bool:
    left = share.left(caller)
    try:
        share.admit(caller)
    except BudgetExceeded:
        assert left == 0
        return False
    assert share.left(caller) == left - 1
    return True


def test_a_fresh_caller_counts_as_if_he_had_asked_twenty_times(books: Books) -> None:
    share = share_of(books, 0.2)
    assert [admitted(share) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [admitted(share, "another") for _ in range(6)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(("share", "allowed"), [(0.0, 0), (0.1, 10), (0.07, 7), (1.0, 100)])
def test_the_share_is_never_passed(share: float, allowed: int, books: Books) -> None:
    limit = share_of(books, share)
    visits = 0
    for requests in range(1, 101):
        limit.arrive("somebody")
        visits += admitted(limit, "somebody")
        assert visits <= share * max(requests, 20)
    assert visits == allowed


def test_callers_names_are_not_kept(file: Path) -> None:
    books = Books(BudgetStore(file), "graph")
    share_of(books, 1.0).arrive("alice@example.org")
    books.store.close()
    assert b"alice" not in file.read_bytes()


def test_a_share_that_cannot_be_counted_is_none(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"damaged" * 1000)
    share = share_of(Books(BudgetStore(file), "graph"), 1.0)
    share.arrive("somebody")
    assert not admitted(share, "somebody")
