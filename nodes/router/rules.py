"""How a router chooses, pure: routes with what is known of them in, one of them out, with the reason in words."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from dynflow.money import precise_dollars

Reason = Literal["rule", "kept", "abstained", "missed", "closed"]
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True)
class Route:
    """What is known of one route for one request."""

    name: str
    closed: str | None = None
    """Why the request cannot go there; None: it can."""
    quality: float | None = None
    """Predicted, 0 to 1; None where nothing is predicted."""
    usd: float | None = None
    """What it would cost; None where that is unknown."""

    def __str__(self) -> str:
        quality = "unknown" if self.quality is None else f"{self.quality:.4g}"
        price = "at an unknown price" if self.usd is None else f"at {precise_dollars(self.usd)}"
        return f"{self.name} {quality} {price}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The route taken, what for, and the words for the record."""

    route: str
    reason: Reason
    score: float | None
    why: str


def by_bands(
    routes: Sequence[Route], bands: Sequence[float], score: float, kept: str | None = None, margin: float = 0.0
) -> Choice:
    """The route whose band holds the score; one that was kept until the score is `margin` outside its band."""
    names = [route.name for route in routes]
    place = bisect_right(bands, score)
    own = _choice(routes, names[place], score, _band(names, bands, place, score))
    if kept is None or kept == own.route or not _is_open(routes, kept):
        return own
    place = names.index(kept)
    outside_below = place > 0 and score < bands[place - 1] - margin
    outside_above = place < len(bands) and score >= bands[place] + margin
    if outside_below or outside_above:
        return own
    return Choice(kept, "kept", score, f"{_keeps(kept, margin)}; by itself: {own.why}")


def by_name(routes: Sequence[Route], name: str, why: str) -> Choice:
    """The route of this name, or the nearest that is open: the next dearer one, else the next cheaper."""
    return _choice(routes, name, None, why)


def cheapest(routes: Sequence[Route], floor: float, kept: str | None = None, margin: float = 0.0) -> Choice:
    """The cheapest open route of which at least `floor` is predicted; an unknown price counts as the dearest.

    A route that was kept stays until its quality is `margin` under the floor, or that of a cheaper one over it. Where
    none reaches the floor it is the best.
    """
    able = _open(routes)
    shown = f"predicted {', '.join(map(str, able))}"
    own = _cheapest(able, floor)
    if kept is not None and (own is None or own.name != kept):
        steady = _cheapest(able, floor, kept, margin)
        if steady is not None and steady.name == kept:
            return Choice(kept, "kept", steady.quality, f"{_keeps(kept, margin)}; floor {floor:.4g}, {shown}")
    if own is not None:
        return Choice(own.name, "rule", own.quality, f"{own.name} is the cheapest from {floor:.4g}: {shown}")
    missed = f"no route reaches the floor {floor:.4g}: {shown}"
    found = _best(able, kept, margin)
    return Choice(found.name, "missed", found.quality, missed)


def _cheapest(able: Sequence[Route], floor: float, kept: str | None = None, margin: float = 0.0) -> Route | None:
    """The cheapest that reaches the floor, at equal price the better; for the kept one both are `margin` easier."""
    reaching = [route for route in able if _worth(route) >= floor + (-margin if route.name == kept else margin)]
    ease = {kept: margin}
    return min(reaching, key=lambda route: (_price(route), -_worth(route) - ease.get(route.name, 0.0)), default=None)


def best(routes: Sequence[Route], max_usd: float, kept: str | None = None, margin: float = 0.0) -> Choice:
    """The open route of the best predicted quality that costs at most `max_usd`; an unknown price is too much.

    A route that was kept stays, while it can be afforded, until another is better by more than `margin`. Where none
    can be afforded it is the cheapest.
    """
    able = _open(routes)
    most = precise_dollars(max_usd)
    afforded = [route for route in able if _price(route) <= max_usd and route.quality is not None]
    shown = f"predicted {', '.join(map(str, able))}"
    if not afforded:
        missed = f"no route with a prediction costs at most {most}: {shown}"
        found = min(able, key=_price)
        return Choice(found.name, "missed", found.quality, missed)
    own, steady = _best(afforded), _best(afforded, kept, margin)
    if steady.name != own.name:
        return Choice(steady.name, "kept", steady.quality, f"{_keeps(steady.name, margin)}; {shown}")
    return Choice(own.name, "rule", own.quality, f"{own.name} is the best for at most {most}: {shown}")


def _best(able: Sequence[Route], kept: str | None = None, margin: float = 0.0) -> Route:
    """The best, at equal quality the cheaper; the kept one until another is better by more than `margin`."""
    found = max(able, key=lambda route: (_worth(route), -_price(route)))
    stay = next((route for route in able if route.name == kept), None)
    return stay if stay is not None and _worth(found) <= _worth(stay) + margin else found


def abstained(routes: Sequence[Route], resort: str, why: str) -> Choice:
    """The stated route, or the nearest that is open, where the rule does not decide."""
    choice = by_name(routes, resort, f"{resort} in doubt: {why}")
    return choice if choice.reason == "closed" else replace(choice, reason="abstained")


def _choice(routes: Sequence[Route], name: str, score: float | None, why: str) -> Choice:
    """The route of this name, or the nearest that is open."""
    if _is_open(routes, name):
        return Choice(name, "rule", score, why)
    place = [route.name for route in routes].index(name)
    nearest = next(route.name for route in (*routes[place:], *reversed(routes[:place])) if route.closed is None)
    return Choice(nearest, "closed", score, f"{nearest} in the place of {name}, which is closed; by itself: {why}")


def _band(names: Sequence[str], bands: Sequence[float], place: int, score: float) -> str:
    low = f" from {bands[place - 1]:.4g}" if place else ""
    high = f" below {bands[place]:.4g}" if place < len(bands) else ""
    return f"score {score:.4g}: {names[place]}{low}{high}"


def _keeps(name: str, margin: float) -> str:
    return f"the conversation keeps {name} (margin {margin:.4g})"


def _open(routes: Sequence[Route]) -> list[Route]:
    return [route for route in routes if route.closed is None]


def _is_open(routes: Sequence[Route], name: str) -> bool:
    return any(route.name == name and route.closed is None for route in routes)


def _price(route: Route) -> float:
    return float("inf") if route.usd is None else route.usd


def _worth(route: Route) -> float:
    return float("-inf") if route.quality is None else route.quality
