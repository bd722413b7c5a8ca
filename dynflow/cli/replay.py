"""`dynflow replay`: recorded requests through a graph once more, without running anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from dynflow.cli.arguments import complete_file, graph_argument, read_params, set_option
from dynflow.cli.terminal import table
from dynflow.money import dollars

if TYPE_CHECKING:
    from dynflow.replaying import Replayed, Tally

_MOST_SHOWN = 20


@click.command("replay")
@graph_argument
@click.argument("trace", shell_complete=complete_file)
@set_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: the counts, and each request that differs."
)
def command(graph: str, trace: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Walk recorded requests through a graph again; run nothing.

    TRACE is a file that --trace wrote. Each request takes its recorded params, but for those of --set, and what its
    nodes gave then. So it shows what another threshold would have done to these requests, or what an edited graph
    would do. Where the way leads to a node that did not run then, the record cannot tell how it goes on; the summary
    says which nodes those are.

    \b
    Examples:
      dynflow replay graph.yaml decisions.jsonl
      dynflow replay graph.yaml decisions.jsonl --set easy_below=0.3
      dynflow replay graph.yaml decisions.jsonl --set easy_below=0.3 --json | jq .answers
    """
    from dynflow.loading import load

    flow = load(graph)
    report = _Report()
    report.read(flow, trace, read_params(settings, flow.params))
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
        return
    for line in report.lines():
        click.echo(line)
    for warning in report.warnings():
        click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {warning}", err=True)


class _Report:
    """What a file's requests would do now. Of those that differ the first few are kept for the terminal."""

    def __init__(self) -> None:
        from dynflow.replaying import Tally

        self.tally: Tally = Tally()
        self.differing: list[tuple[int, Replayed]] = []
        """Requests that go another way, and those that cannot be told, by their line."""
        self.unread: list[tuple[int, str]] = []

    def read(self, flow: Any, trace: str, params: Mapping[str, Any]) -> None:
        """Replay every record of the file. Raises `click.ClickException` where there is none."""
        from dynflow.errors import InputError
        from dynflow.replaying import replay
        from dynflow.trace_file import read_trace

        for line, record in read_trace(trace):
            if isinstance(record, str):
                self.unread.append((line, record))
                continue
            try:
                replayed = replay(flow, record, params)
                self.tally.add(record, replayed, flow.graph_hash)
            except InputError as error:
                self.unread.append((line, str(error)))
                continue
            if replayed.verdict != "same":
                self.differing.append((line, replayed))
        if not self.tally.requests:
            why = f" (line {self.unread[0][0]}: {self.unread[0][1]})" if self.unread else ""
            raise click.ClickException(f"{trace} holds no decision record{why}: write one with --trace")

    def as_dict(self) -> dict[str, Any]:
        from dynflow.trace import decision_as_dict

        return {
            **self.tally.as_dict(),
            "unread": len(self.unread),
            "differing": [
                {
                    "line": line,
                    "verdict": each.verdict,
                    "recorded": list(each.recorded),
                    "path": list(each.path),
                    "answer": each.answer,
                    "usd": each.usd,
                    "needs": each.needs,
                    "why": each.why,
                    "decisions": [decision_as_dict(decision) for decision in each.decisions],
                }
                for line, each in self.differing
            ],
        }

    def lines(self) -> Iterator[str]:
        """The requests that differ, then the counts."""
        for line, each in self.differing[:_MOST_SHOWN]:
            yield from _differing_lines(line, each)
        if len(self.differing) > _MOST_SHOWN:
            yield f"… and {len(self.differing) - _MOST_SHOWN:,} more; --json shows all"
        if self.differing:
            yield ""
        yield from _summary_lines(self.tally)

    def warnings(self) -> Iterator[str]:
        tally = self.tally
        if tally.other_graph:
            of = f"{tally.other_graph:,} of {tally.requests:,} records"
            yield f"{of} were made by another graph, or before this one was edited"
        if self.unread:
            line, why = self.unread[0]
            lines = "1 line was" if len(self.unread) == 1 else f"{len(self.unread):,} lines were"
            yield f"{lines} left out; line {line}: {why}"


def _differing_lines(line: int, replayed: Replayed) -> Iterator[str]:
    from dynflow.cli.record import decision_lines
    from dynflow.trace import decision_as_dict

    recorded, path = " → ".join(replayed.recorded), " → ".join(replayed.path)
    at = click.style(f"line {line}:", bold=True)
    if replayed.verdict == "untold":
        yield f"{at} {path} → ?  (was {recorded})"
        yield f"  cannot be told: {replayed.why}"
        return
    yield f"{at} {path}  (was {recorded})"
    # The first edge that is another one says why; what follows, follows from it. A walk that ends early has none.
    steps = zip(replayed.decisions, replayed.path[1:], (*replayed.recorded[1:], ""), strict=False)
    first = next((decision for decision, now, then in steps if now != then), None)
    yield from decision_lines([decision_as_dict(first)] if first is not None else [])


def _summary_lines(tally: Tally) -> Iterator[str]:
    counts = [
        f"{tally.verdicts['same']:,} go the same way",
        f"{tally.verdicts['other']:,} another",
        f"{tally.verdicts['untold']:,} cannot be told to the end",
    ]
    if tally.refused:
        counts.append(f"{tally.refused:,} were refused before they walked")
    requests = "1 request" if tally.requests == 1 else f"{tally.requests:,} requests"
    yield click.style(f"{requests}: {', '.join(counts)}", bold=True)
    if tally.walked:
        rows = [("answered by", "then", "now")]
        for name in tally.nodes():
            then, now = (_share(count[name], tally.walked) for count in (tally.recorded_answers, tally.answers))
            rows.append((name or "none, or untold", then, now))
        yield table(rows, "  ")
    if tally.needs:
        needs = ", ".join(f"{name} for {count:,}" for name, count in tally.needs.most_common())
        yield f"  did not run then, and would have to: {needs}"
    if tally.told:
        of = "" if tally.told == tally.walked else f", of the {tally.told:,} that can be told to the end"
        yield f"  cost: {_usd(tally.recorded_usd)} then, {_usd(tally.usd)} now{of}"


def _share(count: int, of: int) -> str:
    return f"{count:,} ({100 * count / of:.3g} %)"


def _usd(usd: float | None) -> str:
    return "unknown" if usd is None else dollars(usd)
