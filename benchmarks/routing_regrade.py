"""GSM8K graded anew, as far as the recorded outcomes let one.

RouteLLM's grader takes the last digits of a text, commas left out, so `$20.00` reads as 0 and `3.18` as 18. The right
answers themselves are not in the outcome file, but wherever either model was graded right, those digits are the right
answer, but for its sign. Each answer's number is then read with its decimals and compared with that. Where both were
graded wrong, a number whose decimals were misread counts as right if both models agree on it; else the grade stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from routing_data import Array

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+")
_MARKED = re.compile(r"####(.*)")


def regraded(drafts: Sequence[str], others: Sequence[str], recorded: Array) -> Array:
    """Grades [n, 2] of the weak and the strong responses, from the recorded ones [n, 2]."""
    return np.array([_row(*row) for row in zip(drafts, others, recorded.tolist(), strict=True)])


def recorded_reading(text: str) -> int | None:
    """What RouteLLM's grader reads."""
    found = re.findall(r"\d+", text.replace(",", ""))
    return int(found[-1]) if found else None


def reading(text: str) -> float | None:
    """The number that a response ends in: the one that is marked `####`, else the last."""
    marked = _MARKED.findall(text)
    found = _NUMBER.findall(marked[-1]) if marked else []
    found = found[:1] or _NUMBER.findall(text)[-1:]
    return float(found[0].replace(",", "")) if found else None


def _row(draft: str, other: str, grades: Sequence[float]) -> list[float]:
    texts = (draft, other)
    read = [reading(text) for text in texts]
    right = next((recorded_reading(text) for text, good in zip(texts, grades, strict=True) if good), None)
    if right is not None:
        return [float(value is not None and abs(abs(value) - right) < 1e-6) for value in read]
    misread = any(
        value is not None and abs(value) != recorded_reading(text) for value, text in zip(read, texts, strict=True)
    )
    agreed = misread and None not in read and read[0] == read[1]
    return [float(agreed)] * 2
