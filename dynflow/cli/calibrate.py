"""`dynflow calibrate`: sets a graph's params so that a promise is kept on new requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynflow.cli.arguments import FiniteRange, graph_argument
from dynflow.cli.outcomes import bind_option, money, number, of_option, outcomes_option, read_bindings, read_file, share
from dynflow.cli.terminal import table, write_whole

if TYPE_CHECKING:
    from dynflow.calibration.calibrate import Calibrated
    from dynflow.calibration.promises import Kind

_PART = FiniteRange(0, 1, min_open=True, max_open=True)


@click.command("calibrate")
@graph_argument
@outcomes_option
@bind_option
@click.option("--quality", type=_PART, help="Promise this part of the quality of NODE (with --of), such as 0.95.")
@of_option
@click.option("--mean-quality", type=_PART, help="Promise this mean quality, whatever the strong path's is.")
@click.option("--usd", type=FiniteRange(0, min_open=True), help="Promise that a request costs at most so much.")
@click.option("--share", "most_share", type=_PART, help="Promise that at most this share calls the strong path.")
@click.option("--confidence", type=_PART, default=0.9, show_default=True, help="Of the promise.")
@click.option(
    "--tuning",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Outcomes that settings are chosen on; default: a fifth of the rows of --outcomes, which then tests no more.",
)
@click.option(
    "--turns",
    type=click.IntRange(min=1),
    metavar="N",
    help="Promise it of the first N requests of each conversation; default: of as many as the longest tuning one has.",
)
@click.option("--dry-run", is_flag=True, help="Write no calibration file.")
@click.option("--json", "as_json", is_flag=True, help="Print the calibration as one JSON object.")
def command(
    graph: str,
    outcomes: Path,
    bindings: tuple[str, ...],
    quality: float | None,
    of: str | None,
    mean_quality: float | None,
    usd: float | None,
    most_share: float | None,
    confidence: float,
    tuning: Path | None,
    turns: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Set the params marked `tune: true` so that a promise is kept.

    One of --quality, --mean-quality, --usd and --share says what is promised. The params written are the cheapest that
    are shown to keep a promise of quality (those of the best quality for one of cost) by an exact test on the rows of
    the file, which must be drawn like the requests to come. The promise is on the mean over new requests, not on each
    of them. Rows with the same "conversation" are one draw: conversations are counted, then, not rows.
    GRAPH.calibration.json beside the graph takes the params; loading the graph applies it. Rows that an artefact of the
    graph was trained on are left out, and too few rows are an error that says how many more it takes.

    \b
    Examples:
      dynflow calibrate graph.yaml --outcomes outcomes.jsonl --quality 0.95 --of cloud --confidence 0.9
      dynflow calibrate graph.yaml --outcomes outcomes.jsonl --usd 0.002 --outcome weak=local --outcome strong=cloud
    """
    kind, target = _promise(quality, mean_quality, usd, most_share)
    from dynflow.cli.progress import progress_bars
    from dynflow.loading import load

    file = read_file(outcomes)
    other = read_file(tuning) if tuning is not None else None
    from dynflow.calibration.calibrate import calibrate
    from dynflow.calibration.kept import KeptOutputs
    from dynflow.calibration.saved import path_for

    with progress_bars() as progress:
        found = calibrate(
            load(graph),
            file,
            read_bindings(bindings),
            kind=kind,
            target=target,
            of=of,
            confidence=confidence,
            tuning=other,
            turns=turns,
            progress=progress,
            kept=KeptOutputs(),
        )
    body = found.calibration.as_dict()
    if not dry_run:
        write_whole(path_for(Path(graph)), f"{json.dumps(body, indent=2, ensure_ascii=False)}\n".encode())
    if as_json:
        click.echo(json.dumps({**body, "notes": list(found.notes)}, indent=2, ensure_ascii=False))
        return
    click.echo(_report(found))
    if not dry_run:
        click.echo(f"wrote {path_for(Path(graph))}; loading {graph} applies it")


def _promise(
    quality: float | None, mean_quality: float | None, usd: float | None, most_share: float | None
) -> tuple[Kind, float]:
    """What is promised. Raises `click.UsageError` unless it is one thing."""
    given: list[tuple[Kind, float | None]] = [
        ("quality_of", quality),
        ("quality", mean_quality),
        ("usd", usd),
        ("share", most_share),
    ]
    found = [(kind, target) for kind, target in given if target is not None]
    if len(found) != 1:
        raise click.UsageError("give one promise: --quality, --mean-quality, --usd or --share")
    return found[0]


def _report(found: Calibrated) -> str:
    calibration = found.calibration
    params = ", ".join(f"{name} = {value:.6g}" for name, value in calibration.params.items())
    left_out = f", {calibration.trained_on:,} left out (trained on)" if calibration.trained_on else ""
    bound, expected = calibration.bound, calibration.expected
    side = "at most" if calibration.promise["kind"] in ("usd", "share") else "at least"
    lines = [
        click.style(params, bold=True),
        calibration.statement,
        f"tested on {calibration.tested_on}{left_out}; {calibration.tuning_rows:,} others chose what to try",
        f"{bound['method']}: {bound['of']} is {side} {bound['value']:.4g}, and must be {side} {bound['limit']:.4g}",
        table(
            [
                ("", "calibrated", f"always {found.ends.strong}"),
                ("quality", _figure(number, expected["quality"]), _figure(number, expected["reference"]["quality"])),
                ("USD per request", _figure(money, expected["usd"]), _figure(money, expected["reference"]["usd"])),
                (f"share of {found.ends.strong}", _figure(share, expected["strong_share"]), "100 %"),
            ],
            "  ",
        ),
        *(f"note: {note}" for note in found.notes),
    ]
    return "\n".join(lines)


def _figure(form: Any, figure: Any) -> str:
    from dynflow.calibration.curves import Interval

    values = (float("nan") if figure[name] is None else figure[name] for name in ("value", "low", "high"))
    return str(form(Interval(*values)))
