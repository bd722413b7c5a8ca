"""An evaluation as one self-contained HTML page: the curve with all that stands beside it, and the figures."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.errors import MissingDependency

if TYPE_CHECKING:
    from dynflow.calibration.curves import Interval
    from dynflow.calibration.evaluate import Evaluation
    from dynflow.calibration.saved import Calibration

_MOST_POINTS = 400
_STYLE = """
:root { color-scheme: light; --line: #d7dbe0; --soft: #59636e; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; margin: 0 auto; padding: 1.5rem;
  max-width: 60rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.soft { color: var(--soft); }
.promise { border-left: 4px solid #1a7f37; padding: .25rem 0 .25rem .75rem; margin: 1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
svg { width: 100%; height: auto; }
@media (max-width: 40rem) { body { padding: 1rem; font-size: 15px; } }
"""
_NAMES = {"random": "chance", "prompt_length": "prompt's length", "oracle": "oracle"}


def report(found: Evaluation, title: str, calibration: Calibration | None = None) -> str:
    """The page. Raises `MissingDependency` where matplotlib is not installed."""
    ends = found.ends
    params = ", ".join(f"{name} = {value}" for name, value in found.params.items())
    promise = f'<p class="promise">Calibrated: {html.escape(calibration.statement)}.</p>' if calibration else ""
    now = [
        ("quality", _number(found.figures["quality"])),
        ("USD per request", _number(found.figures["usd"], 3)),
        (f"share of {ends.strong}", _share(found.figures["strong_share"])),
    ]
    always = [
        (f"always {node}", _number(found.baselines[name]["quality"]), _number(found.baselines[name]["usd"], 3))
        for name, node in (("always_weak", ends.weak), ("always_strong", ends.strong))
    ]
    recovered = [
        ("this graph", *_recovered(found.figures)),
        ("this graph, every threshold", *_recovered(found.figures, "_exact")),
        *((_NAMES[name], *_recovered(found.baselines[name])) for name in _NAMES),
    ]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in found.notes)
    left_out = f", {found.trained_on:,} left out because an artefact was trained on them" if found.trained_on else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p class="soft">{found.n:,} recorded requests{left_out}; strong: {html.escape(ends.strong)}, weak:
{html.escape(ends.weak)}{f"; now {html.escape(params)}" if params else ""}</p>
{promise}
<h2>Quality over the share of strong calls</h2>
<figure style="margin:0" role="img" aria-label="Mean quality over the share of calls of {html.escape(ends.strong)}">
{curve_svg(found)}
</figure>
<h2>Now</h2>
{_table(("", "value, with its interval of 95 %"), now)}
<h2>Recovered of the gap</h2>
{_table(("", "APGR", "CPT(50 %)", "CPT(80 %)"), recovered)}
<h2>The ends</h2>
{_table(("", "quality", "USD per request"), always)}
{f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""}
</body>
</html>
"""


def curve_svg(found: Evaluation) -> str:
    """The curve as an SVG element, with chance, the prompt's length, the oracle, the ends, and where it is now."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("matplotlib", 'pip install "dynflow[report]"') from error
    looks: Any = {"svg.fonttype": "none", "svg.hashsalt": "dynflow", "font.family": "sans-serif", "font.size": 11}
    with rc_context(looks):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.subplots()
        for name, colour, style in (("oracle", "#8250df", ":"), ("prompt_length", "#9a6700", "--")):
            share, quality = _thinned(found.baseline_curves[name].share, found.baseline_curves[name].quality)
            axes.plot(100 * share, quality, style, color=colour, linewidth=1.5, label=_NAMES[name])
        weak, strong = (found.baselines[name]["quality"].value for name in ("always_weak", "always_strong"))
        axes.plot([0, 100], [weak, strong], "-", color="#8c959f", linewidth=1, label=_NAMES["random"])
        axes.plot([0, 100], [weak, strong], "s", color="#59636e", markersize=6, label="always one of them")
        if found.points:
            share = np.array([point["strong_share"] for point in found.points])
            quality = np.array([point["quality"] for point in found.points])
            axes.plot(100 * share, quality, "-", color="#0969da", linewidth=2.5, label="this graph")
        share_now, quality_now = found.figures["strong_share"], found.figures["quality"]
        axes.errorbar(
            [100 * share_now.value],
            [quality_now.value],
            xerr=[[100 * (share_now.value - share_now.low)], [100 * (share_now.high - share_now.value)]],
            yerr=[[quality_now.value - quality_now.low], [quality_now.high - quality_now.value]],
            fmt="o",
            color="#cf222e",
            capsize=3,
            label="now, with its interval",
        )
        axes.set_xlabel(f"share of calls of {found.ends.strong}, %")
        axes.set_ylabel("mean quality")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#eaeef2")
        axes.legend(frameon=False, loc="lower right")
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def _thinned(share: Any, quality: Any) -> tuple[Any, Any]:
    places = np.unique(np.linspace(0, len(share) - 1, _MOST_POINTS).astype(int))
    return share[places], quality[places]


def _recovered(figures: Mapping[str, Interval], form: str = "") -> tuple[str, str, str]:
    cpt50, cpt80 = figures[f"cpt50{form}"], figures[f"cpt80{form}"]
    return _number(figures[f"apgr{form}"]), _share(cpt50), _share(cpt80)


def _number(figure: Interval, digits: int = 0) -> str:
    form = f".{digits}g" if digits else ".3f"
    return _shown(figure, lambda value: format(value, form))


def _share(figure: Interval) -> str:
    return _shown(figure, lambda value: f"{100 * value:.1f} %")


def _shown(figure: Interval, form: Any) -> str:
    if math.isnan(figure.value):
        return "unknown"
    return f"{form(figure.value)} <span class='soft'>[{form(figure.low)}, {form(figure.high)}]</span>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(row[0])}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f"<div class='wide'><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"
