"""What signals said of the rows under one setting: the numbers that decide, where these are cut, what is predicted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration.columns import Column, Floats
from dynflow.graph import NodePlan
from dynflow.language.expression import Comparison, Constant, Port, Term, parts_of
from dynflow.language.references import Reference

if TYPE_CHECKING:
    from dynflow.calibration.walking import Walking

_QUALITY = "quality"
"""The record port that holds probabilities of a good answer, by route, whatever the node's type."""
_OUTSIDE = frozenset({"params", "budget"})


@dataclass(frozen=True)
class Scores:
    """A number that decides, of the requests that come by, and where it is cut."""

    name: str
    """`node.port`, or `input.key`."""
    values: Floats
    thresholds: Mapping[str, float]
    """What it is compared with, by the param's name; a number of the graph's own under that number."""


@dataclass(frozen=True)
class Predicted:
    """Probabilities of a good answer, beside how good it was."""

    signal: str
    """`node.port.route`."""
    of: str
    """The node whose answer is meant."""
    probability: Floats
    quality: Floats


def measured(walk: Walking) -> dict[str, Floats]:
    """Numbers [of the requests that come by] that signals give and conditions read, by `node.port`."""
    found: dict[str, Floats] = {}
    ports = {port for ways in walk.graph.ways.values() for way in ways for port in way.reads}
    for port in ports:
        if port.owner in walk.nodes and port.owner not in walk.replay.recorded.nodes and len(port.path) == 1:
            column = walk.nodes[port.owner].column(port.path[0], walk.reached[port.owner])
            if column.numeric:
                found[f"{port.owner}.{port.path[0]}"] = _known(column)
    for name, inner in walk.inside.items():
        found |= {f"{name}/{port}": values for port, values in measured(inner).items()}
    return found


def scores(walk: Walking) -> list[Scores]:
    """Every number that is compared with a threshold, of a walk under one setting, in the order of the graph."""
    cuts: dict[tuple[str, str], dict[str, float]] = {}
    for (owner, port), name, value in _cuts(walk):
        cuts.setdefault((owner, port), {})[name] = value
    found: list[Scores] = []
    for (owner, port), thresholds in cuts.items():
        if owner == "input" or owner in walk.nodes:
            column = walk.column(owner, port)
            values = _known(column) if column.numeric else np.zeros(0)
            if len(values):
                found.append(Scores(f"{owner}.{port}", values, thresholds))
    for name, inner in walk.inside.items():
        for each in scores(inner):
            inside = {f"{name}/{param}": value for param, value in each.thresholds.items()}
            found.append(Scores(f"{name}/{each.name}", each.values, inside))
    return found


def _cuts(walk: Walking) -> Iterator[tuple[tuple[str, str], str, float]]:
    """Ports with a threshold each: in conditions, and in options of nodes that read both."""
    for ways in walk.graph.ways.values():
        for way in ways:
            for part in parts_of(way.term) if way.term is not None else ():
                if isinstance(part, Comparison):
                    for left, right in itertools.pairwise(part.operands):
                        for one, other in ((left, right), (right, left)):
                            cut = _threshold(walk, other)
                            if isinstance(one, Port) and one.owner not in _OUTSIDE and cut and len(one.path) == 1:
                                yield (one.owner, one.path[0]), *cut
    for name, plan in walk.graph.nodes.items():
        if name in walk.nodes and name not in walk.replay.recorded.nodes and name not in walk.replay.inside:
            read = [target for reference in _references(plan) for target in reference.targets]
            cuts = [_param(walk, port) for owner, port in read if owner == "params"]
            params = [cut for cut in cuts if cut is not None]
            yield from ((target, *cut) for target in read if target[0] in walk.nodes for cut in params)


def _references(plan: NodePlan) -> list[Reference]:
    return [each for each in plan.options.references().values() if isinstance(each, Reference)]


def _threshold(walk: Walking, term: Term) -> tuple[str, float] | None:
    """A param, or a number of the graph's own, with its value."""
    if isinstance(term, Constant):
        return _number(f"{term.value}", term.value)
    return _param(walk, term.path[0]) if isinstance(term, Port) and term.owner == "params" else None


def _param(walk: Walking, name: str) -> tuple[str, float] | None:
    return _number(name, walk.params[name].ravel()[0]) if name in walk.params else None


def _number(name: str, value: Any) -> tuple[str, float] | None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return (name, float(value)) if number else None


def predictions(walk: Walking, weak: str, strong: str) -> list[Predicted]:
    """Probabilities that signals give of good answers, with these answers' recorded quality.

    Routes `weak` and `strong` are a graph's two ends, any other is a node's id. A signal that is given an answer to
    judge means that one by `weak`.
    """
    found: list[Predicted] = []
    for name, given in walk.nodes.items():
        plan = walk.graph.nodes[name]
        if name in walk.replay.recorded.nodes or plan.ports.get(_QUALITY) is None or plan.cls.instant:
            continue
        column = given.column(_QUALITY, walk.reached[name])
        rows = [(row, value) for row, value in enumerate(column.objects()[0]) if isinstance(value, Mapping)]
        judged = [owner for each in _references(plan) for owner, _ in each.targets if owner in walk.graph.answers]
        ends = {"weak": judged[0] if judged else weak, "strong": strong}
        for route in dict.fromkeys(key for _, value in rows for key in value):
            of = ends.get(route, route)
            if of not in walk.replay.recorded_nodes:
                continue
            quality = walk.replay.outcome_quality(of)
            pairs = [(value[route], quality[row]) for row, value in rows if route in value]
            known = np.array([(p, q) for p, q in pairs if p is not None and not math.isnan(q)], dtype=np.float64)
            if len(known):
                found.append(Predicted(f"{name}.{_QUALITY}.{route}", of, known[:, 0], known[:, 1]))
    for name, inner in walk.inside.items():
        below = [end.removeprefix(f"{name}/") for end in (weak, strong)]
        for each in predictions(inner, *below):
            found.append(Predicted(f"{name}/{each.signal}", f"{name}/{each.of}", each.probability, each.quality))
    return found


def _known(column: Column) -> Floats:
    values: Floats = np.broadcast_to(column.values, column.known.shape)[column.known]
    return values[np.isfinite(values)]
