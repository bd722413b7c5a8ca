"""What a router's bounds are compared with: nothing else of them matters to what it gives (`Node.compared`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from dynflow.language.references import Reference
from dynflow.node import Shifted

if TYPE_CHECKING:
    from dynflow.request import Request


def pairs(options: Any, score: Any, price: Callable[[str, Request], float]) -> Mapping[str, Sequence[tuple[Any, Any]]]:
    """By option. `score` is what bands are compared with; `price(route, request)` is infinite where it is unknown.

    `floor` and `max_usd` are also compared with their own least and most, which they are refused beyond. A sticky
    router compares bands and floor with its margin too, which must be plain to see.
    """
    found: dict[str, Sequence[tuple[Any, Any]]] = {}
    plain = not isinstance(options.sticky, Reference)
    if isinstance(options.bands, list) and plain:
        beside = ((score, bound) for band in options.bands for bound in _with_margin(band, options.sticky))
        found["bands"] = [*beside, *itertools.pairwise(options.bands)]
    if isinstance(options.unsure, list):
        found["unsure"] = [(score, bound) for bound in options.unsure]
    if options.sure_from is not None:
        found["sure_from"] = [(options.confidence, options.sure_from)]
    if options.max_usd is not None:
        prices = (partial(price, route) for route in options.routes)
        found["max_usd"] = [(usd, options.max_usd) for usd in (0, *prices)]
    if options.floor is not None and plain and (qualities := _qualities(options)) is not None:
        bounds = _with_margin(options.floor, options.sticky)
        found["floor"] = [(quality, bound) for quality in (0, 1, *qualities) for bound in bounds]
    return found


def _with_margin(bound: Any, margin: float | None) -> list[Any]:
    """A bound, and how far from it a conversation keeps its route."""
    return [bound] if margin is None else [bound, Shifted(bound, -margin), Shifted(bound, margin)]


def _qualities(options: Any) -> list[Any] | None:
    """What is predicted for each route; None where a reference to all of them is not a plain one."""
    if not isinstance(options.quality, Reference):
        return list((options.quality or {}).values())
    ((owner, port), *others) = options.quality.targets
    if others or "." in port:
        return None
    return [Reference(((owner, f"{port}.{route}"),)) for route in options.routes]
