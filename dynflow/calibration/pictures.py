"""The pictures of an evaluation: each a plot with its legend, as a figure of the report's page."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dynflow.calibration.curves import Curve, Interval
from dynflow.calibration.plots import Axis, Pair, Plot, around, key, per_cent, plain

if TYPE_CHECKING:
    from dynflow.calibration.evaluate import Evaluation
    from dynflow.calibration.measurements import Scores
    from dynflow.calibration.reliability import Reliability

_MOST_POINTS = 250
_BARS = 24
_THOUSAND = 1_000
"""Requests that costs are told of: those of one have too many zeros."""
_BASELINES = (("oracle", "oracle: knows every outcome"), ("prompt_length", "by the prompt's length"))
_SERIES = (("first", "round"), ("second", "square"), ("third", "round"), ("fourth", "square"))


def quality_over_share(found: Evaluation, now: str) -> str:
    """Quality over the share of strong calls, with all that stands beside it."""
    points = [(float(point["strong_share"]), float(point["quality"])) for point in found.points]
    lines = {name: _over_share(found.baseline_curves[name]) for name, _ in _BASELINES}
    ends = [(0.0, found.baselines["always_weak"]["quality"].value), (1.0, _always_strong(found))]
    axis = Axis(0.0, 1.0, f"share of requests that call {found.ends.strong}", per_cent)
    title = "Quality over the share of strong calls"
    return _curves(found, "share", title, axis, points, lines, ends, found.figures["strong_share"], now)


def quality_over_cost(found: Evaluation, now: str) -> str | None:
    """Quality over USD; None where costs are unknown, or nothing costs anything."""
    weak, strong = (found.baselines[name]["usd"].value for name in ("always_weak", "always_strong"))
    costs = [weak, strong, found.figures["usd"].value, *(_number(point["usd"]) for point in found.points)]
    if not all(math.isfinite(usd) for usd in costs) or not max(costs) > min(costs):
        return None
    points = [(_THOUSAND * _number(point["usd"]), float(point["quality"])) for point in found.points]
    lines = {name: _over_cost(found.baseline_curves[name]) for name, _ in _BASELINES}
    ends = [
        (_THOUSAND * weak, found.baselines["always_weak"]["quality"].value),
        (_THOUSAND * strong, _always_strong(found)),
    ]
    axis = around(
        [0.0, *(_THOUSAND * usd for usd in costs)], "USD per 1,000 requests", lambda usd: f"${plain(usd)}", low=0.0
    )
    title = "Quality over cost"
    usd = found.figures["usd"]
    across = Interval(_THOUSAND * usd.value, _THOUSAND * usd.low, _THOUSAND * usd.high)
    return _curves(found, "cost", title, axis, points, lines, ends, across, now)


def _curves(
    found: Evaluation,
    name: str,
    title: str,
    axis: Axis,
    points: Sequence[Pair],
    lines: dict[str, list[Pair]],
    ends: Sequence[Pair],
    across: Interval,
    now: str,
) -> str:
    quality = found.figures["quality"]
    heights = [y for _, y in (*points, *ends)] + [y for line in lines.values() for _, y in line]
    upwards = around([*heights, quality.low, quality.high], "mean quality", plain, 0.0, 1.0)
    described = (
        f"{now}: mean quality {quality.value:.3f} at {axis.form(across.value)}. Always {found.ends.weak}: "
        f"{ends[0][1]:.3f}; always {found.ends.strong}: {ends[1][1]:.3f}."
    )
    plot = Plot(name, title, described, axis, upwards)
    plot.line(ends, "chance")
    for baseline, line in lines.items():
        plot.line(line, baseline)
    if points:
        plot.line(points, "graph")
    for x, y in ends:
        plot.mark(x, y, "ends", round=False)
    if math.isfinite(across.value):
        plot.interval((across.low, across.high), (quality.value, quality.value), "now")
        plot.interval((across.value, across.value), (quality.low, quality.high), "now")
        plot.mark(across.value, quality.value, "now")
    legend = [
        *([(key("graph"), "this graph, at every setting")] if points else []),
        (key("now", "round"), f"{now}, with its interval of 95 %"),
        *((key(baseline), told) for baseline, told in _BASELINES),
        (key("chance"), "by chance"),
        (key("ends", "square"), f"always {found.ends.weak}, always {found.ends.strong}"),
    ]
    return _figure(title, plot, legend)


def reliability_diagram(parts: Sequence[Reliability], number: int) -> str:
    """Predicted against observed quality, of all routes that one signal tells."""
    signal = parts[0].signal.rpartition(".")[0]
    title = f"Reliability of {signal}"
    told = "; ".join(f"{_route(part)}: off by {part.error:.3f} on average" for part in parts)
    unit = Axis(0.0, 1.0, "predicted quality", plain)
    plot = Plot(f"reliability{number}", title, told, unit, Axis(0.0, 1.0, "observed quality", plain))
    plot.line([(0, 0), (1, 1)], "chance")
    legend = [(key("chance"), "as it should be")]
    for part, (kind, shape) in zip(parts, _SERIES, strict=False):
        for each in part.bins:
            span = (each.observed.low, each.observed.high)
            plot.interval((each.predicted, each.predicted), span, kind)
        for each in part.bins:
            plot.mark(each.predicted, each.observed.value, kind, round=shape == "round")
        legend.append((key(kind, shape), f"{_route(part)}: off by {part.error:.3f}, Brier score {part.brier:.3f}"))
    note = "Each point is a tenth of the requests, with its interval of 95 %."
    return _figure(title, plot, legend, note)


def score_histogram(scores: Scores, number: int) -> str:
    """How a number that decides is spread, and where it is cut."""
    values = scores.values
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    if low == high:
        low, high = low - 0.5, high + 0.5
    heights, edges = np.histogram(values, bins=_BARS, range=(low, high))
    shares = heights / len(values)
    title = f"{scores.name} of {len(scores.values):,} requests"
    cuts = [
        f"{name} = {plain(cut)}: {per_cent(float((values < cut).mean()))} below"
        if name != plain(cut)
        else f"{name}: {per_cent(float((values < cut).mean()))} below"
        for name, cut in scores.thresholds.items()
    ]
    across = Axis(low, high, scores.name, plain)
    upwards = Axis(0.0, float(shares.max()) * 1.06, "share of requests", lambda share: f"{100 * share:.3g} %")
    plot = Plot(f"scores{number}", title, "; ".join(cuts), across, upwards)
    plot.bars(edges.tolist(), shares.tolist(), "bar")
    legend = [(key("bar", "bar"), "requests")]
    for place, (cut, told) in enumerate(zip(scores.thresholds.values(), cuts, strict=True)):
        kind = f"cut cut{place % 3}"
        plot.upright(cut, kind)
        off = "" if low <= cut <= high else ", outside this plot"
        legend.append((key(kind), told + off))
    return _figure(title, plot, legend)


def _figure(title: str, plot: Plot, legend: Sequence[tuple[str, str]], note: str = "") -> str:
    items = "".join(f"<li>{sample}<span>{html.escape(text)}</span></li>" for sample, text in legend)
    below = f'<p class="soft">{html.escape(note)}</p>' if note else ""
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>{plot.svg()}"
        f'<ul class="legend">{items}</ul>{below}</figure>'
    )


def _route(part: Reliability) -> str:
    return f"{part.signal.rpartition('.')[2]} ({part.of})"


def _always_strong(found: Evaluation) -> float:
    return found.baselines["always_strong"]["quality"].value


def _over_share(curve: Curve) -> list[Pair]:
    return _thinned(list(zip(curve.share.tolist(), curve.quality.tolist(), strict=True)))


def _over_cost(curve: Curve) -> list[Pair]:
    assert curve.usd is not None
    return _thinned(list(zip((_THOUSAND * curve.usd).tolist(), curve.quality.tolist(), strict=True)))


def _thinned(points: list[Pair]) -> list[Pair]:
    """Not more points than can be seen, with the first and the last."""
    places = np.unique(np.linspace(0, len(points) - 1, _MOST_POINTS).astype(int)).tolist()
    return [points[place] for place in places]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
