"""What every grader is made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynflow.budgets import Budget
    from dynflow.flow import Flow


@dataclass(frozen=True)
class Answered:
    """One answer, with what it answers."""

    text: str
    """The answer as text: a message's text, a label, an object as JSON."""
    question: str
    """The last user turn."""
    reference: Any
    """The row's `reference`; None where it has none."""
    node: str
    """The node that answered."""
    input: Any
    """The row's whole `input`."""

    @property
    def references(self) -> Sequence[Any]:
        """The answers that are right: the reference, or each of a list of them."""
        return self.reference if isinstance(self.reference, list) else [self.reference]


@dataclass(frozen=True)
class Grade:
    """How good an answer is, and what it cost to find out."""

    quality: float | None
    """0 (useless) to 1 (as good as can be); None where the grader gave none."""
    usd: float | None = 0.0
    """None where a price is unknown."""
    why: str | None = None
    """Why there is none."""
    failure: Exception | None = None
    """What a model raised that no row is to blame for: there is no grade yet, but this may have cost something."""


class Grader(ABC):
    """Says how good an answer is, 0 to 1."""

    flow: Flow | None = None
    """The flow that it asks, where it pays for its grades."""

    @abstractmethod
    def identity(self) -> Any:
        """What grades depend on, as plain values: results made by another grader are told by it."""

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """What a row lacks that the grader needs, in words; by default a `reference`, which it then is checked in."""
        if "reference" not in row:
            return "the row has no 'reference', the right answer that this grader compares with"
        reference = row["reference"]
        right = reference if isinstance(reference, list) else [reference]
        if not right:
            return "the reference is an empty list: give at least one right answer"
        return next((fault for one in right if (fault := self.reference_fault(one)) is not None), None)

    def reference_fault(self, reference: Any) -> str | None:
        """What is wrong with one right answer, in words."""
        if isinstance(reference, float) and not math.isfinite(reference):
            return f"a reference is a finite number, not {reference}"
        if isinstance(reference, bool) or not isinstance(reference, str | int | float) or not str(reference).strip():
            return "a reference is a text or a number that is not empty, or a list of those"
        return None

    @abstractmethod
    async def grade(self, answered: Answered, budget: Budget | None = None) -> Grade:
        """The answer's grade; `budget` is what a grader that pays may spend.

        Raises `GradingError` where the grader itself is at fault.
        """
