"""A router's rules: what must hold of every choice, whatever the routes, scores and prices."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynflow.nodes.router import rules, scorers
from dynflow.nodes.router.conversations import Conversations
from dynflow.nodes.router.rules import Choice, Route
from dynflow.request import Request

UNIT = st.floats(0, 1)
PRICE = st.none() | st.sampled_from([0.0, 0.001, 0.002]) | st.floats(0, 1)
MARGIN = st.floats(0, 0.5)


@st.composite
def routes_of(draw: st.DrawFn, least_open: int = 1) -> list[Route]:
    """Routes, of which at least so many are open."""
    facts = draw(st.lists(st.tuples(st.booleans(), st.none() | UNIT, PRICE), min_size=least_open, max_size=5))
    return [
        Route(f"r{place}", "too small" if closed and place >= least_open else None, quality, usd)
        for place, (closed, quality, usd) in enumerate(draw(st.permutations(facts)) if least_open == 0 else facts)
    ]


def named(routes: list[Route], choice: Choice) -> Route:
    return next(route for route in routes if route.name == choice.route)


def price(route: Route) -> float:
    return math.inf if route.usd is None else route.usd


@given(routes=routes_of(), floor=UNIT, kept=st.none() | st.integers(0, 4), margin=MARGIN)
def test_no_rule_takes_a_closed_route(routes: list[Route], floor: float, kept: int | None, margin: float) -> None:
    before = None if kept is None else f"r{kept % len(routes)}"
    bands = sorted([floor] * (len(routes) - 1))
    for choice in (
        rules.cheapest(routes, floor, before, margin),
        rules.best(routes, floor, before, margin),
        rules.by_bands(routes, bands, 0.5, before, margin),
        rules.by_name(routes, routes[-1].name, "stated"),
        rules.abstained(routes, routes[-1].name, "in doubt"),
    ):
        assert named(routes, choice).closed is None


@given(routes=routes_of(), floor=UNIT)
def test_cheapest_is_never_under_the_floor_where_a_route_is_above_it(routes: list[Route], floor: float) -> None:
    able = [route for route in routes if route.closed is None]
    reaching = [route for route in able if route.quality is not None and route.quality >= floor]
    choice = rules.cheapest(routes, floor)
    if reaching:
        assert choice.reason == "rule"
        assert named(routes, choice) in reaching
        assert price(named(routes, choice)) == min(map(price, reaching))
    else:
        assert choice.reason == "missed"
        known = [route.quality for route in able if route.quality is not None]
        assert named(routes, choice).quality == max(known, default=None)


@given(routes=routes_of(), max_usd=UNIT)
def test_best_is_never_over_the_bound_where_a_route_is_within_it(routes: list[Route], max_usd: float) -> None:
    able = [route for route in routes if route.closed is None]
    afforded = [route for route in able if route.quality is not None and price(route) <= max_usd]
    choice = rules.best(routes, max_usd)
    if afforded:
        assert choice.reason == "rule"
        assert named(routes, choice) in afforded
        assert named(routes, choice).quality == max(route.quality or 0.0 for route in afforded)
    else:
        assert choice.reason == "missed"
        assert price(named(routes, choice)) == min(map(price, able))


@given(
    floor=UNIT,
    margin=st.floats(0.01, 0.5),
    offsets=st.lists(st.tuples(st.floats(-0.99, 0.99), st.floats(-0.99, 0.99)), min_size=2, max_size=20),
)
def test_a_floor_never_flaps_inside_the_margin(floor: float, margin: float, offsets: list[Any]) -> None:
    kept: str | None = None
    taken = []
    for small, big in offsets:
        routes = [
            Route("small", quality=floor + margin * small, usd=0.0),
            Route("big", quality=floor + margin * max(small, big), usd=1.0),
        ]
        kept = rules.cheapest(routes, floor, kept, margin).route
        taken.append(kept)
    assert len(set(taken)) == 1


@given(
    margin=st.floats(0.01, 0.5),
    offsets=st.lists(st.tuples(st.floats(0, 0.99), st.floats(0, 0.99), st.floats(0, 0.99)), min_size=2, max_size=20),
)
def test_the_best_never_flaps_inside_the_margin(margin: float, offsets: list[Any]) -> None:
    kept: str | None = None
    taken = set()
    for turn in offsets:
        routes = [Route(f"r{place}", quality=0.4 + margin * each, usd=0.1) for place, each in enumerate(turn)]
        kept = rules.best(routes, 0.5, kept, margin).route
        taken.add(kept)
    assert len(taken) == 1


@given(
    bands=st.lists(UNIT, min_size=1, max_size=3).map(sorted),
    margin=st.floats(0.01, 0.5),
    scores=st.lists(st.floats(-0.99, 0.99), min_size=2, max_size=20),
    data=st.data(),
)
def test_bands_never_flap_inside_the_margin(bands: list[float], margin: float, scores: list[float], data: Any) -> None:
    routes = [Route(f"r{place}") for place in range(len(bands) + 1)]
    bound = data.draw(st.sampled_from(bands))
    kept: str | None = None
    changes = -1
    for offset in scores:
        choice = rules.by_bands(routes, bands, bound + margin * offset, kept, margin).route
        changes += choice != kept
        kept = choice
    # The first route stays, unless other bounds are so close that they push it on, once each.
    alone = all(other == bound or abs(other - bound) > 2 * margin for other in bands) and bands.count(bound) == 1
    assert changes == 0 if alone else changes <= 2 * len(bands)


@given(bands=st.lists(UNIT, min_size=1, max_size=3).map(sorted), score=UNIT, kept=st.integers(0, 3), margin=MARGIN)
def test_a_score_beyond_the_margin_changes_the_route(
    bands: list[float], score: float, kept: int, margin: float
) -> None:
    routes = [Route(f"r{place}") for place in range(len(bands) + 1)]
    before = f"r{min(kept, len(bands))}"
    choice = rules.by_bands(routes, bands, score, before, margin)
    own = rules.by_bands(routes, bands, score)
    low, high = [-math.inf, *bands][int(before[1])] - margin, [*bands, math.inf][int(before[1])] + margin
    assert choice.route == (before if low <= score < high else own.route)


def test_equal_prices_do_not_flap_either() -> None:
    kept: str | None = None
    for first, second in ((0.80, 0.81), (0.82, 0.80), (0.80, 0.83)):
        routes = [Route("a", quality=first, usd=0.0), Route("b", quality=second, usd=0.0)]
        kept = rules.cheapest(routes, 0.5, kept, 0.1).route
        assert kept == "b"
    assert (
        rules.cheapest([Route("a", quality=0.95, usd=0.0), Route("b", quality=0.8, usd=0.0)], 0.5, "b", 0.1).route
        == "a"
    )


def test_words_say_what_was_weighed() -> None:
    routes = [Route("small", quality=0.4, usd=0.0), Route("big", quality=0.9, usd=0.002), Route("far", quality=0.95)]
    assert rules.cheapest(routes, 0.8).why == (
        "big is the cheapest from 0.8: predicted small 0.4 at $0, big 0.9 at $0.002, far 0.95 at an unknown price"
    )
    assert rules.best(routes, 0.001).why.startswith("small is the best for at most $0.001: predicted")
    assert rules.by_bands(routes, [0.2, 0.6], 0.3).why == "score 0.3: big from 0.2 below 0.6"
    kept = rules.by_bands(routes, [0.2, 0.6], 0.15, "big", 0.1)
    assert kept.reason == "kept"
    assert kept.why == "the conversation keeps big (margin 0.1); by itself: score 0.15: small below 0.2"


@given(place=st.integers(0, 2))
def test_the_nearest_open_route_is_the_next_dearer_one_then_the_next_cheaper(place: int) -> None:
    routes = [Route(f"r{each}", "no tools" if each == place else None) for each in range(3)]
    choice = rules.by_name(routes, f"r{place}", "stated")
    assert (choice.route, choice.reason) == (f"r{place + 1 if place < 2 else 1}", "closed")


def binomial_tail(n: int, share: Fraction, count: int) -> Fraction:
    """P(X >= count), exactly."""
    return sum(
        (math.comb(n, each) * share**each * (1 - share) ** (n - each) for each in range(count, n + 1)), Fraction(0)
    )


@pytest.mark.parametrize("seed", [0, 1, 2026])
@pytest.mark.parametrize("share", [Fraction(1, 10), Fraction(1, 2), Fraction(9, 10)])
def test_chance_keeps_its_share(seed: int, share: Fraction) -> None:
    """Within bounds that fair draws leave once in ten thousand times, on either side."""
    n = 400
    taken = sum(scorers.chance(Request(f"question {each}"), seed) < share for each in range(n))
    assert binomial_tail(n, share, taken) > Fraction(1, 10_000)
    assert binomial_tail(n, 1 - share, n - taken) > Fraction(1, 10_000)


@given(text=st.text(min_size=1).filter(str.strip), seed=st.integers(0, 2**31))
def test_chance_is_the_same_for_the_same_request_and_seed(text: str, seed: int) -> None:
    number = scorers.chance(Request(text), seed)
    assert 0 <= number < 1
    assert scorers.chance(Request([("human", text)]), seed) == number
    assert scorers.chance(Request(text), seed + 1) != number


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab")), max_size=60), st.integers(1, 5))
def test_the_store_is_bounded_and_forgets_who_asked_longest_ago(asked: list[tuple[int, str]], most: int) -> None:
    store = Conversations(most)
    last: dict[int, str] = {}
    for conversation, route in asked:
        store.keep(str(conversation), route)
        last.pop(conversation, None)
        last[conversation] = route
        assert len(store) <= most
    for place, (conversation, route) in enumerate(reversed(last.items())):
        assert store.route(str(conversation)) == (route if place < most else None)
