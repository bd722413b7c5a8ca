"""A contact sheet: the same prompts and noise under static counts and under the deciders, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from diffusion_arms import Pictures
from PIL import Image, ImageDraw, ImageFont

_ZOOM, _GAP, _TEXT, _HEAD = 2, 6, 280, 22
_PITCH = 26
"""Between two columns: room for a number of steps."""


def write_sheet(path: Path, prompts: Sequence[str], columns: Mapping[str, Pictures], rows: Sequence[int]) -> None:
    """A row for each of these images; a column's pictures are told their steps where they differ from one another."""
    side = _ZOOM * next(iter(columns.values())).images.shape[1]
    font = ImageFont.load_default(12)
    line = side + _GAP
    sheet = Image.new("RGB", (_TEXT + len(columns) * (side + _PITCH), _HEAD + len(rows) * line), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (name, drawn) in enumerate(columns.items()):
        left = _TEXT + place * (side + _PITCH)
        pen.text((left, 4), name, "black", font)
        told = len(set(drawn.taken.tolist())) > 1
        for row, image in enumerate(rows):
            top = _HEAD + row * line
            picture = Image.fromarray(drawn.images[image]).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top))
            if told:
                pen.text((left - 20, top + side // 2 - 6), f"{drawn.taken[image]}", "black", font)
    for row, image in enumerate(rows):
        top = _HEAD + row * line + side // 2
        for number, part in enumerate(_wrapped(prompts[image], 46)):
            pen.text((4, top - 14 + 14 * number), part, "black", font)
    sheet.quantize(128).save(path, optimize=True)


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def easy_and_hard(needed: np.ndarray, each: int) -> list[int]:
    """Images of the fewest and of the most steps needed, as many of both; the first of those that are alike."""
    order = np.argsort(needed, kind="stable").tolist()
    each = min(each, len(order) // 2)
    return [*order[:each], *order[len(order) - each :]]
