"""The controller with made-up costs and simulated acceptance: it never loses, and it gains what there is to gain."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynflow.speculation.acceptance import Acceptance
from dynflow.speculation.controller import Controller, Plan
from dynflow.speculation.costs import Costs
from dynflow.speculation.drafters import Proposal

FLAT = {1: 1.0, 2: 1.05, 5: 1.2, 9: 1.4, 17: 1.8}
STEEP = {1: 1.0, 2: 1.9, 5: 4.6, 9: 8.0, 17: 15.0}
LONGEST = 16


def simulated(
    taken: Callable[[int], bool],
    tokens: int,
    measured: dict[int, float],
    evidence: Callable[[int], int] = lambda position: 3,
    free: bool = True,
    fixed: int | None = None,
    learned: Acceptance | None = None,
) -> float:
    """Seconds of a request of so many tokens; `taken` says whether the draft for the token at a place is right.

    `fixed`: this many tokens in every draft, whatever the controller would say.
    """
    costs = Costs(measured)
    controller = Controller(costs, learned or Acceptance(400), LONGEST)
    written, seconds = 0, 0.0
    while written < tokens:
        right = [taken(written + index) for index in range(LONGEST + 1)]
        drafted = [0 if good else 1 for good in right]  # the target always writes 0
        proposals = {"prompt_lookup": Proposal(drafted[:LONGEST], evidence(written))} if free else {}
        plan = controller.plan(proposals, () if free else ("draft_model",)) if fixed is None else Plan(None, fixed)
        size = plan.tokens
        if not free and plan.tokens:
            proposals = {"draft_model": Proposal(drafted[: plan.tokens])}
            controller.learn_drafting("draft_model", plan.tokens, 0.1 * plan.tokens)
        accepted = next((index for index in range(size) if not right[index]), size)
        seconds += costs.of(size + 1) + (0.0 if free else 0.1 * size)
        written += accepted + 1
        if fixed is None:
            controller.learn(plan, proposals, [0] * (accepted + 1))
    return seconds * tokens / written


@pytest.mark.parametrize("measured", [FLAT, STEEP])
@pytest.mark.parametrize("chance", [0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_near_the_best_fixed_length_where_acceptance_is_steady(chance: float, measured: dict[int, float]) -> None:
    generator = random.Random(0)
    right = [generator.random() < chance for _ in range(1500)]
    fixed = [simulated(right.__getitem__, 1200, measured, fixed=size) for size in range(LONGEST + 1)]
    assert simulated(right.__getitem__, 1200, measured) <= min(fixed) / 0.95


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 80), st.integers(1, 20)), min_size=1, max_size=12),
    st.sampled_from([FLAT, STEEP, {1: 1.0, 2: 1.5, 33: 2.0}]),
    st.booleans(),
    st.integers(0, 99),
)
def test_never_slower_than_plain(
    phases: Sequence[tuple[float, int, int]], measured: dict[int, float], free: bool, seed: int
) -> None:
    """Whatever the text does: phases of any acceptance, length and evidence, over and over."""
    generator = random.Random(seed)
    turns = [(chance, strength) for chance, size, strength in phases for _ in range(size)]
    right = [generator.random() < turns[index % len(turns)][0] for index in range(700)]
    seconds = simulated(right.__getitem__, 600, measured, lambda place: turns[place % len(turns)][1], free)
    assert seconds <= 600 / 0.97


def test_an_adversary_that_knows_the_controller_cannot_make_it_lose() -> None:
    """Right while the controller looks on, wrong whenever it drafts."""
    costs, controller = Costs(FLAT), Controller(Costs(FLAT), Acceptance(400), LONGEST)
    seconds, drafted = 0.0, 0
    for _ in range(1000):
        proposal = Proposal([0] * LONGEST, 20)
        plan = controller.plan({"prompt_lookup": proposal})
        seconds += costs.of(plan.tokens + 1)
        drafted += plan.tokens
        controller.learn(plan, {"prompt_lookup": proposal}, [1] if plan.tokens else [0])
    assert drafted
    assert seconds <= 1000 * 1.01 + 1.01


def test_recovers_quickly_when_the_text_turns_copyable() -> None:
    """After 500 tokens without a right draft, matches grow as a copy begins."""
    learned = Acceptance(400)
    matched = lambda place: 2 if place < 500 else min(2 + place - 500, 40)  # noqa: E731
    seconds = simulated(lambda place: place >= 500, 700, FLAT, matched, learned=learned)
    copied = seconds - simulated(lambda place: False, 500, FLAT, lambda place: 2)
    assert copied < 200 / 4


def test_a_costly_drafter_that_does_not_pay_is_probed_ever_more_rarely() -> None:
    controller = Controller(Costs(FLAT), Acceptance(400), LONGEST)
    probed = []
    for step in range(2000):
        plan = controller.plan({}, ("draft_model",))
        if plan.tokens:
            probed.append(step)
            controller.learn_drafting("draft_model", plan.tokens, 0.2 * plan.tokens)
        controller.learn(plan, {"draft_model": Proposal([1] * plan.tokens)}, [0])
    late = [step for step in probed if step > 1000]
    assert 2 <= len(late) <= 5
    assert len([step for step in probed if step < 200]) >= 3


def test_a_costly_drafter_that_finds_nothing_is_not_asked_at_every_step() -> None:
    controller = Controller(Costs(FLAT), Acceptance(400), LONGEST)
    asked = 0
    for _ in range(200):
        plan = controller.plan({}, ("draft_model",))
        if plan.tokens:
            asked, plan = asked + 1, Plan("draft_model", 0)
            controller.learn_drafting("draft_model", 0, 0.5 * FLAT[1])
        controller.learn(plan, {}, [0])
    assert 1 <= asked <= 8


def test_the_cheaper_of_two_drafters_that_promise_alike() -> None:
    controller = Controller(Costs(FLAT), Acceptance(400), LONGEST)
    controller.learn_drafting("draft_model", 10, 5.0)
    assert controller.plan({"prompt_lookup": Proposal([0] * 9, 8)}, ("draft_model",)).drafter == "prompt_lookup"
    controller.learn_drafting("draft_model", 10, 0.0)
    for _ in range(20):
        controller.learn_drafting("draft_model", 10, 0.0)
    assert controller.plan({"prompt_lookup": Proposal([0] * 9, 1)}, ("draft_model",)).drafter == "draft_model"


def test_no_draft_beyond_the_limit() -> None:
    controller = Controller(Costs(FLAT), Acceptance(400), LONGEST)
    proposals = {"prompt_lookup": Proposal([0] * 16, 20)}
    assert 0 < controller.plan(proposals, limit=3).tokens <= 3
    assert controller.plan(proposals, limit=0).tokens == 0
    assert controller.plan({}).drafter is None


class TestCosts:
    """What a pass costs, from what was measured."""

    def test_between_and_beyond_what_was_measured(self) -> None:
        costs = Costs({1: 1.0, 5: 2.0, 9: 4.0})
        assert [costs.of(size) for size in (1, 3, 5, 7, 9, 11)] == [1.0, 1.5, 2.0, 3.0, 4.0, 5.0]

    def test_more_tokens_never_cost_less(self) -> None:
        costs = Costs({1: 2.0, 2: 1.0, 5: 1.5, 9: 3.0})
        seconds = [costs.of(size) for size in range(1, 20)]
        assert seconds == sorted(seconds)

    def test_follows_a_machine_that_slows_down_but_not_a_single_hiccup(self) -> None:
        costs = Costs({1: 1.0, 5: 2.0})
        costs.learn(1, 100.0)
        assert costs.of(1) < 1.15
        for _ in range(60):
            costs.learn(1, 3.0)
        assert math.isclose(costs.of(1), 3.0, rel_tol=0.05)
        assert costs.of(5) > 4.0

    @pytest.mark.parametrize("measured", [{}, {1: 1.0}, {2: 1.0, 3: 1.0}, {1: 0.0, 2: 1.0}])
    def test_too_little_measured(self, measured: dict[int, float]) -> None:
        with pytest.raises(ValueError, match="positive seconds for 1 token"):
            Costs(measured)
