"""Prompts to learn from and to promise on: a file's, or captions of the shapes' own world."""

from __future__ import annotations

from collections.abc import Sequence

from dynflow.errors import InputError
from dynflow.learning.labelled import read_texts
from dynflow.nodes.adaptive_diffusion.shapes.captions import Part

WORLD = "embedded/shapes"


def prompts_of(
    model: str, part: Part, data: Sequence[str], column: str | None = None, captions: int | None = None
) -> list[str]:
    """The prompts of files, or so many captions of the part of the shapes' world, with those that come twice.

    Raises InputError for files that cannot be read, listing all bad rows, and for captions for another model.
    """
    if captions is None:
        return [row.text for source in data for row in read_texts(source, column)]
    if model != WORLD:
        raise InputError(f"{model} has no world of captions: give prompts with --data")
    from dynflow.nodes.adaptive_diffusion.shapes.scenes import draw_captions

    return [caption.text() for caption in draw_captions(captions, part, seed=0)]
