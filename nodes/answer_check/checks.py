"""Checks that need no model, and what an answer is worth by them alone, where no estimator was trained.

Each tells one thing that is wrong with an answer. What failing it leaves of the confidence was set by hand: a graph
calibrates its threshold anyway, and `dynflow train check` learns better weights from graded answers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynflow.nodes.answer_check.reading import Reading, json_of, same
from dynflow.nodes.answer_check.sources import sources

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

SCHEMA = "schema"
"""The check that an answer fits the option `output`; it is asked for by giving that option."""
PASSED = 0.8
"""Confidence in an answer in which nothing was found wrong."""
_ASKS_NUMBER = re.compile(r"\bhow (?:many|much|long|old|far|tall)\b|\b(?:calculate|what is the (?:total|sum))\b", re.I)
_ASKS_COUNT = re.compile(r"\bhow many\b", re.I)
_MUCH_REPEATED = 0.34


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that may be wrong: what leaves how much of the confidence, 0…1, and whether that settles it."""

    says: str
    fails: Callable[[Reading], bool]
    leaves: float
    settles: bool = False
    """Whether no estimator may think better of an answer that fails it."""


CHECKS: Mapping[str, Check] = {
    "empty": Check("says nothing", lambda r: not r.answer.strip(), 0.01, True),
    "refusal": Check("says that it cannot answer", lambda r: r.refuses, 0.2),
    "cut_off": Check("breaks off before its end", lambda r: r.broken_off, 0.15),
    "run_on": Check("goes on after its end", lambda r: r.runs_on, 0.6),
    "repetition": Check("repeats itself", lambda r: r.repeats > _MUCH_REPEATED, 0.4),
    "json": Check("is not the JSON that it should be", lambda r: r.json_broken, 0.05, True),
    SCHEMA: Check("does not fit its JSON schema", lambda r: False, 0.02, True),  # the node finds it
    "code": Check("has code that does not parse", lambda r: r.code_broken, 0.05, True),
    "arithmetic": Check("has an equation that does not hold", lambda r: any(not s.holds for s in r.steps), 0.15),
    "final_answer": Check("gives no number where one was asked for", lambda r: _no_number(r), 0.3),
    "origin": Check("reckons with numbers out of nowhere", lambda r: sources(r).foreign > 0, 0.5),
    "count": Check("gives a fraction, or less than none, as a count", lambda r: _no_count(r), 0.4),
}
"""What is looked for, by the name that the option `checks` and the port `reasons` have for it."""


def found_wrong(reading: Reading, names: Iterable[str]) -> list[str]:
    """Those of the checks that the answer fails, in their order here."""
    wanted = set(names)
    return [name for name, check in CHECKS.items() if name in wanted and check.fails(reading)]


def by_rule(failed: Iterable[str]) -> float:
    """Confidence 0…1 in an answer that failed these checks."""
    return PASSED * math.prod(CHECKS[name].leaves for name in failed)


def most(failed: Iterable[str]) -> float:
    """The most confidence, 0…1, that these failures allow whatever an estimator says."""
    return min((CHECKS[name].leaves for name in failed if CHECKS[name].settles), default=1.0)


def fits(validator: Validator, answer: Any, text: str) -> bool:
    """Whether an answer fits a JSON schema: an object as it is, a text by the JSON in it."""
    value: Any = answer if isinstance(answer, dict | list) else json_of(text)
    if value is None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
    return bool(validator.is_valid(value))


def agreement(reading: Reading, others: Iterable[Reading]) -> float:
    """How surely other answers to the question come to the same, 0…1 (self-consistency: Wang et al. 2023, arXiv
    2203.11171): their share, by Laplace's rule of succession, so that a few of them do not count as certainty.

    The same are equal JSON, equal final numbers, or else texts with mostly the same words.
    """
    verdicts = [_agree(reading, other) for other in others]
    return (sum(verdicts) + 1) / (len(verdicts) + 2)


def _agree(one: Reading, other: Reading) -> bool:
    if one.as_json is not None or other.as_json is not None:
        return one.as_json == other.as_json
    if one.final is not None and other.final is not None:
        return same(one.final, other.final)
    first, second = (set(re.findall(r"\w+", reading.answer.casefold())) for reading in (one, other))
    return len(first & second) > 0.6 * max(len(first | second), 1)


def _no_number(reading: Reading) -> bool:
    return reading.final is None and _ASKS_NUMBER.search(reading.question) is not None


def _no_count(reading: Reading) -> bool:
    final = reading.final
    if final is None or not reading.marked or _ASKS_COUNT.search(reading.question) is None:
        return False
    return final < 0 or not float(final).is_integer()
