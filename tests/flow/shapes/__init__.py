"""Named graph shapes: each with its host parts, inputs, and what must come of them in every call style."""

# Each adds its own to the table.
from tests.flow.shapes import answers, capabilities, failures, groups, limits, plain, ports  # noqa: F401
from tests.flow.shapes.shape import SHAPES, Case, Shape

__all__ = ["SHAPES", "Case", "Shape"]
