"""Layered layout of an acyclic graph: places for boxes and labels such that nothing overlaps.

The classic four steps (Sugiyama, Tagawa and Toda 1981; Gansner et al. 1993, "A technique for drawing directed
graphs"): ranks by longest path, long edges cut into pieces by empty cells, an order within each rank by barycentres,
and x places by least squares under the order. An edge's label is a cell of its own, in a rank between the nodes'.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

GAP_X, GAP_Y = 26.0, 24.0
_SWEEPS = 12
_STRAIGHT = 30.0  # how much more a long edge wants to be straight than to be near its ends


@dataclass(eq=False)
class Cell:
    """A rectangle in a rank: a box, a label, or an empty piece of a long edge. `x`, `y` are its centre.

    `room` is the height of its rank.
    """

    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    room: float = 0.0
    above: list[Cell] = field(default_factory=list)
    below: list[Cell] = field(default_factory=list)
    box: bool = False


@dataclass(frozen=True)
class Layout:
    """Boxes by id; for each edge its cells from source to target, and the one that holds its label."""

    boxes: Mapping[str, Cell]
    chains: Sequence[Sequence[Cell]]
    label_cells: Sequence[Cell]
    width: float
    height: float


def lay_out(
    sizes: Mapping[str, tuple[float, float]],
    edges: Sequence[tuple[str, str]],
    labels: Sequence[tuple[float, float]],
) -> Layout:
    """Places for boxes of these (width, height), given in topological order, and for one label per edge."""
    boxes = {name: Cell(width, height, box=True) for name, (width, height) in sizes.items()}
    rank = dict.fromkeys(boxes, 0)
    for name in boxes:
        for source, target in edges:
            if source == name:
                rank[target] = max(rank[target], rank[name] + 2)  # odd ranks hold labels
    ranks: list[list[Cell]] = [[] for _ in range(max(rank.values(), default=0) + 1)]
    for name, cell in boxes.items():
        ranks[rank[name]].append(cell)
    chains, label_cells = [], []
    for (source, target), (width, height) in zip(edges, labels, strict=True):
        between = [Cell(0.0, 0.0) for _ in range(rank[source] + 1, rank[target])]
        between[0].width, between[0].height = width, height
        label_cells.append(between[0])
        for place, cell in enumerate(between, rank[source] + 1):
            ranks[place].append(cell)
        chain = [boxes[source], *between, boxes[target]]
        for upper, lower in pairwise(chain):
            upper.below.append(lower)
            lower.above.append(upper)
        chains.append(chain)
    _order(ranks)
    _place(ranks)
    y = 0.0
    for row in ranks:
        height = max(cell.height for cell in row)
        for cell in row:
            cell.y, cell.room = y + height / 2, height
        y += height + GAP_Y
    left = min(cell.x - cell.width / 2 for row in ranks for cell in row)
    for row in ranks:
        for cell in row:
            cell.x -= left
    right = max(cell.x + cell.width / 2 for row in ranks for cell in row)
    return Layout(boxes, chains, label_cells, right, y - GAP_Y)


def _order(ranks: list[list[Cell]]) -> None:
    """Sort each rank by the mean place of the neighbours above, then below, and so on; keep the fewest crossings."""
    place = _places(ranks)
    best = (_crossings(ranks), [list(row) for row in ranks])
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in ranks[1:] if downwards else ranks[-2::-1]:
            neighbours = [cell.above if downwards else cell.below for cell in row]
            means = {
                id(cell): sum(place[id(other)] for other in others) / len(others) if others else place[id(cell)]
                for cell, others in zip(row, neighbours, strict=True)
            }
            row.sort(key=lambda cell: means[id(cell)])
            place.update(_places([row]))
        if (found := _crossings(ranks)) < best[0]:
            best = (found, [list(row) for row in ranks])
        if not best[0]:
            break
    ranks[:] = best[1]


def _places(ranks: list[list[Cell]]) -> dict[int, int]:
    return {id(cell): place for row in ranks for place, cell in enumerate(row)}


def _crossings(ranks: list[list[Cell]]) -> int:
    """Pairs of edges between neighbouring ranks that cross: inversions of the order of their lower ends."""
    place = _places(ranks)
    total = 0
    for row in ranks:
        seen: list[int] = []
        for cell in row:
            ends = sorted(place[id(other)] for other in cell.below)
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _place(ranks: list[list[Cell]]) -> None:
    """Move each cell towards its neighbours, in many small sweeps, as far as the order within its rank lets it."""
    for row in ranks:
        x = 0.0
        for cell in row:
            cell.x = x + cell.width / 2
            x += cell.width + GAP_X
    for sweep in range(6 * _SWEEPS):
        both = sweep >= 2 * _SWEEPS
        for row in ranks if sweep % 2 == 0 else ranks[::-1]:
            wanted, weights = [], []
            for cell in row:
                others = [*cell.above, *cell.below] if both else (cell.above if sweep % 2 == 0 else cell.below)
                pulls = [(other.x, 1.0 if cell.box or other.box else _STRAIGHT) for other in others]
                weight = sum(pull for _, pull in pulls)
                wanted.append(sum(x * pull for x, pull in pulls) / weight if weight else cell.x)
                weights.append(weight or 0.01)
            _fit(row, wanted, weights)


def _fit(row: list[Cell], wanted: list[float], weights: list[float]) -> None:
    """The places nearest to those wanted, in least squares, that keep order and gaps: pool adjacent violators."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + GAP_X)
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of cells
    for place, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, count = place - offset, 1
        while pools and pools[-1][0] > mean:
            last_mean, last_weight, last_count = pools.pop()
            mean = (mean * weight + last_mean * last_weight) / (weight + last_weight)
            weight, count = weight + last_weight, count + last_count
        pools.append((mean, weight, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    for cell, mean, offset in zip(row, means, offsets, strict=True):
        cell.x = mean + offset
