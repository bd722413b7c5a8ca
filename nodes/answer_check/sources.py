"""Where the numbers of an answer's equations come from, and which numbers went unused."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

from dynflow.nodes.answer_check.reading import Reading, same

_USUAL = frozenset((0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 12.0, 24.0, 30.0, 52.0, 60.0, 100.0, 365.0, 1000.0))
"""Numbers that an equation may bring in of itself: counting, calendar, clock, percent."""


@dataclass(frozen=True)
class Sources:
    """How the operands of all equations are come by."""

    operands: int
    chained: int
    """Results of equations before."""
    asked_again: int
    """Numbers of the question that were used before."""
    usual: int
    """Neither, but numbers that anyone may bring in."""
    foreign: int
    """Out of nowhere."""
    unused_results: int
    """Results that no later equation takes up and that are not the final answer."""
    unused_asked: int
    """Numbers in digits of the question that the answer never mentions."""
    disorder: float
    """Share, 0…1, of neighbouring uses of the question's numbers that go against their order there."""


def sources(reading: Reading) -> Sources:
    """Follow each operand back to the question or to an equation before."""
    asked = reading.asked
    derived = [base + sign * value / 100 for value in asked for base, sign in ((0, 1), (1, -1), (1, 1))]
    results: list[float] = []
    taken: set[int] = set()
    order: list[int] = []
    operands = chained = usual = foreign = 0
    for step in reading.steps:
        for operand in step.operands:
            operands += 1
            result = next((i for i in reversed(range(len(results))) if same(results[i], operand)), None)
            inverse = 1 / operand if operand else 0.0
            given = next((i for i, value in enumerate(asked) if same(value, operand) or same(value, inverse)), None)
            if result is not None:
                taken.add(result)
                chained += 1
            if given is not None:
                order.append(given)
            if result is None and given is None and not any(same(value, operand) for value in derived):
                usual += operand in _USUAL
                foreign += operand not in _USUAL
        results.append(step.written)
    final = reading.final
    answer = reading.answer.replace(",", "")
    mentioned = {
        i for i, value in enumerate(asked) if re.search(rf"(?<![\d.]){re.escape(f'{value:.15g}')}(?!\d)", answer)
    }
    return Sources(
        operands=operands,
        chained=chained,
        asked_again=len(order) - len(set(order)),
        usual=usual,
        foreign=foreign,
        unused_results=sum(
            i not in taken and not (final is not None and same(value, final)) for i, value in enumerate(results)
        ),
        unused_asked=sum(i not in mentioned and i not in order for i in range(reading.digits)),
        disorder=sum(a > b for a, b in itertools.pairwise(order)) / max(len(order) - 1, 1),
    )
