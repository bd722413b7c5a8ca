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
from dynflow.speculation.costs import Costs, DraftingCosts
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


def test_a_cheap_drafter_that_found_nothing_is_asked_again() -> None:
    controller = Controller(Costs(FLAT), Acceptance(400), LONGEST)
    for _ in range(3):
        assert controller.plan({}, ("draft_model",)).drafter == "draft_model"
        controller.learn_drafting("draft_model", 0, 0.001)
        controller.learn(Plan("draft_model", 0), {}, [0])


def test_the_cheaper_of_two_drafters_that_promise_alike() -> None:
    drafting = DraftingCosts()
    controller = Controller(Costs(FLAT), Acceptance(400), LONGEST, drafting)
    drafting.learn("draft_model", 10, 5.0)
    assert controller.plan({"prompt_lookup": Proposal([0] * 9, 8)}, ("draft_model",)).drafter == "prompt_lookup"
    drafting.learn("draft_model", 10, 0.0)
    assert controller.plan({"prompt_lookup": Proposal([0] * 9, 1)}, ("draft_model",)).drafter == "draft_model"


HEAD = 0.03
"""Seconds of a token that a head drafts, where a plain pass takes 1."""


class Mixed:
    """Requests whose text is copied in turns: a lookup is right where it is, a head now and then wherever."""

    def __init__(self, head: float, turn: int = 60, found: float = 0.1) -> None:
        """Chances that a head's token is right, and that one that is looked up is where nothing is copied."""
        self._head, self._turn, self._found = head, turn, found
        self.used: list[tuple[bool, str | None]] = []
        """Of each step: whether its text is copied, and who drafted."""

    def seconds(
        self, drafters: Sequence[str], learned: Acceptance, drafting: DraftingCosts, tokens: int = 600
    ) -> float:
        generator = random.Random(1)
        head = [generator.random() < self._head for _ in range(tokens + 2 * LONGEST)]
        found = [generator.random() < (0.98 if self.copied(at) else self._found) for at in range(len(head))]
        costs = Costs(FLAT)
        controller = Controller(costs, learned, LONGEST, drafting)
        at, seconds = 0, 0.0
        while at < tokens:
            right = {"prompt_lookup": found[at : at + LONGEST], "draft_head": head[at : at + LONGEST]}
            drafts = {name: [0 if good else 1 for good in right[name]] for name in drafters}
            matched = at % self._turn + 2 if self.copied(at) else 2
            proposals = {name: Proposal(drafts[name], matched) for name in drafters if name == "prompt_lookup"}
            plan = controller.plan(proposals, [name for name in drafters if name == "draft_head"])
            if plan.drafter == "draft_head":
                controller.learn_drafting("draft_head", plan.tokens, HEAD * plan.tokens)
                proposals["draft_head"] = Proposal(drafts["draft_head"][: plan.tokens])
                seconds += HEAD * plan.tokens
            taken = 0 if plan.drafter is None else (*right[plan.drafter][: plan.tokens], False).index(False)
            seconds += costs.of(plan.tokens + 1)
            controller.learn(plan, proposals, [0] * (taken + 1))
            self.used.append((self.copied(at), plan.drafter))
            at += taken + 1
        return seconds * tokens / at

    def copied(self, at: int) -> bool:
        return at // self._turn % 2 == 1

    def share(self, copied: bool, drafter: str) -> float:
        """Of the steps at which something was drafted, how many this drafter had."""
        names = [name for where, name in self.used if where == copied and name is not None]
        return names.count(drafter) / len(names)


def test_at_each_step_the_one_that_promises_most() -> None:
    """What is copied is looked up, and the head drafts the rest: sooner than with either alone."""
    seconds = {}
    for drafters in (("prompt_lookup",), ("draft_head",), ("prompt_lookup", "draft_head")):
        text = Mixed(head=0.7)
        seconds[drafters] = text.seconds(drafters, Acceptance(400), DraftingCosts())
    alone, together = (seconds["prompt_lookup",], seconds["draft_head",]), seconds["prompt_lookup", "draft_head"]
    assert together < 0.85 * min(alone)
    assert text.share(True, "prompt_lookup") > 0.7
    assert text.share(False, "draft_head") > 0.9


def test_a_head_that_never_pays_costs_hardly_anything_beside_a_lookup() -> None:
    only, both = (
        Mixed(head=0.02).seconds(drafters, Acceptance(400), DraftingCosts())
        for drafters in (("prompt_lookup",), ("prompt_lookup", "draft_head"))
    )
    assert both < 1.02 * only


def test_a_head_is_tried_again_though_it_was_bad_and_a_lookup_wins_a_little() -> None:
    """Else it would stay what earlier requests made of it, however much better it has become."""
    learned, drafting = Acceptance(400), DraftingCosts()
    Mixed(head=0.0).seconds(("draft_head",), learned, drafting, 2000)
    for _ in range(100):
        learned.observe("draft_head", 1, False)
    text = Mixed(head=0.9, turn=10_000, found=0.4)
    only = Mixed(head=0.9, turn=10_000, found=0.4).seconds(("prompt_lookup",), learned, drafting)
    assert only < 0.95 * 600
    assert text.seconds(("prompt_lookup", "draft_head"), learned, drafting) < 0.6 * only


def test_a_drafter_whose_costs_nobody_knows_is_only_probed() -> None:
    """Nor is anything bet on it in the next request, where its costs turned out too high."""
    learned, drafting = Acceptance(400), DraftingCosts()
    first = Controller(Costs(FLAT), learned, LONGEST, drafting)
    assert first.plan({}, ("draft_model",)) == Plan("draft_model", 2)
    first.learn_drafting("draft_model", 2, 6.0)
    assert Controller(Costs(FLAT), learned, LONGEST, drafting).plan({}, ("draft_model",)).tokens == 0


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

    def test_of_a_drafted_token_less_is_believed_at_once_and_more_slowly(self) -> None:
        drafting = DraftingCosts()
        assert drafting.of("draft_model") is None
        drafting.learn("draft_model", 2, 9.0)  # which read the prompt
        drafting.learn("draft_model", 2, 1.0)
        assert drafting.of("draft_model") == 0.5
        drafting.learn("draft_model", 1, 50.0)
        assert drafting.of("draft_model") == pytest.approx(0.55)
        drafting.learn("draft_model", 0, 0.01)  # had nothing to say
        assert drafting.of("draft_model") == pytest.approx(0.55)
        for _ in range(60):
            drafting.learn("draft_model", 1, 3.0)
        assert drafting.of("draft_model") == pytest.approx(3.0, rel=0.01)

    @pytest.mark.parametrize("measured", [{}, {1: 1.0}, {2: 1.0, 3: 1.0}, {1: 0.0, 2: 1.0}])
    def test_too_little_measured(self, measured: dict[int, float]) -> None:
        with pytest.raises(ValueError, match="positive seconds for 1 token"):
            Costs(measured)
