"""What is reserved and settled: each once, on the day it began, at the dearest rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynflow import BudgetExceeded
from dynflow.budget_store import MOST, BudgetStore
from dynflow.budgets import Books, Budget, DayAllowance, nano_dollars
from dynflow.language.spec import Limits
from dynflow.models.settings import Price
from tests.budgets.spending import DAY, budget, day_of, prompt, reserve


def test_a_reservation_counts_until_it_is_settled(books: Books) -> None:
    money = budget(books)
    held = reserve(money, 0.75)
    assert money.day_left == 0.25
    with pytest.raises(BudgetExceeded, match=r"could cost \$0.50000000.*limits leave \$0.25"):
        reserve(budget(books), 0.5)
    held.settle(0.1)
    assert money.day_left == pytest.approx(0.9)


def test_a_reservation_is_settled_once(books: Books) -> None:
    money = budget(books, usd_per_request=1.0)
    held = reserve(money, 0.5)
    other = reserve(money, 0.25)
    for usd in (0.1, 0.0, 0.5):
        held.settle(usd)
    assert money.day_left == pytest.approx(0.65)
    assert money.request_left == pytest.approx(0.65)
    other.settle(0.0)
    assert money.day_left == pytest.approx(0.9)


def test_what_a_call_cost_beyond_its_reservation_counts_in_full(books: Books) -> None:
    reserve(budget(books), 0.9).settle(1.2)
    assert budget(books).day_left == 0
    with pytest.raises(BudgetExceeded):
        reserve(budget(books), 0.000001)


def test_all_allowances_or_none(books: Books) -> None:
    outer = budget(books, 1.0, usd_per_request=0.3)
    inner = Budget(Limits(usd_per_request=0.2), day_of(Books(books.store, "inner"), 0.5), outer)
    with pytest.raises(BudgetExceeded):
        reserve(inner, 0.25)  # the inner request refuses
    reserve(outer, 0.2)
    with pytest.raises(BudgetExceeded):
        reserve(inner, 0.15)  # the outer request refuses, after the inner ones agreed
    assert (inner.request_left, inner.day_left) == pytest.approx((0.1, 0.5))
    held = reserve(inner, 0.1)
    assert (inner.request_left, outer.request_left, inner.day_left) == pytest.approx((0.0, 0.0, 0.4))
    held.settle(0.04)
    assert (inner.request_left, outer.day_left) == pytest.approx((0.06, 0.76))


@pytest.mark.parametrize("max_tokens", [900_000, None])
@pytest.mark.parametrize("refusing", ["usd_per_request", "usd_per_day"])
def test_a_refusal_names_the_limit_that_refused(
    books: Books, refusing: str, max_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever others reserve or release right afterwards."""
    by_day = refusing == "usd_per_day"
    money = budget(books, 0.8 if by_day else 1.0, usd_per_request=0.95 if by_day else 0.5)
    seen = iter([money.day_left] if max_tokens is None else [])
    monkeypatch.setattr(DayAllowance, "left", property(lambda _: next(seen, 1.0 if by_day else 0.0)))
    with pytest.raises(BudgetExceeded) as refused:
        money.reserve("m", Price(input=1.0, output=1.0), prompt(0 if max_tokens else 900_000), max_tokens)
    assert refused.value.limit == refusing


def test_a_call_counts_on_the_day_it_began(books: Books) -> None:
    today = [DAY]
    day = DayAllowance(1.0, books, today=lambda: today[0])
    yesterdays = reserve(Budget(Limits(), day), 0.5)
    today[0] = "2026-03-02"
    assert day.left == 1
    reserve(Budget(Limits(), day), 0.9)
    yesterdays.settle(0.2)
    assert day.left == pytest.approx(0.1)
    assert books.store.taken("graph", DAY) == nano_dollars(0.2)


def test_days_gone_by_are_forgotten(books: Books) -> None:
    books.store.reserve("graph", "2026-03-01", 5, 10)
    books.store.arrive("graph", "2026-03-01", "somebody")
    books.store.reserve("graph", "2026-03-02", 5, 10)
    assert books.store.taken("graph", "2026-03-01") == 5
    books.store.reserve("graph", "2026-03-03", 5, 10)
    assert books.store.taken("graph", "2026-03-01") == 0
    assert books.store.visits("graph", "2026-03-01", "somebody") == (0, 0)


def test_a_new_cap_applies_to_what_is_spent(books: Books) -> None:
    reserve(budget(books, 1.0), 0.75)
    assert budget(books, 0.5).day_left == 0
    assert budget(books, 2.0).day_left == 1.25


def test_limits_that_afford_exactly_so_many_calls(books: Books) -> None:
    for _ in range(10):
        reserve(budget(books), 0.1)
    assert budget(books).day_left == 0


def test_amounts_beyond_all_measure(books: Books) -> None:
    money = Budget(Limits(), DayAllowance(1e300, books, today=lambda: DAY))
    with pytest.raises(BudgetExceeded):
        money.reserve("m", Price(output=1e300), prompt(0), 10)
    for _ in range(3):
        money.spend(1e300)
    assert books.store.taken("graph", DAY) == MOST


def test_free_calls_open_no_file(file: Path) -> None:
    money = budget(Books(BudgetStore(file), "graph"))
    money.reserve("m", Price(), prompt(100), 100)[1].settle(0.0)
    assert not file.parent.exists()


def test_compute_is_reserved_where_its_time_has_an_end(books: Books) -> None:
    money, price = budget(books), Price(second=0.01)
    _, held = money.reserve("m", price, prompt(10), None, seconds=60.0)
    assert money.day_left == pytest.approx(0.4)
    with pytest.raises(BudgetExceeded, match="60 s of compute"):
        money.reserve("m", price, prompt(10), None, seconds=60.0)
    held.settle(0.0123)
    money.reserve("m", price, prompt(10), None)[1].settle(5.0)  # no end was known: it counts afterwards
    assert money.day_left == 0
    with pytest.raises(BudgetExceeded):
        money.reserve("m", price, prompt(10), None)


def test_the_dearest_rates_that_a_prompt_can_reach_are_reserved(books: Books) -> None:
    price = Price.model_validate(
        {"input": 1.0, "output": 2.0, "cache_write": 1.25, "tiers": [{"above": 1000, "input": 3.0, "output": 4.0}]}
    )
    assert budget(books).reserve("m", price, prompt(1000), 10)[1].usd == pytest.approx((1250 + 20) / 1e6)
    assert budget(books).reserve("m", price, prompt(1001), 10)[1].usd == pytest.approx((3003 + 40) / 1e6)
