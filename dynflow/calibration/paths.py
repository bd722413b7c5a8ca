"""Settings to try, in an order: from those that always take the reference path to those that hardly do.

With one param it is that param's values. With several it is one way through them, fitted on rows set apart for it: of
the settings on a grid those that no mix of others beats, and what lies between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.columns import Floats
from dynflow.errors import CalibrationError
from dynflow.language.expression import Comparison, Port, Term, parts_of
from dynflow.language.references import Reference

if TYPE_CHECKING:
    from dynflow.calibration.replay import Replay
    from dynflow.calibration.walked import Params, Walked
    from dynflow.language.spec import ParamBody

_FROM_DATA = 400
"""Quantiles of what a param is compared with that are tried, if there are so many different ones."""
_EVEN = 41
"""Values of a param that are tried whatever it is compared with."""
_ON_GRID = 1_700
"""Settings of several params that the path is fitted on, at most."""
_STEPS = 160
"""Settings along a path through several params, about."""
_SLOWER = 8
"""So many times fewer settings are tried where a signal reads a param: it then runs for each setting anew."""


def tunable(replay: Replay) -> Mapping[str, ParamBody]:
    """The params that calibration may set: numbers marked `tune: true`. Raises `CalibrationError`."""
    if not replay.knobs and replay.stopping:
        told = " and ".join(f"{param!r} decides where {node!r} stops" for param, node in replay.stopping.items())
        raise CalibrationError(
            f"{told}, and outcomes are recorded as it was set then: `dynflow calibrate --data` sets it, from texts",
            "no_knob",
        )
    if not replay.knobs:
        example = "{default: 0.5, min: 0, max: 1, tune: true}"
        raise CalibrationError(f"no param is marked `tune: true`: give one as {example}", "no_knob")
    return replay.knobs


def check_read(replay: Replay) -> None:
    """Raises `CalibrationError` where a tunable param decides nothing that a replay walks."""
    for knob in tunable(replay):
        if not _is_read(replay, knob):
            raise CalibrationError(
                f"nothing that is replayed reads the param {knob!r}: compare params.{knob} in an edge, or remove its "
                "`tune: true`",
                "no_knob",
            )


def _is_read(replay: Replay, knob: str) -> bool:
    """Whether a condition reads a param, or an option of a node that runs, here or in the sub-graphs it goes to."""
    read = {(port.owner, port.path[0]) for ways in replay.graph.ways.values() for way in ways for port in way.reads}
    for name, plan in replay.graph.nodes.items():
        if name not in replay.recorded.nodes and name not in replay.inside:
            for reference in plan.options.references().values():
                if isinstance(reference, Reference):
                    read |= set(reference.targets)
    return ("params", knob) in read or any(_is_read(replay.inside[node], param) for node, param in replay.goes_to(knob))


def path(replay: Replay, reference: str) -> list[Params]:
    """Settings of all tunable params, in order, by what the rows of this replay show.

    `reference` is the node whose share of the calls falls along the path. Raises `CalibrationError`.
    """
    knobs = tunable(replay)
    if len(knobs) > 1:
        return _through_many(replay, reference, knobs)
    ((name, body),) = knobs.items()
    count = _FROM_DATA // (_SLOWER if read_by_signals(replay, knobs) else 1)
    settings: list[Params] = [{name: value} for value in values(replay, name, body, count)]
    share = replay.walk([settings[0], settings[-1]]).called[reference].mean(1)
    return settings if share[0] >= share[1] else settings[::-1]


def read_by_signals(replay: Replay, knobs: Iterable[str]) -> bool:
    """Whether options of nodes that run refer to a tunable param of which more matters than an order, or where they
    stop."""
    knobs = tuple(knobs)
    within = [(replay.inside[node], param) for knob in knobs for node, param in replay.goes_to(knob)]
    return any(
        owner == "params" and port in knobs
        for name, plan in replay.graph.nodes.items()
        if name not in replay.recorded.nodes and name not in replay.inside
        for path, reference in plan.options.references().items()
        if isinstance(reference, Reference) and path[0] not in replay.flow.resources.cold_node(name).compared()
        for owner, port in reference.targets
        if replay.stops.rule(plan, port) is None
    ) or any(read_by_signals(inner, [param]) for inner, param in within)


def values(replay: Replay, name: str, body: ParamBody, count: int) -> list[Any]:
    """Ascending values of one param that are worth trying: between what it is compared with, and evenly spread."""
    assert body.min is not None
    assert body.max is not None
    even = np.linspace(body.min, body.max, min(_EVEN, max(2, count)))
    compared = np.unique(np.concatenate([[], *_compared_with(replay, name)]))
    if len(compared) > count:
        compared = np.unique(np.quantile(compared, np.linspace(0, 1, count)))
    between = (compared[1:] + compared[:-1]) / 2
    inside = between[(between > body.min) & (between < body.max)]
    tried = np.unique(np.concatenate([even, inside] if count >= _EVEN else [even[[0, -1]], _thinned(inside, even)]))
    if isinstance(body.default, int):
        return [int(value) for value in np.unique(np.round(tried))]
    return [float(value) for value in tried]


def _thinned(inside: Floats, even: Floats) -> Floats:
    """As many quantiles as there are evenly spread values; these where there is nothing to take quantiles of."""
    return np.quantile(inside, np.linspace(0, 1, len(even))) if len(inside) else even


def _compared_with(replay: Replay, name: str) -> Iterator[Floats]:
    """Values that conditions compare a param with, wherever its extremes and those of its fellows lead."""
    bodies = tunable(replay)
    ends = [[(each, body.min), (each, body.max)] for each, body in bodies.items()]
    corners = [dict(corner) for corner in itertools.islice(itertools.product(*ends), 64)]
    typed = [{each: _typed(bodies[each], value) for each, value in corner.items()} for corner in corners]

    def beside(inner: Replay, param: str) -> list[Term]:
        return [term for ways in inner.graph.ways.values() for way in ways for term in _beside(way.term, param)]

    yield from replay.numbers([*typed, {}], name, beside)


def _typed(body: ParamBody, value: Any) -> Any:
    return round(value) if isinstance(body.default, int) else float(value)


def _beside(term: Term | None, name: str) -> Iterator[Term]:
    """Terms that a condition compares directly with a param."""
    for part in parts_of(term) if term is not None else ():
        if isinstance(part, Comparison):
            for left, right in itertools.pairwise(part.operands):
                if isinstance(left, Port) and (left.owner, left.path) == ("params", (name,)):
                    yield right
                elif isinstance(right, Port) and (right.owner, right.path) == ("params", (name,)):
                    yield left


def _through_many(replay: Replay, reference: str, knobs: Mapping[str, ParamBody]) -> list[Params]:
    """One way through several params: the upper hull of quality over cost, and steps between its corners."""
    slower = _SLOWER if read_by_signals(replay, knobs) else 1
    each = max(2, int((_ON_GRID / slower) ** (1 / len(knobs))))
    axes = [values(replay, name, body, each) for name, body in knobs.items()]
    grid = [dict(zip(knobs, point, strict=True)) for point in itertools.islice(itertools.product(*axes), 4 * _ON_GRID)]
    walked = replay.walk(grid)
    cost, share = costs(walked, reference), walked.called[reference].mean(1)
    corners = hull(cost, walked.quality.mean(1))
    always = int(np.lexsort((cost, -share))[0])
    if always not in corners:
        corners.insert(0, always)
    places = [[axes[axis].index(grid[corner][name]) for axis, name in enumerate(knobs)] for corner in corners]
    if len(places) == 1:
        return [grid[corners[0]]]
    steps = max(1, _STEPS // slower // (len(places) - 1))
    settings: list[Params] = []
    for start, end in itertools.pairwise(places):
        for step in range(steps):
            at = step / steps
            settings.append(_between(knobs, axes, start, end, at))
    return [*settings, grid[corners[-1]]]


def _between(
    knobs: Mapping[str, ParamBody], axes: Sequence[Sequence[Any]], start: Sequence[int], end: Sequence[int], at: float
) -> Params:
    """A setting on the straight line between two of the grid, by places on the axes: these follow the data."""
    setting: dict[str, Any] = {}
    for (name, body), axis, low, high in zip(knobs.items(), axes, start, end, strict=True):
        value = float(np.interp(low + at * (high - low), np.arange(len(axis)), axis))
        setting[name] = _typed(body, value)
    return setting


def costs(walked: Walked, reference: str) -> Floats:
    """What each setting costs on average [t]: USD where every price is known, else the reference's share of calls."""
    usd = walked.usd.mean(1)
    if np.isnan(usd).any() or np.ptp(usd) == 0:
        return np.asarray(walked.called[reference].mean(1), dtype=np.float64)
    return np.asarray(usd, dtype=np.float64)


def hull(cost: Floats, quality: Floats) -> list[int]:
    """Corners of the upper concave hull of quality over cost (Andrew's monotone chain), the dearest first.

    It begins where paying more gains nothing, and ends with the cheapest.
    """
    order: NDArray[np.intp] = np.lexsort((-quality, cost))
    corners: list[int] = []
    for point in order.tolist():
        if corners and cost[point] == cost[corners[-1]]:
            continue  # the better one of equal cost came first
        while len(corners) > 1 and _below(cost, quality, corners[-2], corners[-1], point):
            corners.pop()
        corners.append(point)
    best = max(range(len(corners)), key=lambda corner: float(quality[corners[corner]]))
    return corners[best::-1]


def _below(cost: Floats, quality: Floats, left: int, middle: int, right: int) -> bool:
    """Whether the middle one of three points lies on or below the line through the others."""
    rise = (quality[right] - quality[left]) * (cost[middle] - cost[left])
    return bool((quality[middle] - quality[left]) * (cost[right] - cost[left]) <= rise)
