"""`dynflow batch --all-paths`: the outcomes of every answer node, graded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynflow.cli.progress import duration, run_rows, spent
from dynflow.cli.terminal import table
from dynflow.money import dollars

if TYPE_CHECKING:
    from dynflow.collecting import CollectionReport
    from dynflow.flow import Flow

_OPTIONS = ("grade", "judge_prompt", "sample", "seed", "usd")


def refuse_without_all_paths(options: dict[str, Any]) -> None:
    """Take the options of `--all-paths` out of others. Raises `click.UsageError` where one is given without it."""
    for name in _OPTIONS:
        if options.pop(name) is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with --all-paths")


def collect(flow: Flow, source: Path, target: Path, options: dict[str, Any]) -> CollectionReport:
    """Collect what is left, with progress on standard error. Raises `click.UsageError` without a grader."""
    from dynflow.collecting import Collection
    from dynflow.grading import FORMS, read_grader

    grade, prompt_file = options.pop("grade"), options.pop("judge_prompt")
    if grade is None:
        raise click.UsageError(f"--all-paths needs --grade, which says how good an answer is: {', '.join(FORMS)}")
    prompt = None if prompt_file is None else prompt_file.read_text("utf-8-sig")
    grader = read_grader(grade, flow, judge_prompt=prompt)
    options["seed"] = options["seed"] or 0
    with Collection(flow, source, target, grade=grader, **options) as collection:
        return run_rows(collection, collection.warm_up)


def summary(report: CollectionReport, graph: str, target: Path) -> str:
    """The figures of a collection for a terminal."""
    lines = [f"{report.finished:,} of {report.rows:,} rows collected"]
    if report.failed:
        kinds = ", ".join(f"{kind} {rows:,}" for kind, rows in report.errors.most_common())
        lines[0] += f", {report.failed:,} of them with a failure ({kinds})"
    lines.append(f"{spent(report)} · {duration(report.seconds)}")
    if report.unfinished_usd:
        lines.append(f"and {dollars(report.unfinished_usd)} for rows that were begun and not finished")
    rows = [("", "quality", "USD per row", "seconds", "failed")]
    for name, figures in report.nodes.items():
        quality, usd = figures.mean_quality, figures.mean_usd
        rows.append(
            (
                name,
                "none" if quality is None else f"{quality:.3f}",
                "unknown" if usd is None else dollars(float(f"{usd:.3g}")),
                f"{figures.seconds / figures.rows:.2f}",
                f"{figures.failed:,}",
            )
        )
    if report.nodes:
        lines.append(table(rows, "  "))
    if report.ungraded:
        count = sum(figures.ungraded for figures in report.nodes.values())
        lines.append(f"{count:,} answers got no grade; grade them by hand in the file, or try --retry-failed:")
        lines += [f"  {each}" for each in report.ungraded]
    next = f"; next: dynflow evaluate {graph} --outcomes {target}" if report.finished else ""
    lines.append(f"wrote {target}{next}")
    return "\n".join(lines)
