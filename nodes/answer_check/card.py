"""The model card of a trained answer check."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynflow.nodes.answer_check.train import Graded

Figures = dict[str, dict[str, float | None]]
"""Measures by name, by the rows that they were taken on; None where those rows give nothing to measure."""

_CARD = """\
# Answer check, `{kind}`

Tells from a question and a given answer how likely that answer is good, and how much a stronger model would gain.
Written by `dynflow train check`; do not edit by hand.

**Made of**: one kernel ridge regression per route (linear and Laplacian kernels) on {features}. The strong route's
answers are never read. `confidence` is P(the answer is good) by Platt scaling of cross-fitted predictions; `score` is
the percentile of the promised gain (strong less this answer) among the training rows, each judged by a head that did
not see it.

**Trained on** {rows} rows:

| source | rows | weak's mean quality | strong's |
|---|---|---|---|
{sources}

| file | SHA-256 |
|---|---|
{files}

**Figures**, ten-fold cross-fitted; questions that share twelve words in a row stay in one fold. APGR and CPT are
RouteLLM's (arXiv 2406.18665 §4; random is 0.5, 50 % and 80 %), the Brier score and the expected calibration error are
of `confidence`, the score beside that of always saying the mean.

| rows | n | APGR | CPT(50 %) | CPT(80 %) | Brier | ECE |
|---|---|---|---|---|---|---|
{figures}

{scope}
**Use**: to keep a cheap draft where it is good enough, with a threshold calibrated on your own traffic. It is wrong on
many single answers: an answer can be well formed, reckon rightly and still miss the question.
**Not for** grading people's work, or for facts: it knows none. English only. `head.safetensors` holds 64-bit hashes of
the training questions, so that an evaluation can leave them out, and features of the training answers.
"""

_MADE_OF = {
    "surface": "features of the answer (form, equations, where their numbers come from, how they fit the question)",
    "embedding": "features of the answer (form, equations, where their numbers come from, how they fit the question) "
    "and the products of the all-MiniLM-L6-v2 embeddings of question and answer",
}
_NUMBERS = """\
**Scope**: nearly all training rows are questions with numbers, answered by reckoning. Answers to others are judged by
the checks alone, not by this head. What it learnt of the style of one weak model and one grader need not hold for
others: train on your own outcomes for better figures.
"""
_ANY = """\
**Scope**: answers like those of the training rows, by a model like theirs, graded as they were.
"""


def render_card(kind: str, rows: list[Graded], files: dict[str, str], numbers_only: bool, figures: Figures) -> str:
    """Markdown; `files` are SHA-256 sums by name, `figures` the measures by name of the rows."""
    counts = Counter(row.source for row in rows)
    return _CARD.format(
        kind=kind,
        features=_MADE_OF[kind],
        rows=len(rows),
        sources="\n".join(
            f"| {source} | {count} | {_mean(rows, source, 'weak'):.3f} | {_mean(rows, source, 'strong'):.3f} |"
            for source, count in sorted(counts.items())
        ),
        files="\n".join(f"| `{name}` | `{digest}` |" for name, digest in files.items()),
        figures="\n".join(
            f"| {name} | {f['rows']} | {_figure(f['apgr'])} | {_figure(f['cpt50'])} | {_figure(f['cpt80'])} "
            f"| {_figure(f['brier'])} ({_figure(f['brier_of_mean'])}) | {_figure(f['calibration_error'])} |"
            for name, f in figures.items()
        ),
        scope=_NUMBERS if numbers_only else _ANY,
    )


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _mean(rows: list[Graded], source: str, route: str) -> float:
    values = [getattr(row, route) for row in rows if row.source == source]
    return float(sum(values) / len(values))
