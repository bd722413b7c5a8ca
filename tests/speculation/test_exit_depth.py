"""How many of a model's layers may draft, and when none should: by synthetic figures."""

from __future__ import annotations

import pytest

from dynflow.speculation.costs import Costs
from dynflow.speculation.exit_depth import Depth, best, depth_fault, depths, gain, needed

FLAT = Costs({1: 1.0, 17: 1.0})
DEAR = Costs({1: 1.0, 17: 17.0})
"""Of a machine on which a pass over several tokens takes as long as passes over each."""


def test_some_depths_are_tried_and_never_all_layers() -> None:
    assert depths(30) == [1, 4, 8, 11, 15, 20]
    assert depths(2) == [1]
    assert depths(1) == []


def test_what_drafts_gain() -> None:
    """One draft of two tokens: 1 + a + a² tokens for a pass and two of the drafter's."""
    steep = Costs({1: 1.0, 3: 1.0, 4: 100.0})
    assert gain(0.5, 0.1, steep) == pytest.approx(1.75 / 1.2)
    assert gain(1.0, 0.0, FLAT) == pytest.approx(17)
    assert gain(1.0, 0.0, DEAR) == pytest.approx(1)
    assert gain(0.0, 0.1, FLAT) < 1


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.8])
def test_the_agreement_that_is_needed_is_where_drafts_begin_to_gain(seconds: float) -> None:
    costs = Costs({1: 1.0, 2: 1.1, 9: 2.0})
    least = needed(seconds, costs)
    assert gain(least + 0.01, seconds, costs) > 1 >= gain(least - 0.01, seconds, costs)
    assert needed(seconds, DEAR) == pytest.approx(1)


def test_the_depth_that_promises_most() -> None:
    tried = [Depth(1, 10, 100, 0.1), Depth(8, 80, 100, 0.3), Depth(20, 99, 100, 0.7)]
    assert best(tried, FLAT).layers == 8
    assert depth_fault(tried, 30, FLAT) is None
    assert depth_fault([], 1, FLAT) == "it has too few layers"


def test_what_cannot_pay_is_refused_with_the_figure() -> None:
    tried = [Depth(8, 3, 60, 0.4), Depth(20, 15, 60, 0.75)]
    fault = depth_fault(tried, 30, FLAT)
    assert fault == (
        "of 60 tokens that it wrote, its first 8 of 30 layers foresaw 5%; to pay here it takes 40%, "
        "and no other depth comes nearer"
    )


def test_little_evidence_refuses_nothing() -> None:
    """Five tokens, of which one was foreseen, may have been bad luck; of 200 it is none."""
    assert depth_fault([Depth(8, 1, 5, 0.4)], 30, FLAT) is None
    assert depth_fault([Depth(8, 40, 200, 0.4)], 30, FLAT) is not None
    assert Depth(8, 0, 0, 0.4).hoped == 1.0
    assert Depth(8, 5, 5, 0.4).hoped == 1.0
    assert 0.5 < Depth(8, 50, 100, 0.4).hoped < 0.6
