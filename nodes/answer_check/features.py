"""What can be seen of an answer and its question without a model: about a hundred numbers.

Of every answer: its form (length, refusal, doubt, breaking off, running on, JSON, code). Of answers that reckon:
whether the equations hold, where their numbers come from, what was not used, and whether the signs fit the words of
the question. Of the question: words that make it hard, or that make graders err.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from dynflow.nodes.answer_check.reading import Reading, read, same
from dynflow.nodes.answer_check.sources import Sources, sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

_STOP = frozenset(
    re.findall(r"\w+", "the a an of to in and is are was were for on at with by it that this as be they he she")
)
_LARGEST = 1e12  # sizes are cut here
_MOST_VALUES = 100  # so many values of an answer in JSON are looked up in the question


def _cue(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b", re.IGNORECASE)


_CUES: dict[str, re.Pattern[str]] = {
    "fewer": _cue(
        r"less|fewer|younger|shorter|cheaper|off|discount\w*|lost?|loses|gave|gives?|ate|eats?|spent|spends?"
    ),
    "more": _cue(r"more|older|longer|taller|additional|extra|increas\w+|another|raise\w*"),
    "rest": _cue(r"left|remain\w*|rest|change|leftover|still"),
    "times": _cue(r"times|twice|double|triple|each|every|per|apiece"),
    "part": _cue(r"half|third|quarter|fourth|fifth|tenth|\d+/\d+|\w+ths?"),
    "percent": re.compile(r"%|\bpercent\w*", re.IGNORECASE),
    "average": _cue(r"average|mean|equally|split|divided?|shared?|evenly"),
    "total": _cue(r"total|altogether|in all|combined|together|sum|all"),
    "difference": _cue(
        r"how (?:many|much) (?:more|less|fewer|older|younger|longer|taller)|difference|profit|save[ds]?"
    ),
    "if": _cue(r"if|suppose|assum\w+|unless|except"),
    "rate": _cue(r"miles|mph|speed|hours?|minutes?|seconds?|rate"),
    "days": _cue(r"days?|weeks?|months?|years?|daily|weekly|monthly|yearly|weekdays?|weekends?"),
    "age": _cue(r"years? old|ages?|older|younger"),
    "money": re.compile(r"[$€£]|\b(?:dollars?|cents?|cost|price|pays?|paid|earns?)\b", re.IGNORECASE),
    "cents": re.compile(r"\$\s?\d+\.\d\d|\bcents?\b", re.IGNORECASE),
    "ratio": _cue(r"ratio|probability|chance|likely|proportion\w*"),
    "then": _cue(r"then|after|before|first|next|later|initially|originally|now|began|beginning|start\w*"),
    "same": _cue(r"same|both|as (?:many|much|old|long)"),
    "at_least": _cue(r"at least|at most|minimum|maximum|need\w*|enough|afford|whole"),
}
_ASKS: dict[str, re.Pattern[str]] = {
    "asks_count": re.compile(r"how many\b[^?]*\?", re.IGNORECASE),
    "asks_money": re.compile(
        r"(?:how much (?:money|did|does|do|will|would|is|are|more|profit|change|should)|cost|price|dollars?|earn\w*|"
        r"pay|spen[dt]\w*)[^.?]*\?\s*$",
        re.IGNORECASE,
    ),
    "asks_share": re.compile(r"(?:percent\w*|%|fraction|probability|ratio)[^.?]*\?\s*$", re.IGNORECASE),
    "asks_time": re.compile(
        r"(?:how long|how old|when|what time|hours?|minutes?|days?|years?)[^.?]*\?\s*$", re.IGNORECASE
    ),
}


def features(prompts: Sequence[str], answers: Sequence[str]) -> NDArray[np.float32]:
    """Features of answers to prompts, in order: float32 of shape [len(prompts), len(NAMES)], columns as in `NAMES`."""
    import numpy as np

    rows = [list(of_reading(read(prompt, answer)).values()) for prompt, answer in zip(prompts, answers, strict=True)]
    return np.array(rows, dtype=np.float32).reshape(len(rows), len(NAMES))


def of_reading(reading: Reading) -> dict[str, float]:
    """The features of one answer by name; always finite."""
    cues = {name: _count(pattern, reading.question) for name, pattern in _CUES.items()}
    asks = {name: pattern.search(reading.question) is not None for name, pattern in _ASKS.items()}
    found = sources(reading)
    measured = {
        **_form(reading),
        **_equations(reading),
        **_sources(reading, found),
        **_final(reading),
        **_fits(reading, cues, asks),
        **_question(reading),
        **{f"cue_{name}": math.log1p(count) for name, count in cues.items()},
        **asks,
    }
    return {name: float(value) for name, value in measured.items()}


def _form(reading: Reading) -> dict[str, float]:
    answer, question = reading.answer, reading.question
    words = _words(answer)
    own, asked = set(words) - _STOP, set(_words(question)) - _STOP
    values, asked_text = reading.json_values[:_MOST_VALUES], question.casefold()
    return {
        "characters": math.log1p(len(answer)),
        "words": math.log1p(len(words)),
        "lines": math.log1p(answer.strip().count("\n")),
        "sentences": math.log1p(_count(_SENTENCE, answer)),
        "relative_length": math.log((len(answer) + 20) / (len(question) + 20)),
        "empty": not answer.strip(),
        "refuses": reading.refuses,
        "hedges": math.log1p(reading.hedges),
        "broken_off": reading.broken_off,
        "runs_on": reading.runs_on,
        "repeats": reading.repeats,
        "marked_final": reading.marked,
        "is_json": reading.as_json is not None,
        "json_wanted": reading.json_wanted,
        "json_broken": reading.json_broken,
        "json_values": math.log1p(len(values)),
        "json_values_foreign": sum(value.casefold() not in asked_text for value in values) / max(len(values), 1),
        "has_code": bool(reading.code),
        "code_broken": reading.code_broken,
        "digit_share": sum(c.isdigit() for c in answer) / max(len(answer), 1),
        "overlap": len(own & asked) / max(len(asked), 1),
        "new_words": len(own - asked) / max(len(own), 1),
        "algebra": _ALGEBRA.search(answer) is not None,
        "numbered": math.log1p(_count(_NUMBERED, answer)),
    }


def _equations(reading: Reading) -> dict[str, float]:
    steps = reading.steps
    wrong = sum(not step.holds for step in steps)
    signs = "".join(step.signs for step in steps)
    results = [step.written for step in steps]
    marks = reading.answer.count("<<")
    lines = sum(bool(line.strip()) for line in reading.answer.splitlines())
    return {
        "steps": math.log1p(len(steps)),
        "wrong_steps": math.log1p(wrong),
        "wrong_share": wrong / max(len(steps), 1),
        "last_step_wrong": bool(steps) and not steps[-1].holds,
        "plus": math.log1p(signs.count("+")),
        "minus": math.log1p(signs.count("-")),
        "times": math.log1p(signs.count("*")),
        "by": math.log1p(signs.count("/")),
        "longest_step": math.log1p(max((len(step.operands) for step in steps), default=0)),
        "steps_per_line": len(steps) / max(lines, 1),
        "marks": marks > 0,
        "marks_share": min(marks / max(len(steps), 1), 1.0),
        "negative_results": any(value < 0 for value in results),
        "fractional_results": math.log1p(sum(not _whole(value) for value in results)),
        "largest_result": _size(results),
        "decimals": _DECIMAL.search(reading.answer) is not None,
        "long_decimals": any(step.decimals > 2 for step in steps),
        "rounded": _ROUNDED.search(reading.answer) is not None,
    }


def _sources(reading: Reading, found: Sources) -> dict[str, float]:
    operands = max(found.operands, 1)
    return {
        "foreign": math.log1p(found.foreign),
        "foreign_share": found.foreign / operands,
        "usual_share": found.usual / operands,
        "chained_share": found.chained / operands,
        "asked_again": math.log1p(found.asked_again),
        "unused_results": math.log1p(found.unused_results),
        "unused_results_share": found.unused_results / max(len(reading.steps), 1),
        "unused_asked": math.log1p(found.unused_asked),
        "unused_asked_share": found.unused_asked / max(reading.digits, 1),
        "disorder": found.disorder,
    }


def _final(reading: Reading) -> dict[str, float]:
    final, asked, steps = reading.final, reading.asked, reading.steps
    if final is None:
        return {"final_missing": True, **dict.fromkeys(_FINAL_NAMES, 0.0)}
    values = (
        bool(steps) and same(steps[-1].written, final),
        any(same(step.written, final) for step in steps),
        any(same(value, final) for value in asked),
        reading.before is not None and same(reading.before, final),
        _whole(final),
        final < 0,
        final == 0,
        _size([final]),
        _size([final]) - _size(asked[: reading.digits]),
        not _whole(min(abs(final), _LARGEST) * 100),
    )
    return {"final_missing": False, **dict(zip(_FINAL_NAMES, values, strict=True))}


_FINAL_NAMES = (
    "final_is_last_result", "final_is_a_result", "final_is_asked", "final_is_before", "final_whole", "final_negative",
    "final_zero", "final_size", "final_against_largest", "final_long_decimals",
)  # fmt: skip


def _fits(reading: Reading, cues: dict[str, int], asks: dict[str, bool]) -> dict[str, float]:
    """Whether the signs and the final answer fit the words of the question."""
    operands = [operand for step in reading.steps for operand in step.operands]
    signs = set("".join(step.signs for step in reading.steps))
    if any(0 < operand < 1 for operand in operands):
        signs.add("/")
    final = reading.final
    whole = final is not None and _whole(final)
    lacks = {
        f"{cue}_without_{name}": bool(operands) and cues[cue] > 0 and sign not in signs for cue, name, sign in _WANTED
    }
    return {
        **lacks,
        "money_mismatch": ("$" in reading.question) != ("$" in reading.answer),
        "count_of_fraction": asks["asks_count"] and final is not None and not whole,
        "share_above_whole": asks["asks_share"] and final is not None and abs(final) > 100,
        "whole_of_cents": cues["cents"] > 0 and whole,
        "whole_money_of_cents": asks["asks_money"] and whole and not all(map(_whole, reading.asked[: reading.digits])),
        "calendar_unused": cues["days"] > 1 and not _CALENDAR.intersection(operands),
        "condition_in_one_step": cues["if"] > 0 and len(reading.steps) < 2,
    }


_WANTED = (
    ("fewer", "minus", "-"), ("rest", "minus", "-"), ("difference", "minus", "-"), ("part", "by", "/"),
    ("percent", "by", "/"), ("average", "by", "/"), ("total", "plus", "+"), ("more", "plus", "+"),
    ("times", "times", "*"),
)  # fmt: skip
_CALENDAR = frozenset((5.0, 7.0, 12.0, 24.0, 30.0, 52.0, 60.0))


def _question(reading: Reading) -> dict[str, float]:
    question, asked = reading.question, reading.asked
    return {
        "question_words": math.log1p(len(question.split())),
        "question_sentences": math.log1p(_count(_SENTENCE, question)),
        "question_names": math.log1p(len(set(_NAME.findall(question)))),
        "asked": math.log1p(reading.digits),
        "asked_in_words": math.log1p(len(asked) - reading.digits),
        "largest_asked": _size(asked[: reading.digits]),
        "fractional_asked": not all(map(_whole, asked[: reading.digits])),
        "steps_less_asked": max(min(len(reading.steps) - len(asked), 8), -8) / 4,
    }


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]{2,}", text.casefold())


def _count(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))


def _whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6


def _size(values: Iterable[float]) -> float:
    return math.log1p(min(max(map(abs, values), default=0.0), _LARGEST))


_SENTENCE = re.compile(r"[.!?](?=\s|$)")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
_NUMBERED = re.compile(r"^\s*(?:\d+[.)]|[-*]|Step)\s", re.MULTILINE)
_DECIMAL = re.compile(r"\d\.\d")
_ROUNDED = re.compile(r"\bround\w*|\bapprox\w*|≈", re.IGNORECASE)
_ALGEBRA = re.compile(r"\blet (?:x|\w+ be)\b|\bdenote|\bequation|\bsolv\w+ for|\bvariables?\b", re.IGNORECASE)

NAMES: tuple[str, ...] = tuple(of_reading(read("", "")))
"""Names of the columns. Their order is part of every artefact."""
