"""What is said of one answer, from its features, the checks, and evidence that the graph brings along."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynflow.nodes.answer_check.checks import SCHEMA, agreement, by_rule, found_wrong, most
from dynflow.nodes.answer_check.reading import read

_LEAST = 0.05  # no evidence is taken for surer than this
_NONE_WEIGHED = (False, False, False)
_GOOD = re.compile(r"\W*(?:good|yes|right|correct|true|pass(?:ed)?|keep)\b", re.IGNORECASE)
_BAD = re.compile(r"\W*(?:bad|no|not|wrong|incorrect|false|fail(?:ed)?|reject)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One answer that is to be judged, with what the graph knows of it."""

    question: str
    answer: str
    checks: Sequence[str]
    token_confidence: float | None = None
    """Geometric mean of its token probabilities, 0…1."""
    samples: Sequence[str] = ()
    """Other answers to the same question."""
    judged: float | None = None
    """What a judge thinks of it, 0…1."""
    fits: bool | None = None
    """Whether it fits the JSON schema; None where there is none."""


@dataclass(frozen=True)
class Verdict:
    """`confidence`: P(the answer is good); `score`: how much asking the strong route promises, as a share of the
    reference's answers that promise less; `quality` by route; `reasons`: what was found wrong."""

    confidence: float
    score: float
    quality: dict[str, float]
    reasons: list[str]


def without_estimator(case: Case) -> Verdict:
    """The verdict of the checks alone; of the strong route nothing is known, so its quality is taken for 1."""
    failed = failures(case)
    confidence = min(_weighed(by_rule(failed), case, _NONE_WEIGHED), most(failed))
    return Verdict(confidence, 1 - confidence, {"weak": confidence, "strong": 1.0}, failed)


def judge_by(
    case: Case, weak: float, strong: float, weighs: Sequence[bool], score: Callable[[float], float]
) -> Verdict:
    """The verdict of an estimator: calibrated P(good) of both routes, the evidence that it has weighed itself, and the
    percentile of a gain."""
    failed = failures(case)
    confidence = min(_weighed(weak, case, weighs), most(failed))
    return Verdict(confidence, score(strong - confidence), {"weak": confidence, "strong": strong}, failed)


def failures(case: Case) -> list[str]:
    """All checks that the answer fails."""
    failed = found_wrong(read(case.question, case.answer), case.checks)
    return [*failed, SCHEMA] if case.fits is False else failed


def evidence(case: Case) -> list[float]:
    """What the graph brought along, as estimators have it: NaN for what it did not."""
    values = case.token_confidence, _agreed(case), case.judged
    return [math.nan if value is None else min(max(value, 0.0), 1.0) for value in values]


def opinion(judge: object) -> float | None:
    """A judge's words or number as 0…1; None where it says neither yes nor no."""
    if isinstance(judge, int | float):
        return float(judge) if 0 <= judge <= 1 else None
    judge = str(judge)
    if _GOOD.match(judge):
        return 1.0
    if _BAD.match(judge):
        return 0.0
    number = re.fullmatch(r"\s*(0?\.\d+|[01](?:\.0*)?)\s*", judge)
    return float(number[1]) if number else None


def _weighed(confidence: float, case: Case, weighs: Sequence[bool]) -> float:
    """The confidence with the evidence that no estimator has weighed: a token probability as a factor, the others as
    odds, each as if it stood alone (naive Bayes)."""
    tokens, *others = evidence(case)
    if not (weighs[0] or math.isnan(tokens)):
        confidence *= tokens
    for value, weighed in zip(others, weighs[1:], strict=True):
        if not (weighed or math.isnan(value)):
            odds = _odds(confidence, 1e-6) * _odds(value, _LEAST)
            confidence = odds / (1 + odds)
    return confidence


def _odds(probability: float, least: float) -> float:
    sure = min(max(probability, least), 1 - least)
    return sure / (1 - sure)


def _agreed(case: Case) -> float | None:
    if not case.samples:
        return None
    return agreement(read(case.question, case.answer), [read(case.question, sample) for sample in case.samples])
