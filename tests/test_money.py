"""Amounts of money in words."""

from __future__ import annotations

import pytest

from dynflow.money import dollars, precise_dollars


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        (0.0, "$0"),
        (3.43e-6, "$0.00000343"),
        (1e-5, "$0.00001"),
        (0.0005136, "$0.0005136"),
        (12.5, "$12.5"),
        (1_234_567.0, "$1235000"),
    ],
)
def test_precise_amounts_are_no_powers_of_ten(usd: float, words: str) -> None:
    assert precise_dollars(usd) == words


@pytest.mark.parametrize(
    ("usd", "words"), [(0, "$0"), (1e-7, "under $0.000001"), (0.00021, "$0.00021"), (1.5, "$1.50")]
)
def test_bills_have_six_places(usd: float, words: str) -> None:
    assert dollars(usd) == words
