"""`dynflow batch`: a file of requests through a graph, resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynflow.cli.arguments import FiniteRange, graph_argument, read_params, set_option, trace_options, tracing
from dynflow.cli.progress import duration, run_rows, spent
from dynflow.cli.terminal import table

if TYPE_CHECKING:
    from dynflow.batch_file import Report
    from dynflow.flow import Flow

FAILED_ROWS = 1
STOPPED = 3
_MOST_PATHS = 10


@click.command("batch")
@graph_argument
@click.option(
    "--input", "-i", "source", required=True, type=click.Path(path_type=Path), help='Rows: {"id": …, "input": …}.'
)
@click.option(
    "--output", "-o", "target", required=True, type=click.Path(path_type=Path), help="Results; resumed if it is there."
)
@set_option
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=8, show_default=True, help="Rows under way at once, at most."
)
@click.option("--retry-failed", is_flag=True, help="Run rows again that failed in an earlier run.")
@click.option(
    "--changed",
    type=click.Choice(["refuse", "keep", "redo"]),
    default="refuse",
    show_default=True,
    help="What to do with results made by another graph, other params, or from other inputs.",
)
@click.option(
    "--all-paths", is_flag=True, help="Run every answer node on each row, grade it, and write an outcome file."
)
@click.option(
    "--grade",
    metavar="GRADER",
    help="How good an answer is: exact, number, regex:PATTERN, schema:FILE or judge:MODEL.",
)
@click.option(
    "--judge-prompt",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What the judge is asked, with the places {question}, {answer} and {reference}.",
)
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Collect so many rows, drawn by chance.")
@click.option("--seed", type=int, metavar="S", help="Of the draw; default: 0.")
@click.option(
    "--usd", type=FiniteRange(0, min_open=True), metavar="LIMIT", help="What the whole outcome file may cost."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@trace_options
def command(
    graph: str,
    source: Path,
    target: Path,
    settings: tuple[str, ...],
    as_json: bool,
    trace: str | None,
    trace_content: bool,
    all_paths: bool,
    **options: Any,
) -> int:
    """Send a file of requests through a graph.

    Each line of --input is a row {"id": …, "input": …}; each finished row is one line of --output, in the order in
    which they finish. The same command again goes on where the last one was stopped, killed or ran out of budget: rows
    that are in the output are not run again. Progress goes to standard error, the summary to standard output.

    With --all-paths every answer node is run on each row, whatever the edges say, and its answer is graded: the output
    is then an outcome file, which `evaluate`, `calibrate` and `train` read. Rows may have a "reference", the right
    answer or a list of those. --usd is never passed; the rows that are finished by then are drawn by chance.

    Exits with 0 if all rows were answered, 1 if some failed, 3 if it stopped early, 130 after Ctrl-C.

    \b
    Examples:
      dynflow batch graph.yaml --input questions.jsonl --output answers.jsonl
      dynflow batch graph.yaml -i questions.jsonl -o answers.jsonl --retry-failed
      dynflow batch graph.yaml -i questions.jsonl -o answers.jsonl --json | jq .saved_usd
      dynflow batch graph.yaml -i questions.jsonl -o outcomes.jsonl --all-paths --grade number --sample 500 --usd 2
    """
    from dynflow.cli.collecting import refuse_without_all_paths
    from dynflow.loading import load

    if all_paths:
        if trace is not None or trace_content:
            raise click.UsageError("--trace records walks, and --all-paths takes none")
        return _collect(graph, source, target, settings, as_json, options)
    refuse_without_all_paths(options)
    with tracing(trace, trace_content) as file:
        flow = load(graph, trace=file)
        report = _run(flow, source, target, params=read_params(settings, flow.params), **options)
    click.echo(json.dumps({**report.as_dict(), "output": str(target)}) if as_json else summary(report, target))
    return STOPPED if report.stopped is not None else FAILED_ROWS if report.failed else 0


def _collect(
    graph: str, source: Path, target: Path, settings: tuple[str, ...], as_json: bool, options: dict[str, Any]
) -> int:
    """The command with --all-paths."""
    from dynflow.cli import collecting
    from dynflow.loading import load

    flow = load(graph)
    report = collecting.collect(flow, source, target, {**options, "params": read_params(settings, flow.params)})
    told = {**report.as_dict(), "output": str(target)}
    click.echo(json.dumps(told) if as_json else collecting.summary(report, graph, target))
    return STOPPED if report.stopped is not None else FAILED_ROWS if report.failed else 0


def _run(flow: Flow, source: Path, target: Path, **options: Any) -> Report:
    """Run what is left, with progress on standard error."""
    from dynflow.batch_file import BatchRun

    with BatchRun(flow, source, target, **options) as batch:

        def prepare() -> None:
            _warn_of_endless_models(flow)
            batch.warm_up()

        return run_rows(batch, prepare)


def _warn_of_endless_models(flow: Flow) -> None:
    """Say which models let rows run one at a time only."""
    from dynflow.batch_file.reserving import endless_models

    if names := ", ".join(map(repr, endless_models(flow))):
        click.echo(
            f"{click.style('warning:', fg='yellow', bold=True)} a call of {names} reserves all that "
            "limits.usd_per_day leaves, so rows that need it run one at a time: give the model `max_tokens:`",
            err=True,
        )


def summary(report: Report, target: Path) -> str:
    """The figures of a batch for a terminal, a few lines."""
    lines = [f"{report.finished - report.failed:,} of {report.rows:,} rows answered"]
    if report.failed:
        kinds = ", ".join(f"{kind} {rows:,}" for kind, rows in report.errors.most_common())
        lines[0] += f", {report.failed:,} failed ({kinds})"
    if report.degraded:
        lines[0] += f", {report.degraded:,} degraded"
    lines.append(f"{spent(report)} · {duration(report.seconds)}")
    shown = report.paths.most_common(_MOST_PATHS)
    rows = [(f"{count / report.finished:.1%}".rjust(6), " → ".join(path)) for path, count in shown]
    if len(report.paths) > len(shown):
        rows.append(("", f"and {len(report.paths) - len(shown)} more paths"))
    if rows:
        lines.append(table(rows, "  "))
    lines.append(f"wrote {target}")
    return "\n".join(lines)
