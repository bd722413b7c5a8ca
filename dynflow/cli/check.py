"""`dynflow check`: every fault of a graph file, with its place and how to mend it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dynflow.cli.arguments import complete_file
from dynflow.cli.terminal import render_problem

if TYPE_CHECKING:
    from dynflow.calibration.saved import Calibration
    from dynflow.graph import CheckedGraph
    from dynflow.language.source import Problem


@click.command("check")
@click.argument("files", nargs=-1, required=True, shell_complete=complete_file)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="Text for people, JSON for programs, annotations for GitHub Actions.",
)
@click.option(
    "--traces",
    metavar="FILE",
    shell_complete=complete_file,
    help="Records of requests (`--trace`): warn where their scores, or audits, are not as calibrated.",
)
def command(files: tuple[str, ...], form: str, traces: str | None) -> None:
    """Find every fault of graph files, without loading a model.

    Exits with 1 if a file has errors; warnings alone are fine. For a file without errors it says how many nodes it
    has, and which answers stream live: those that go out token by token, while held ones wait until it is certain
    that nothing replaces them. A calibration file beside the graph is checked too: one that was made for another graph,
    or with other artefacts, is not applied, and that is a warning.

    \b
    Examples:
      dynflow check graph.yaml
      dynflow check graphs/*.yaml --format github
      dynflow check graph.yaml --format json | jq '.files[].problems[].code'
    """
    results = [(file, *_check(file, traces)) for file in files]
    good = all(graph is not None for _, _, graph, _ in results)
    if form == "json":
        shown = [
            {
                "file": file,
                "ok": graph is not None,
                "problems": [problem.as_dict() for problem in problems],
                **_facts(graph, calibration),
            }
            for file, problems, graph, calibration in results
        ]
        click.echo(json.dumps({"ok": good, "files": shown}, indent=2))
    else:
        for file, problems, graph, calibration in results:
            for problem in problems:
                click.echo(problem.as_github() if form == "github" else render_problem(problem))
            if graph is not None:
                click.echo(f"{file}: {click.style('ok', fg='green')}, {_summary(graph)}")
            if calibration is not None:
                params = ", ".join(f"{name} = {value:.6g}" for name, value in calibration.params.items())
                click.echo(f"{file}: calibrated ({params}): {calibration.statement}")
    if not good:
        raise click.exceptions.Exit(1)


def _check(file: str, traces: str | None) -> tuple[list[Problem], CheckedGraph | None, Calibration | None]:
    from dynflow.calibration.saved import path_for
    from dynflow.compile import check_text, read_graph_file
    from dynflow.errors import GraphError

    path = Path(file)
    try:
        data = read_graph_file(path)
    except GraphError as error:
        return list(error.problems), None, None
    source, graph = check_text(data, file, path=path)
    if graph is None or not path_for(path).is_file():
        return source.sorted(), graph, None
    from dynflow.loading import load

    flow = load(path)
    if traces is not None and flow.calibration is not None:
        from dynflow.calibration.audits import audited
        from dynflow.calibration.drift import drift
        from dynflow.trace_file import read_trace

        records = [record for _, record in read_trace(traces) if not isinstance(record, str)]
        told = [str(found) for found in drift(flow.calibration, records) if found.drifted]
        if (audit := audited(flow.calibration, records)) is not None and audit.broken:
            told.append(str(audit))
        for text in told:
            flow.checked.source.report("drift", text, ("params",), key=True, severity="warning")
    return flow.warnings, graph, flow.calibration  # what is wrong with the calibration is among the warnings


def _facts(graph: CheckedGraph | None, calibration: Calibration | None) -> dict[str, object]:
    if graph is None:
        return {}
    answers = {name: {"live": name in graph.live} for name in graph.answers}
    told = {} if calibration is None else {"calibration": calibration.as_dict()}
    return {"nodes": len(graph.nodes), "answers": answers, **told}


def _summary(graph: CheckedGraph) -> str:
    nodes = f"{len(graph.nodes)} node{'s' if len(graph.nodes) != 1 else ''}"
    answers = ", ".join(f"{name} ({'live' if name in graph.live else 'held'})" for name in graph.answers)
    return f"{nodes}; answers: {answers}"
