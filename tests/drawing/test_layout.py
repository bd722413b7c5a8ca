from __future__ import annotations

import itertools
import random

import pytest

from dynflow.drawing.layers import Cell, lay_out
from dynflow.drawing.picture import Picture, Rectangle, Text, to_picture
from dynflow.drawing.sketch import Arrow, Box, Sketch


@pytest.mark.parametrize("seed", range(25))
def test_nothing_overlaps(seed):
    """Random acyclic graphs, some with double edges: boxes and labels of one layout never touch each other."""
    chance = random.Random(seed)
    names = ["start", *(f"n{number}" for number in range(chance.randint(1, 14))), "end"]
    edges = list(itertools.pairwise(names))
    edges += [tuple(sorted(chance.sample(range(len(names)), 2))) for _ in range(chance.randint(0, 25))]
    edges = [(names[a], names[b]) if isinstance(a, int) else (a, b) for a, b in edges]
    sizes = {name: (chance.uniform(30, 250), chance.uniform(20, 90)) for name in names}
    labels = [(chance.uniform(0, 200), chance.uniform(0, 60)) for _ in edges]
    layout = lay_out(sizes, edges, labels)
    placed = [*layout.boxes.values(), *layout.label_cells]
    for one, other in itertools.combinations(placed, 2):
        assert not _touch(one, other)
    # An edge goes down, and straight through each rank, so it cannot run through a box of that rank.
    for chain in layout.chains:
        assert all(upper.y < lower.y for upper, lower in itertools.pairwise(chain))
    for one, other in itertools.combinations({id(cell): cell for chain in layout.chains for cell in chain}.values(), 2):
        assert not _touch(one, other)
    assert all(cell.x - cell.width / 2 >= -0.01 and cell.x + cell.width / 2 <= layout.width + 0.01 for cell in placed)


def _touch(one: Cell, other: Cell) -> bool:
    apart_x = abs(one.x - other.x) >= (one.width + other.width) / 2 + 1
    apart_y = abs(one.y - other.y) >= (one.height + other.height) / 2
    return not (apart_x or apart_y)


def test_texts_stay_inside_their_boxes():
    """Measured with the font that PNGs are painted with."""
    font_module = pytest.importorskip("PIL.ImageFont")
    long = Box("a_node_with_a_long_name", "answer", ("difficulty_classifier, a_long_model", "streams live"))
    drawn = Sketch(
        "x", (Box("start", "terminal"), long, Box("end", "terminal")), (Arrow("start", long.id), Arrow(long.id, "end"))
    )
    picture: Picture = to_picture(drawn)
    boxes = [shape for shape in picture.shapes if isinstance(shape, Rectangle)]
    for text in (shape for shape in picture.shapes if isinstance(shape, Text)):
        box = next(box for box in boxes if abs(box.y - text.y) <= box.height / 2 and abs(box.x - text.x) < 1)
        assert font_module.load_default(text.size).getlength(text.text) < box.width - 8
        assert abs(text.y - box.y) + text.size / 2 < box.height / 2
