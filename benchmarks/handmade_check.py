"""A first hand-made check of GSM8K drafts, which `answer_check` must beat.

A dozen features by regular expressions, a dozen plain ones of those that `answer_check` reads, and ridge regression of
the draft's failing on them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynflow.nodes.answer_check.features import NAMES
from dynflow.nodes.answer_check.features import features as read

Array = NDArray[np.floating[Any]]
_READ = (
    "broken_off", "final_missing", "steps", "wrong_steps", "foreign", "unused_results", "unused_asked",
    "final_is_last_result", "final_whole", "characters", "asked", "marks", "question_words",
)  # fmt: skip
_EQUATION = re.compile(r"([-+*/().\d\s$%,]+)=\s*[$]?\s*(-?[\d,]*\.?\d+)")


def features(prompts: Sequence[str], drafts: Sequence[str]) -> Array:
    """What each draft shows of itself: [n, 25]."""
    own = np.array([_features(prompt, draft) for prompt, draft in zip(prompts, drafts, strict=True)])
    return np.hstack([own, read(prompts, drafts)[:, [NAMES.index(name) for name in _READ]]])


def ridge(x: Array, y: Array, penalty: float = 10.0) -> Callable[[Array], Array]:
    """A predictor of y from features, by ridge regression on standardised ones."""
    mean, scale = x.mean(0), x.std(0) + 1e-9
    standard = (x - mean) / scale
    weights = np.linalg.solve(standard.T @ standard + penalty * np.eye(x.shape[1]), standard.T @ (y - y.mean()))
    return lambda new: (new - mean) / scale @ weights + y.mean()


def _features(prompt: str, draft: str) -> list[float]:
    text = draft.strip()
    good = bad = 0
    for right in _equations(text):
        good, bad = good + right, bad + (not right)
    numbers = re.findall(r"\d[\d,]*\.?\d*", text)
    final = re.search(r"####\s*\$?(-?[\d,.]+)", text)
    asked = set(re.findall(r"\d+", prompt))
    used = set(re.findall(r"\d+", text))
    return [
        float(final is not None),
        float(text[-1:].isdigit() or text[-1:] == "."),
        float(good),
        float(bad > 0),
        math.log1p(len(text)),
        math.log1p(len(prompt)),
        float(len(numbers)),
        len(asked & used) / max(1, len(asked)),
        float("." in final[1].rstrip(".")) if final else 0.0,
        float(text.count("\n")),
        float(len(asked)),
        float(any(word in text.lower() for word in ("assum", "however", "not clear", "cannot"))),
    ]


def _equations(text: str) -> Iterator[bool]:
    """Whether each equation that is written out comes out."""
    for left, right in _EQUATION.findall(text):
        terms = re.fullmatch(r"\s*([\d.]+)\s*([-+*/])\s*([\d.]+)\s*", re.sub(r"[$,%]", "", left))
        if terms is None:
            continue
        try:
            one, other, result = float(terms[1]), float(terms[3]), float(right.replace(",", ""))
            value = {"+": one + other, "-": one - other, "*": one * other, "/": one / other if other else math.nan}
        except ValueError:
            continue
        yield math.isclose(value[terms[2]], result, rel_tol=1e-2, abs_tol=1e-2)
