"""An evaluation as one self-contained HTML page: what is promised, the pictures, and every figure with its interval."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from dynflow.calibration.pictures import quality_over_cost, quality_over_share, reliability_diagram, score_histogram
from dynflow.calibration.promises import AT_MOST
from dynflow.calibration.saved import conversations

if TYPE_CHECKING:
    from dynflow.calibration.curves import Interval
    from dynflow.calibration.evaluate import Evaluation
    from dynflow.calibration.saved import Calibration

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1f2328; --soft: #59636e; --line: #d7dbe0; --grid: #e8ebef;
  --graph: #0b5cad; --now: #b3261e; --oracle: #7a3db8; --length: #8a6100; --chance: #6e7781; --kept: #1a7f37;
  --bar: #9cc3ea; --second: #b35900; --third: #1a7f37; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181d; --text: #e6e9ed; --soft: #a3adb8; --line: #3a424c; --grid: #262d35; --graph: #6cb2ff;
    --now: #ff8a80; --oracle: #c79bff; --length: #e0b04a; --chance: #9aa4af; --kept: #5fcf80; --bar: #35618f;
    --second: #ffb066; --third: #5fcf80; }
}
* { box-sizing: border-box; }
body { font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto;
  padding: 1.5rem; max-width: 68rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p { margin: .25rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
.box { border-left: 4px solid var(--line); padding: .25rem 0 .25rem .75rem; margin: 1rem 0; }
.box.kept { border-color: var(--kept); }
.box.broken { border-color: var(--now); }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; min-width: 0; max-width: 34rem; }
figcaption { font-weight: 600; }
.plot { display: block; width: 100%; height: auto; }
.plot text { fill: var(--soft); font: 13.5px system-ui, sans-serif; }
.plot .axis { fill: var(--text); }
.grid { stroke: var(--grid); }
polyline, .key line { fill: none; stroke-width: 2; }
.graph { stroke: var(--graph); }
polyline.graph { stroke-width: 3; }
.now { stroke: var(--now); }
circle.now { fill: var(--now); }
.oracle { stroke: var(--oracle); stroke-dasharray: 2 4; }
.prompt_length { stroke: var(--length); stroke-dasharray: 7 4; }
.chance { stroke: var(--chance); stroke-width: 1.5; }
.ends { fill: var(--chance); }
.bar { fill: var(--bar); }
.cut { stroke: var(--now); }
.cut1 { stroke-dasharray: 7 3; }
.cut2 { stroke-dasharray: 2 3; }
.first { stroke: var(--graph); fill: var(--graph); }
.second { stroke: var(--second); fill: var(--second); }
.third { stroke: var(--third); fill: var(--third); }
.fourth { stroke: var(--oracle); fill: var(--oracle); }
.legend { list-style: none; margin: .25rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem;
  font-size: .875rem; }
.legend li { display: flex; align-items: start; gap: .4rem; min-width: 0; }
.key { width: 28px; height: 14px; flex: none; margin-top: .25em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1.25rem .35rem 0; }
tr { border-bottom: 1px solid var(--line); }
td { overflow-wrap: normal; }
thead th { color: var(--soft); font-weight: 400; }
tbody th { font-weight: 600; }
.interval { color: var(--soft); white-space: nowrap; }
@media (max-width: 40rem) {
  body { padding: 1rem; }
  .plot text { font-size: 16px; }
  table, tbody, tr, tbody th, td { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { padding: .4rem 0; }
  th, td { padding: .1rem 0; }
  td { display: flex; justify-content: space-between; gap: 1rem; }
  td > span { flex: none; text-align: right; max-width: 70%; }
  td::before { content: attr(data-column); color: var(--soft); }
}
@media print { body { max-width: none; } figure { break-inside: avoid; } }
"""
_NAMES = {"random": "chance", "prompt_length": "prompt's length", "oracle": "oracle"}


def report(found: Evaluation, title: str, calibration: Calibration | None = None) -> str:
    """The page; `calibration` is the graph's, if it has one."""
    ends = found.ends
    params = ", ".join(f"{name} = {_plain(value)}" for name, value in found.params.items())
    left_out = f", {found.trained_on:,} left out because an artefact was trained on them" if found.trained_on else ""
    fitted = f", {found.tuning_rows:,} more to fit the path through the params" if found.tuning_rows else ""
    drawn = f"{found.n:,} recorded requests" if found.requests is None else conversations(found.n, found.requests)
    told = f"{drawn}{left_out}{fitted}; strong: {ends.strong}, weak: {ends.weak}"
    applied = calibration is not None and all(found.params.get(name) == v for name, v in calibration.params.items())
    now = "calibrated" if applied else "as it is now"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{html.escape(title)}</h1>
<p class="soft">{html.escape(told)}</p>
{f'<p class="soft">{html.escape(f"{now}: {params}")}</p>' if params else ""}
{_promised(calibration, applied)}
{_drift(found)}
<h2>Quality and cost</h2>
<div class="pictures">
{quality_over_share(found, now)}
{quality_over_cost(found, now) or ""}
</div>
<h2>Figures</h2>
{_figures(found, now)}
<h2>Recovered of the gap between {html.escape(ends.weak)} and {html.escape(ends.strong)}</h2>
{_recovered(found)}
<p class="soft">APGR: mean share of the gap that is recovered, over all shares of strong calls; CPT: the share of strong
calls that recovers so much of it (arXiv 2406.18665, section 4). Intervals are of 95 %, by bootstrap.</p>
{_signals(found)}
{_notes(found.notes)}
</main>
</body>
</html>
"""


def _promised(calibration: Calibration | None, applied: bool) -> str:
    if calibration is None:
        return (
            '<p class="box soft">Nothing is promised: the graph is not calibrated (<code>dynflow calibrate</code>).</p>'
        )
    bound, promise = calibration.bound, calibration.promise
    side = "at most" if promise["kind"] in AT_MOST else "at least"
    chosen_on = f"; {calibration.tuning_rows:,} others chose what to try" if calibration.tuning_rows else ""
    statement = calibration.statement[:1].upper() + calibration.statement[1:]
    rests = (
        f"{100 * promise['confidence']:g} % confidence, tested on {calibration.tested_on}{chosen_on}. "
        f"Tested by {bound['method']}: {bound['of']} is {side} "
        f"{bound['value']:.4g}, and had to be {side} {bound['limit']:.4g}. Made {calibration.made[:10]}."
    )
    other = "" if applied else "<p><strong>The params shown here are others than those calibrated.</strong></p>"
    return (
        f'<div class="box kept"><p><strong>{html.escape(statement)}.</strong></p>'
        f'<p class="soft">{html.escape(rests)}</p>{other}</div>'
    )


def _drift(found: Evaluation) -> str:
    """Whether these rows are like those calibrated on, by each number that decides."""
    if not found.drift:
        return ""
    off = [each for each in found.drift if each.drifted]
    rows = [
        (
            html.escape(each.port),
            f"{each.requests:,}",
            f"{each.distance:.3f}",
            f"{each.limit:.3f}",
            "not like them" if each.drifted else "like them",
        )
        for each in found.drift
    ]
    text = "Some numbers that decide are spread otherwise here: what was promised may not hold for these requests."
    word = text if off else "These requests are like those that the graph was calibrated on."
    return (
        f'<h2>Drift</h2><p class="box {"broken" if off else "kept"}">{word}</p>'
        f"{_table('Drift', ('', 'requests', 'distance', 'by chance at most', 'verdict'), rows)}"
    )


def _figures(found: Evaluation, now: str) -> str:
    figures, ends = found.figures, found.ends
    weak, strong = found.baselines["always_weak"], found.baselines["always_strong"]
    rows = [
        (now, figures["quality"], figures["usd"], _share(figures["strong_share"])),
        (f"always {ends.weak}", weak["quality"], weak["usd"], "0 %"),
        (f"always {ends.strong}", strong["quality"], strong["usd"], "100 %"),
    ]
    cells = [(html.escape(name), _number(quality), _usd(usd), share) for name, quality, usd, share in rows]
    return _table("Figures", ("", "quality", "USD per 1,000 requests", "strong calls"), cells)


def _recovered(found: Evaluation) -> str:
    rows = [
        ("this graph", *_of_curve(found.figures)),
        ("every threshold", *_of_curve(found.figures, "_exact")),
        *((html.escape(_NAMES[name]), *_of_curve(found.baselines[name])) for name in _NAMES),
    ]
    return _table("Recovered of the gap", ("", "APGR", "CPT(50 %)", "CPT(80 %)"), rows)


def _signals(found: Evaluation) -> str:
    by_signal = itertools.groupby(found.reliability, key=lambda each: each.signal.rpartition(".")[0])
    pictures = [
        *(score_histogram(scores, number) for number, scores in enumerate(found.scores)),
        *(reliability_diagram(list(parts), number) for number, (_, parts) in enumerate(by_signal)),
    ]
    if not pictures:
        return ""
    return f'<h2>What decides</h2><div class="pictures">{"".join(pictures)}</div>'


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<h2>Notes</h2><ul>{items}</ul>" if notes else ""


def _of_curve(figures: Mapping[str, Interval], form: str = "") -> tuple[str, str, str]:
    cpt50, cpt80 = figures[f"cpt50{form}"], figures[f"cpt80{form}"]
    return _number(figures[f"apgr{form}"]), _share(cpt50), _share(cpt80)


def _number(figure: Interval) -> str:
    return _shown(figure, lambda value: f"{value:.3f}")


def _usd(figure: Interval) -> str:
    return _shown(figure, lambda value: f"${1_000 * value:,.3g}")


def _share(figure: Interval) -> str:
    return _shown(figure, lambda value: f"{100 * value:.1f} %")


def _shown(figure: Interval, form: Callable[[float], str]) -> str:
    if math.isnan(figure.value):
        return "unknown"
    if math.isnan(figure.low):
        return form(figure.value)
    return f'{form(figure.value)} <span class="interval">[{form(figure.low)}, {form(figure.high)}]</span>'


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(label: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first cell of each row is its name. Cells are HTML. Where it is too wide, it scrolls by itself."""
    # Roles are named: on a phone rows are laid out as blocks, and would lose them.
    columns = "".join(f'<th scope="col" role="columnheader">{html.escape(cell)}</th>' for cell in head)
    body = ""
    for name, *cells in rows:
        told = zip(head[1:], cells, strict=True)
        shown = (
            f'<td role="cell" data-column="{html.escape(column)}"><span>{cell}</span></td>' for column, cell in told
        )
        body += f'<tr role="row"><th scope="row" role="rowheader">{name}</th>{"".join(shown)}</tr>'
    table = f'<thead role="rowgroup"><tr role="row">{columns}</tr></thead><tbody role="rowgroup">{body}</tbody>'
    region = f'<div class="wide" role="region" aria-label="{html.escape(label)}" tabindex="0">'
    return f'{region}<table role="table">{table}</table></div>'
