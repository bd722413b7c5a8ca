"""Graders that compare an answer with its reference: text, number, and what a pattern finds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dynflow.errors import GradingError
from dynflow.grading.grader import Answered, Grade, Grader

if TYPE_CHECKING:
    from dynflow.budgets import Budget

_EDGES = " \t\n.,;:!?\"'`*_()[]{}«»“”‘’…"  # noqa: RUF001 - as people write
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[$€£]\s?)?[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d)|\.\d+)")
_MINUS = str.maketrans({"\u2212": "-", "\u2013": "-"})
_REFERENCE = "{reference}"
_LONGEST = 100_000
"""Characters of an answer that a pattern is tried on."""


def normalised(value: Any) -> str:
    """A text as exact match compares it: without case, articles, outer punctuation and spaces (NFKC).

    After the SQuAD metric (Rajpurkar et al. 2016), but punctuation inside a word stays: 3.5 is not 35.
    """
    stripped = (word.strip(_EDGES) for word in unicodedata.normalize("NFKC", str(value)).casefold().split())
    words = [word for word in stripped if word]
    return " ".join([word for word in words if word not in _ARTICLES] or words)  # choice A is no article


def numbers(text: str) -> Iterator[Decimal]:
    """The numbers of a text, in its order: signs, decimals, thousands' commas and currency signs are understood."""
    for found in _NUMBER.finditer(text.translate(_MINUS)):
        yield Decimal(re.sub(r"[^\d.+-]", "", found[0]))


class Exact(Grader):
    """1 where the whole answer is the reference, but for case, articles, outer punctuation and spaces; else 0."""

    @override
    def identity(self) -> Any:
        return "exact"

    @override
    async def grade(self, answered: Answered, budget: Budget | None = None) -> Grade:
        text = normalised(answered.text)
        return Grade(float(any(text == normalised(reference) for reference in answered.references)))


class Number(Grader):
    """1 where the last number of the answer is the reference: 20, $20.00 and 20.0 are one number; else 0."""

    @override
    def identity(self) -> Any:
        return "number"

    @override
    def reference_fault(self, reference: Any) -> str | None:
        found = super().reference_fault(reference)
        if found is None and len(list(numbers(str(reference)))) != 1:
            return f"a reference is one number here, or a text with one; not {reference!r}"
        return found

    @override
    async def grade(self, answered: Answered, budget: Budget | None = None) -> Grade:
        *_, last = [None, *numbers(answered.text)]
        return Grade(float(any(last == next(numbers(str(reference))) for reference in answered.references)))


class Pattern(Grader):
    r"""1 where the last match of a regular expression (its first group, if it has one) is the reference; else 0.

    A pattern that holds `{reference}` is looked for with the reference in that place, and a match is all it takes:
    `\b{reference}\b`. Case does not count. Raises `GradingError` for what is no pattern.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        try:
            self._found = re.compile(pattern.replace(_REFERENCE, "x"), re.IGNORECASE)
        except re.error as error:
            raise GradingError(f"{pattern!r} is no regular expression: {error}") from None

    @override
    def identity(self) -> Any:
        return ["regex", self._pattern]

    @override
    async def grade(self, answered: Answered, budget: Budget | None = None) -> Grade:
        text = answered.text[:_LONGEST]
        if _REFERENCE in self._pattern:
            right = "|".join(re.escape(str(reference)) for reference in answered.references)
            return Grade(float(bool(re.search(self._pattern.replace(_REFERENCE, f"(?:{right})"), text, re.IGNORECASE))))
        *_, last = [None, *self._found.finditer(text)]
        if last is None:
            return Grade(0.0)
        found = normalised(last[1 if self._found.groups else 0] or "")
        return Grade(float(any(found == normalised(reference) for reference in answered.references)))
