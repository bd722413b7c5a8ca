"""The ledger: costs, what is known and what is not, and plain values."""

from __future__ import annotations

import json

import pytest

from dynflow.ledger import Compute, Entry, Ledger, Usage, cost
from dynflow.models.settings import Price


def test_a_call_costs_what_its_kinds_of_token_cost() -> None:
    price = Price(input=10.0, output=100.0, cached=1.0, cache_write=12.5)
    usage = Usage("m", 1000, 50, cached_tokens=600, reasoning_tokens=40, cache_write_tokens=300)
    assert cost(price, usage) == pytest.approx((100 * 10 + 600 * 1 + 300 * 12.5 + 50 * 100) / 1e6)
    assert cost(Price(input=10.0), usage) == pytest.approx(1000 * 10 / 1e6)
    assert cost(Price(second=0.5), usage, 3.0) == pytest.approx(1.5)
    assert cost(None, usage) is None


def test_a_long_prompt_costs_its_tiers_rates_as_a_whole() -> None:
    price = Price.model_validate(
        {
            "input": 1.0,
            "output": 2.0,
            "tiers": [{"above": 500, "input": 5.0, "output": 6.0}, {"above": 100, "input": 3.0, "output": 4.0}],
        }
    )
    costs = [cost(price, Usage("m", tokens, 10)) for tokens in (100, 101, 500, 501)]
    assert costs == pytest.approx([each / 1e6 for each in (100 + 20, 3 * 101 + 40, 3 * 500 + 40, 5 * 501 + 60)])


def test_what_is_unknown_of_one_is_unknown_of_all() -> None:
    known, unknown = Compute(1.0, 2.0, 3.0, "rapl"), Compute(1.0)
    assert known + known == Compute(2.0, 4.0, 6.0, "rapl")
    assert known + unknown == Compute(2.0)
    assert known + Compute(1.0, 2.0, 3.0, "estimate") == Compute(2.0, 4.0, 6.0, "rapl+estimate")
    assert known.estimated(10.0) is known
    assert unknown.estimated(10.0) is unknown
    assert Compute(1.0, 2.0).estimated(None) == Compute(1.0, 2.0)
    assert Ledger([Entry("a", 1.0, 0.5), Entry("b", 1.0, None)]).usd is None


def test_usages_add_up() -> None:
    first = Usage("m", 1, 2, 3, 4, False, 5, Compute(1.0))
    second = Usage("n", 10, 20, 30, 40, True, 50)
    assert first + second == Usage("m", 11, 22, 33, 44, True, 55, Compute(1.0))
    assert (second + first).compute == Compute(1.0)
    assert (first + first).compute == Compute(2.0)


def test_a_ledger_as_plain_values() -> None:
    usage = Usage("m", 10, 5, 4, 2, compute=Compute(1.5, 3.0, 60.0, "rapl"))
    ledger = Ledger([Entry("a", 2.0, 0.25, usage, 0.125), Entry("b", 1.0, 0.0)], "big", 1.0)
    plain = json.loads(json.dumps(ledger.as_dict()))
    assert plain == {
        "usd": 0.25,
        "seconds": 3.0,
        "tokens": {"input": 10, "output": 5, "cached": 4, "reasoning": 2},
        "cpu_seconds": 3.0,
        "joules": 60.0,
        "energy_source": "rapl",
        "baseline": "big",
        "baseline_usd": 1.0,
        "saved_usd": 0.75,
        "nodes": [
            {
                "node": "a",
                "seconds": 2.0,
                "usd": 0.25,
                "model": "m",
                "input_tokens": 10,
                "output_tokens": 5,
                "cached_tokens": 4,
                "cache_write_tokens": 0,
                "reasoning_tokens": 2,
                "estimated": False,
                "first_token_seconds": 0.125,
                "compute_seconds": 1.5,
                "cpu_seconds": 3.0,
                "joules": 60.0,
                "energy_source": "rapl",
            },
            {"node": "b", "seconds": 1.0, "usd": 0.0},
        ],
    }
    nothing = Ledger().as_dict()
    assert (nothing["cpu_seconds"], nothing["joules"], nothing["energy_source"]) == (None, None, "none")
