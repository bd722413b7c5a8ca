"""`dynflow evaluate`: how good a graph is on recorded outcomes; no model is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynflow.calibration.saved import conversations
from dynflow.cli.arguments import graph_argument, read_params, set_option
from dynflow.cli.outcomes import bind_option, money, number, of_option, outcomes_option, read_bindings, read_file, share
from dynflow.cli.terminal import table, write_whole

if TYPE_CHECKING:
    from dynflow.calibration.curves import Interval
    from dynflow.calibration.evaluate import Evaluation


@click.command("evaluate")
@graph_argument
@outcomes_option
@bind_option
@of_option
@set_option
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the resamples that intervals rest on."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the figures, with pictures, to an HTML page too, which needs nothing else.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with the whole curve.")
def command(
    graph: str,
    outcomes: Path,
    bindings: tuple[str, ...],
    of: str | None,
    settings: tuple[str, ...],
    seed: int,
    report: Path | None,
    as_json: bool,
) -> None:
    """Replay a graph over recorded outcomes.

    Signals run for real; answers are read from the file, and no model is called. Shown are quality, cost and share of
    strong calls as the graph is now, and its curve over all values of the params marked `tune: true`: APGR, the share
    of the quality gap between the weak and the strong answer that is recovered, averaged over all shares of strong
    calls (random: 0.5), and CPT(50 %), CPT(80 %), the shares of strong calls that recover so much of it, as RouteLLM
    defines them (arXiv 2406.18665 §4); `_exact` uses every threshold in the place of its ten bins. Intervals are of
    95 %, by bootstrap. Rows that an artefact of the graph was trained on are left out.

    \b
    Examples:
      dynflow evaluate graph.yaml --outcomes outcomes.jsonl
      dynflow evaluate graph.yaml --outcomes outcomes.jsonl --outcome weak=local --outcome strong=cloud --json
    """
    from dynflow.cli.progress import progress_bars
    from dynflow.loading import load

    file = read_file(outcomes)
    from dynflow.calibration.evaluate import evaluate
    from dynflow.calibration.kept import KeptOutputs

    flow = load(graph)
    params = read_params(settings, flow.params)
    with progress_bars() as progress:
        found = evaluate(
            flow, file, read_bindings(bindings), params=params, of=of, seed=seed, progress=progress, kept=KeptOutputs()
        )
    if report is not None:
        from dynflow.calibration.report import report as page

        write_whole(report, page(found, flow.get_name(), flow.calibration).encode())
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    click.echo(_report(found))


def _report(found: Evaluation) -> str:
    figures, ends = found.figures, found.ends
    params = ", ".join(f"{name} = {value:g}" for name, value in found.params.items() if isinstance(value, int | float))
    left_out = f", {found.trained_on:,} left out (trained on)" if found.trained_on else ""
    fitted = f", {found.tuning_rows:,} more to fit the path through the params" if found.tuning_rows else ""
    drawn = f"{found.n:,} rows" if found.requests is None else conversations(found.n, found.requests)
    lines = [
        click.style(f"{drawn}{left_out}{fitted}; strong: {ends.strong}, weak: {ends.weak}", bold=True),
        f"now{f', with {params}' if params else ''}",
        table(
            [
                ("quality", number(figures["quality"])),
                ("USD per request", money(figures["usd"])),
                (f"share of {ends.strong}", share(figures["strong_share"])),
            ],
            "  ",
        ),
        "over all settings, beside what it must beat and what none can",
        table(
            [
                ("", "APGR", "CPT(50 %)", "CPT(80 %)"),
                _curve("this graph", figures),
                _curve("  exact", figures, "_exact"),
                *(_curve(name.replace("_", " "), row) for name, row in found.baselines.items() if "apgr" in row),
            ],
            "  ",
        ),
        table(
            [
                (f"always {node}", number(row["quality"]), money(row["usd"]))
                for node, row in (
                    (ends.weak, found.baselines["always_weak"]),
                    (ends.strong, found.baselines["always_strong"]),
                )
            ],
            "  ",
        ),
        *(f"note: {note}" for note in found.notes),
    ]
    return "\n".join(lines)


def _curve(name: str, figures: Mapping[str, Interval], form: str = "") -> tuple[str, str, str, str]:
    apgr, cpt50, cpt80 = (figures[f"{figure}{form}"] for figure in ("apgr", "cpt50", "cpt80"))
    return name, number(apgr), share(cpt50), share(cpt80)
