"""The model card of a trained difficulty classifier."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dynflow.nodes.difficulty_classifier.measures import ISOTONIC_FROM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.nodes.difficulty_classifier.estimator import Estimator
    from dynflow.nodes.difficulty_classifier.train import Row

Figures = dict[str, dict[str, float | None]]
"""Measures by name, by the rows that they were taken on; None where those rows give nothing to measure."""

_CARD = """\
# Difficulty classifier, `{kind}`

Tells from a request alone how much more a strong model would add to a weak one's answer. Written by
`{command}`; do not edit by hand.

**Made of**: {made_of}; settings {settings}.
`score` is the percentile of the predicted gain (strong less
weak) on the training rows{reference}, each predicted by a model that did not see it; `quality` is P(good) per route
({routes}) by {calibration}.

**Trained on** {rows} rows:

| source | rows | weak's mean quality | strong's |
|---|---|---|---|
{sources}
{left_out}
| file | SHA-256 |
|---|---|
{files}
{forms}
**Figures**, five-fold cross-validated; rows that share twelve words in a row stay in one fold. APGR is RouteLLM's
(arXiv 2406.18665 §4; 0.5 is random), AUC is of "strong is better than weak", Brier scores are of `quality`, beside
those of always saying the mean.

| rows | n | APGR | APGR of prompt length | AUC | Spearman with the gain | Brier weak | Brier strong |
|---|---|---|---|---|---|---|---|
{figures}

**Reliability**, by fifths of the predictions, calibrated on the other folds: mean P(good) → mean quality.

| fifth | {route_columns} |
|---|{route_rules}
{reliability}

The rows "topics never trained on" hold out whole topics: expect those figures on traffic that is unlike the training
rows, and train on your own outcomes for better ones.
{lowest}
**Use**: to order requests by how much they need the strong model, with a threshold calibrated on your own traffic. It
is a weak signal: it saves money on average and is wrong on many single requests, so check the answers where that
matters.
**Not for** judging people, grading answers, or any text as a statement of how hard it is for a human. English only.
`head.safetensors` holds 64-bit hashes of the training texts, so that an evaluation can leave them out.
"""

_BOTH_FORMS = """
**Both forms** (`--both-forms`): each row is learnt from as it is, and without its lettered choices, as a chat would ask
it. The rows "without choices" below are of the second form, all others of the first.
"""


def render_card(
    estimator: Estimator,
    rows: list[Row],
    routes: Sequence[str],
    *,
    files: dict[str, str],
    left_out: dict[str, int],
    figures: Figures,
    both_forms: bool,
    reliability: list[list[tuple[float, float]]],
) -> str:
    """Markdown; `files` are SHA-256 sums by name, `left_out` counts of rows by topic, `figures` the measures by name of
    the rows, `reliability` mean P(good) and mean quality [fifths][routes]."""
    counts = Counter(row.source for row in rows)
    command = ["dynflow train difficulty", "--kind", estimator.kind]
    command += [] if estimator.encoder is None else [f"--encoder {estimator.encoder}"]
    command += [f"--leave-out {topic}" for topic in left_out] + ["--both-forms"] * both_forms
    return _CARD.format(
        kind=estimator.kind,
        command=" ".join(command),
        made_of=estimator.made_of,
        settings=" and ".join(f"{setting:g}" for setting in estimator.settings),
        routes=", ".join(f"`{route}`" for route in routes),
        calibration="isotonic regression" if len(rows) >= ISOTONIC_FROM else "Platt scaling",
        left_out="".join(
            f"\n**Left out** of the training: {count} rows of `{topic}`.\n" for topic, count in left_out.items()
        ),
        reference=" without their choices" if both_forms else "",
        forms=_BOTH_FORMS if both_forms else "",
        route_columns=" | ".join(f"`{route}`" for route in routes),
        route_rules="---|" * len(routes),
        reliability="\n".join(
            f"| {part} | " + " | ".join(f"{said:.3f} → {was:.3f}" for said, was in fifth) + " |"
            for part, fifth in enumerate(reliability, start=1)
        ),
        rows=len(rows),
        sources="\n".join(
            f"| {source} | {count} | {_mean(rows, 'source', source, 'weak'):.3f} "
            f"| {_mean(rows, 'source', source, 'strong'):.3f} |"
            for source, count in sorted(counts.items())
        ),
        files="\n".join(f"| `{name}` | `{digest}` |" for name, digest in files.items()),
        figures="\n".join(
            f"| {name} | {f['rows']} | {_figure(f['apgr'])} | {_figure(f['apgr_length'])} | {_figure(f['auc'])} "
            f"| {_figure(f['spearman'])} | {_figure(f['brier_weak'])} ({_figure(f['base_weak'])}) "
            f"| {_figure(f['brier_strong'])} ({_figure(f['base_strong'])}) |"
            for name, f in figures.items()
        ),
        lowest=_where_strong_is_worse(rows),
    )


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _where_strong_is_worse(rows: list[Row]) -> str:
    """Topics in which the strong route is recorded as worse: the classifier learns to keep them cheap."""
    counts = Counter(row.topic for row in rows)
    found = []
    for topic, count in sorted(counts.items()):
        weak, strong = (_mean(rows, "topic", topic, route) for route in ("weak", "strong"))
        if count >= 20 and strong < weak:
            found.append(f"- `{topic}`: {count} rows, weak {weak:.2f}, strong {strong:.2f}")
    if not found:
        return ""
    return "\n".join(
        [
            "",
            "**Recorded against expectation.** In these topics the strong route is graded below the weak one.",
            "Where that is a fault of the grading (a reply that shows its working instead of a letter), the classifier",
            "has learnt the fault and keeps such requests cheap:",
            "",
            *found,
            "",
        ]
    )


def _mean(rows: list[Row], part: str, name: str, route: str) -> float:
    values = [getattr(row, route) for row in rows if getattr(row, part) == name]
    return float(sum(values) / len(values))
