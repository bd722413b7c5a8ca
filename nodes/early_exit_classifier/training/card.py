"""The model card of a trained early-exit classifier, and the picture in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dynflow.calibration.plots import Axis, Plot, around, plain
from dynflow.nodes.early_exit_classifier.criteria import CRITERIA
from dynflow.nodes.early_exit_classifier.training.figures import FEW_ROWS, KEPT

if TYPE_CHECKING:
    from dynflow.nodes.early_exit_classifier.artefact import Base
    from dynflow.nodes.early_exit_classifier.training.figures import Figures, Point
    from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

PICTURE = "curve.svg"
_COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#57606a")
_CURVE_ROWS = 12
_CARD = """\
# Early-exit classifier over {model}

Tells {labels} apart, and leaves the encoder after the layer where it is sure enough. Written by
`dynflow train early-exit`; do not edit by hand.

**Made of**: {model} ({architecture}, {depth} layers); {heads} after {exits} layers, 0 being the embeddings. The
encoder's own weights change by {changes}. Texts are cut at {max_tokens} tokens.

**Trained on** {train:,} rows{data} ({classes}). {held_out:,} rows are held out; a row and every row that contains it
stay on one side, and {set_aside:,} rows of one or two words that both sides contain are on neither.

```sh
{command}
```

| recipe | |
|---|---|
{recipe}

| file | SHA-256 |
|---|---|
| weights of {model} | `{digest}` |
{sources}

**Figures** on the {held_out:,} rows held out{few}. Each exit by itself:

| layers | accuracy |
|---|---|
{per_exit}{alone}

The saving of each criterion, as the layers of the whole model over the mean layers run, where that share of the full
accuracy ({full:.4f}) is kept. It counts layers only, embeddings and heads not, and is no wall-clock time.
The thresholds were chosen on the same rows: choose yours on your own.

| criterion | {kept_columns} |
|---|{kept_rules}
{savings}

![Accuracy against mean layers run, by criterion]({picture})

{curves}

**Use**: on texts like those it was trained on, with a threshold calibrated on your own. **Not for** other languages, or
as a statement about people. `heads.safetensors` holds 64-bit hashes of the training texts, so that an evaluation can
leave them out.
"""


def render_card(
    base: Base,
    labels: Mapping[str, int],
    recipe: Recipe,
    figures: Figures,
    *,
    sources: Mapping[str, str],
    rows: Mapping[str, int],
    command: str,
    data_name: str | None,
) -> str:
    """Markdown. `labels` are counts of training rows by label, `sources` checksums by name, `rows` the sizes of the
    split's `train`, `held_out` and `set_aside`, `command` what made it, `data_name` what the user calls the data."""
    depth = figures.layers[-1]
    return _CARD.format(
        model=base.model,
        labels=", ".join(f"`{name}`" for name in labels),
        architecture=base.architecture,
        depth=depth,
        digest=base.sha256,
        heads="one head, shared by exits," if recipe.shared else "heads",
        exits=", ".join(map(str, figures.layers)),
        changes=f"matrices of rank {recipe.rank}" if recipe.rank else "whole matrices",
        max_tokens=recipe.max_tokens,
        recipe="\n".join(
            f"| {name.replace('_', ' ')} | {_told(value)} |"
            for name, value in recipe.as_dict().items()
            if value is not None
        ),
        classes=", ".join(f"`{name}` {count:,}" for name, count in labels.items()),
        sources="\n".join(f"| {name} | `{digest}` |" for name, digest in sources.items()),
        per_exit="\n".join(
            f"| {layer} | {share:.4f} |" for layer, share in zip(figures.layers, figures.accuracy, strict=True)
        ),
        full=figures.full,
        alone=_alone(figures),
        kept_columns=" | ".join(f"{100 * kept:g} %" for kept in KEPT),
        kept_rules="---|" * len(KEPT),
        savings="\n".join(_savings(name, figures) for name in figures.curves),
        picture=PICTURE,
        command=command,
        data="" if data_name is None else f" of {data_name}",
        few=_few(rows["held_out"]),
        curves="\n\n".join(_curve(name, points, depth) for name, points in figures.curves.items() if name != "static"),
        **rows,
    )


def draw(figures: Figures) -> str:
    """Accuracy against mean layers run as a self-contained SVG."""
    depth = figures.layers[-1]
    accuracies = [point.accuracy for points in figures.curves.values() for point in points]
    plot = Plot(
        "curve",
        "Accuracy against mean layers run",
        "One line for each criterion; up and to the left is better.",
        Axis(0, depth, "mean layers run", plain),
        around(accuracies, "accuracy", lambda share: f"{100 * share:.1f} %", 0, 1),
    )
    for name, points in figures.curves.items():
        plot.line([(point.layers, point.accuracy) for point in points], f"of-{name}")
    coloured = list(zip(figures.curves, _COLOURS, strict=False))
    style = "".join(f".of-{name}{{stroke:{colour};fill:none;stroke-width:2}}" for name, colour in coloured)
    legend = "".join(
        f'<text x="440" y="{200 + 18 * place}" text-anchor="end" fill="{colour}">{name}</text>'
        for place, (name, colour) in enumerate(coloured)
    )
    return plot.file(style, legend)


def _savings(name: str, figures: Figures) -> str:
    cells = []
    for kept in KEPT:
        point = figures.cheapest(name, kept)
        cells.append(
            "none"
            if point is None
            else f"{_saving(figures, point)} (threshold {told_threshold(name, point.threshold)})"
        )
    return f"| {name} | {' | '.join(cells)} |"


def _saving(figures: Figures, point: Point) -> str:
    return f"{figures.layers[-1] / point.layers:.2f} times" if point.layers else "no layer"


def told_threshold(criterion: str, value: float) -> str:
    """Three digits of it, or of how far it is below 1; rounded to where the rows that left by it still leave."""
    if value == int(value):
        return f"{value:.0f}"
    digits = max(3, 2 - math.floor(math.log10(min(value, 1 - value) if value < 1 else value)))
    scaled = value * 10**digits
    whole = math.ceil(scaled) if CRITERIA[criterion].falling else math.floor(scaled)
    return f"{whole / 10**digits:.{digits}f}".rstrip("0").rstrip(".")


def _alone(figures: Figures) -> str:
    if figures.alone is None:
        return ""
    return (
        f"\n\nThe encoder with its last exit alone, before the others were trained: {figures.alone:.4f}. The full "
        "accuracy is the better\nof this and that of the last exit."
    )


def _few(rows: int) -> str:
    """What is said of so few rows, where they are: half of the widest 95 % interval of a share."""
    return "" if rows >= FEW_ROWS else f": so few that an accuracy may be off by {98 / math.sqrt(rows):.0f} points"


def _curve(name: str, points: list[Point], depth: int) -> str:
    """A table of some of a curve's points, evenly over the layers."""
    shown = {
        min(points, key=lambda point: abs(point.layers - depth * place / _CURVE_ROWS))
        for place in range(_CURVE_ROWS + 1)
    }
    rows = [
        f"| {told_threshold(name, point.threshold)} | {point.layers:.2f} | {point.accuracy:.4f} |"
        for point in sorted(shown, key=lambda point: -point.layers)
    ]
    return "\n".join([f"| {name} threshold | mean layers | accuracy |", "|---|---|---|", *rows])


def _told(value: object) -> str:
    if isinstance(value, float) and not math.isinf(value):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
