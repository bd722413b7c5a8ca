"""`dynflow calibrate`: sets a graph's params so that a promise is kept on new requests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dynflow.cli.arguments import FiniteRange, graph_argument
from dynflow.cli.contract import keep_contract
from dynflow.cli.outcomes import (
    bind_option,
    money,
    number,
    of_option,
    outcomes_file,
    read_bindings,
    read_file,
    require_calibration,
    share,
)
from dynflow.cli.terminal import table, write_whole
from dynflow.cli.train import named

if TYPE_CHECKING:
    from dynflow.calibration.calibrate import Calibrated
    from dynflow.calibration.promises import Kind
    from dynflow.calibration.saved import Calibration
    from dynflow.calibration.stopping import Stopping

_PART = FiniteRange(0, 1, min_open=True, max_open=True)
_AMOUNT = FiniteRange(0, min_open=True)
_OF_OUTCOMES = ("bindings", "tuning", "turns")
_OF_TEXTS = ("text_column", "label_column", "names", "within", "captions", "runs", "seeds")
_OF_CONTRACTS = ("captions", "runs", "seeds")
_PROMISES = ("quality", "mean_quality", "usd", "share", "gap", "disagreement", "layers", "milliseconds")


@click.command("calibrate")
@graph_argument
@click.option("--outcomes", **outcomes_file)
@bind_option
@click.option("--quality", type=_PART, help="Promise this part of the quality of NODE (with --of), such as 0.95.")
@of_option
@click.option("--mean-quality", type=_PART, help="Promise this mean quality, whatever the strong path's is.")
@click.option("--usd", type=_AMOUNT, help="Promise that a request costs at most so much.")
@click.option("--share", type=_PART, help="Promise that at most this share calls the strong path.")
@click.option("--data", metavar="FILE", help="Texts for a node that may stop early: TSV, CSV, JSONL or TXT.")
@click.option("--text-column", help="Of --data; found by its name, if not given.")
@click.option("--label-column", help="The same; only --gap reads it.")
@click.option("--name", "names", multiple=True, metavar="LABEL=NAME", help="What the node calls a label of --data.")
@click.option("--gap", type=_PART, help="Promise that at most this share more is wrong than of whole runs (labels).")
@click.option("--disagreement", type=_PART, help="Promise that at most this share is other than of whole runs.")
@click.option("--layers", type=_AMOUNT, help="Promise a mean of so many layers.")
@click.option("--milliseconds", type=_AMOUNT, help="Promise a mean of so many milliseconds, as measured here and now.")
@click.option("--within", type=_PART, default=0.03, show_default=True, help="What --layers may be off by, as a part.")
@click.option("--captions", type=click.IntRange(min=1), help="So many captions of embedded/shapes in place of --data.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Images of each prompt.")
@click.option(
    "--runs",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Recorded runs of the images; what is missing is rendered. Default: GRAPH.runs.jsonl.",
)
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
    outcomes: Path | None,
    data: str | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Set the params marked `tune: true` so that a promise is kept.

    With --outcomes: one of --quality, --mean-quality, --usd and --share says what is promised. The params written are
    the cheapest that are shown to keep a promise of quality (those of the best quality for one of cost) by an exact
    test on the rows of the file, which must be drawn like the requests to come. The promise is on the mean over new
    requests, not on each of them. Rows with the same "conversation" are one draw: conversations are counted, then, not
    rows. GRAPH.calibration.json beside the graph takes the params; loading the graph applies it. Rows that an artefact
    of the graph was trained on are left out, and too few rows are an error that says how many more it takes.

    With --data: one of --gap, --disagreement, --layers and --milliseconds says what is promised of a node that may stop
    early, such as an early_exit_classifier; it sets the param that is its threshold. Each text runs once, whole.

    With --data, or --captions, and no promise: the graph states one, in the option `quality` of an adaptive_diffusion.
    The cheapest quantile and threshold that keep it are written into its predictor's folder. Each prompt is drawn in
    all step counts of the predictor, and no prompt that this was trained on counts.

    \b
    Examples:
      dynflow calibrate graph.yaml --outcomes outcomes.jsonl --quality 0.95 --of cloud --confidence 0.9
      dynflow calibrate graph.yaml --outcomes outcomes.jsonl --usd 0.002 --outcome weak=local --outcome strong=cloud
      dynflow calibrate sentiment.yaml --data reviews.tsv --gap 0.01 --name 0=negative --name 1=positive
      dynflow calibrate sentiment.yaml --data texts.txt --disagreement 0.02 --confidence 0.95
      dynflow calibrate sentiment.yaml --data texts.txt --layers 2.5
      dynflow calibrate pictures.yaml --captions 500 --confidence 0.9
    """
    if sum(each is not None for each in (outcomes, data, given["captions"])) != 1:
        raise click.UsageError("give recorded --outcomes, or --data for a node that may stop early: one of them")
    _check_options("--data" if outcomes is None else "--outcomes", _OF_OUTCOMES if outcomes is None else _OF_TEXTS)
    if outcomes is None and all(given[name] is None for name in _PROMISES):
        _check_options("a promise that the graph states", ("label_column", "names", "within"))
        keep_contract(graph, data, given, dry_run=dry_run, as_json=as_json)
        return
    if outcomes is None:
        _check_options("a promise given here", _OF_CONTRACTS)
    found = _of_outcomes(graph, outcomes, given) if outcomes is not None else _of_texts(graph, str(data), given)
    body = found.calibration.as_dict()
    if not dry_run:
        from dynflow.calibration.saved import path_for

        write_whole(path_for(Path(graph)), f"{json.dumps(body, indent=2, ensure_ascii=False)}\n".encode())
    if as_json:
        click.echo(json.dumps({**body, "notes": list(found.notes)}, indent=2, ensure_ascii=False))
        return
    click.echo(_report(found.calibration, found.notes))
    if not dry_run:
        click.echo(f"wrote {path_for(Path(graph))}; loading {graph} applies it")


def _check_options(rows: str, others: Sequence[str]) -> None:
    """Raises `click.UsageError` for options that say nothing of these rows."""
    context = click.get_current_context()
    given = [
        max(option.opts, key=len)
        for option in context.command.params
        if option.name in others and context.get_parameter_source(option.name) is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"with {rows}, {' and '.join(given)} would say nothing: leave out")


def _of_outcomes(graph: str, outcomes: Path, given: Mapping[str, Any]) -> Calibrated:
    kind, target = _promise(given, {"quality": "quality_of", "mean_quality": "quality", "usd": "usd", "share": "share"})
    from dynflow.cli.progress import progress_bars
    from dynflow.loading import load

    file = read_file(outcomes)
    tuning = read_file(given["tuning"]) if given["tuning"] is not None else None
    from dynflow.calibration.calibrate import calibrate
    from dynflow.calibration.kept import KeptOutputs

    with progress_bars() as progress:
        return calibrate(
            load(graph),
            file,
            read_bindings(given["bindings"]),
            kind=kind,
            target=target,
            of=given["of"],
            confidence=given["confidence"],
            tuning=tuning,
            turns=given["turns"],
            progress=progress,
            kept=KeptOutputs(),
        )


def _of_texts(graph: str, data: str, given: Mapping[str, Any]) -> Stopping:
    kinds: dict[str, Kind] = {
        "gap": "gap",
        "disagreement": "disagreement",
        "layers": "budget",
        "milliseconds": "budget",
    }
    kind, target = _promise(given, kinds)
    require_calibration()
    from dynflow.calibration.stopping import calibrate_stopping
    from dynflow.cli.progress import progress_bars
    from dynflow.learning.labelled import Columns, read_labelled, read_texts
    from dynflow.loading import load

    columns = Columns(given["text_column"], given["label_column"])
    rows = read_labelled(data, columns) if kind == "gap" else read_texts(data, columns.text)
    path = Path(data).expanduser()
    with progress_bars() as progress:
        return calibrate_stopping(
            load(graph),
            rows,
            kind=kind,
            target=target,
            of=given["of"],
            confidence=given["confidence"],
            within=given["within"],
            timed=given["milliseconds"] is not None,
            names=dict(named(name) for name in given["names"]),
            data_sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            progress=progress,
        )


def _promise(given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> tuple[Kind, float]:
    """What is promised. Raises `click.UsageError` unless it is one thing, and one that these rows can show."""
    found = [name for name in _PROMISES if given[name] is not None]
    if len(found) != 1 or found[0] not in kinds:
        *first, last = (f"--{name.replace('_', '-')}" for name in kinds)
        rows = "--outcomes" if "usd" in kinds else "--data"
        raise click.UsageError(f"with {rows} give one promise: {', '.join(first)} or {last}")
    return kinds[found[0]], given[found[0]]


def _report(calibration: Calibration, notes: Sequence[str]) -> str:
    from dynflow.calibration.promises import AT_MOST

    params = ", ".join(f"{name} = {value:.6g}" for name, value in calibration.params.items())
    left_out = f", {calibration.trained_on:,} left out (trained on)" if calibration.trained_on else ""
    chosen_on = f"; {calibration.tuning_rows:,} others chose what to try" if calibration.tuning_rows else ""
    bound = calibration.bound
    side = "at most" if calibration.promise["kind"] in AT_MOST else "at least"
    tested = [f"{side} {bound['value']:.4g}, and must be {side} {bound['limit']:.4g}"]
    if "least" in bound:
        tested.append(f"at least {bound['least']:.4g}, and must be at least {bound['least_limit']:.4g}")
    lines = [
        click.style(params, bold=True),
        calibration.statement,
        f"tested on {calibration.tested_on}{left_out}{chosen_on}",
        f"{bound['method']}: {bound['of']} is {'; '.join(tested)}",
        table(_beside(calibration), "  "),
        *(f"note: {note}" for note in notes),
    ]
    return "\n".join(lines)


def _beside(calibration: Calibration) -> list[tuple[str, str, str]]:
    """What is to be expected, beside the path that promises refer to, or whole runs."""
    expected, of = calibration.expected, calibration.promise["of"]
    whole = expected["reference"]
    if "cost" not in expected:
        return [
            ("", "calibrated", f"always {of}"),
            ("quality", _figure(number, expected["quality"]), _figure(number, whole["quality"])),
            ("USD per request", _figure(money, expected["usd"]), _figure(money, whole["usd"])),
            (f"share of {of}", _figure(share, expected["strong_share"]), "100 %"),
        ]
    labelled = "quality" in expected
    return [
        ("", "calibrated", "whole runs"),
        *([("right", _figure(share, expected["quality"]), _figure(share, whole["quality"]))] if labelled else []),
        ("as whole runs say", _figure(share, expected["agreement"]), "100 %"),
        (f"{expected['unit']} per text", _figure(number, expected["cost"]), _figure(number, whole["cost"])),
    ]


def _figure(form: Any, figure: Any) -> str:
    from dynflow.calibration.curves import Interval

    values = (float("nan") if figure[name] is None else figure[name] for name in ("value", "low", "high"))
    return str(form(Interval(*values)))
