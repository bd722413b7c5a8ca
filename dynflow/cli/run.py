"""`dynflow run`: one request through a graph; the answer, and why it took that path."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynflow.cli.arguments import (
    graph_argument,
    input_argument,
    read_params,
    read_request,
    set_option,
    trace_options,
    tracing,
)

if TYPE_CHECKING:
    from dynflow.flow import Flow


@click.command("run")
@graph_argument
@input_argument
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: value, trace, ledger.")
@click.option("--stream", is_flag=True, help="Print the answer as it comes.")
@click.option(
    "--output", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write the answer to this file."
)
@trace_options
def command(
    graph: str,
    input: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    stream: bool,
    output: Path | None,
    trace: str | None,
    trace_content: bool,
) -> None:
    """Send one request through a graph.

    The answer goes to standard output. The path with its numbers, the tokens, time, cost and saving go to standard
    error, so that a pipe gets the answer alone. INPUT is read from standard input where it is `-`, or left out in a
    pipe. A graph that declares `inputs:` also takes a JSON object with those keys and `input`; to one that transcribes,
    INPUT may be the path of a recording. An image goes to a file or a pipe, not to a terminal.

    \b
    Examples:
      dynflow run graph.yaml "What is the capital of France?"
      dynflow run graph.yaml --set easy_below=0.3 --stream "Prove that 7 is prime."
      cat question.txt | dynflow run graph.yaml > answer.txt
      dynflow run graph.yaml --json "Hello" | jq .ledger.usd
      dynflow run graph.yaml --trace decisions.jsonl "Hello"
      dynflow run pictures.yaml "two red circles" --output circles.png
      dynflow run transcribe.yaml talk.wav
    """
    if as_json + stream + (output is not None) > 1:
        raise click.UsageError("give one of --json, --stream and --output")
    if output is not None and not output.absolute().parent.is_dir():
        raise click.UsageError(f"there is no folder {output.parent}")
    from dynflow.loading import load

    with tracing(trace, trace_content) as file:
        flow = load(graph, trace=file)
        config = {"configurable": read_params(settings, flow.params)}
        _run(flow, read_request(input, flow), config, as_json=as_json, stream=stream, output=output)


def _run(flow: Flow, request: Any, config: Any, *, as_json: bool, stream: bool, output: Path | None) -> None:
    from dynflow.answers import finite, plain_answer
    from dynflow.cli.record import render_record

    if as_json:
        result = flow.run(request, config)
        trace, ledger = result.trace.as_dict(), result.ledger.as_dict()
        whole = finite({"value": plain_answer(result.value), "trace": trace, "ledger": ledger})
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False, default=str))
        return
    if stream and _streams(flow):
        record = _print_stream(flow, request, config)
    else:
        result = flow.run(request, config)
        _give(result.value, output)
        record = result.metadata()
    sys.stdout.flush()
    click.echo(f"\n{render_record(record)}", err=True)


def _give(value: Any, output: Path | None) -> None:
    """The answer to the file, or to standard output: an image as it is, anything else as text."""
    from dynflow.answers import image_of, plain_answer

    image = image_of(value)
    if image is None:
        shown = plain_answer(value)
        text = shown if isinstance(shown, str) else json.dumps(shown, indent=2, ensure_ascii=False, default=str)
        if output is None:
            click.echo(text)
        else:
            output.write_text(f"{text}\n", encoding="utf-8")
    elif output is not None:
        output.write_bytes(image)
    elif sys.stdout.isatty():
        click.echo(f"an image of {len(image):,} bytes: give --output FILE to keep it")
    else:
        sys.stdout.buffer.write(image)


def _streams(flow: Flow) -> bool:
    """Whether every answer is a message, so that a stream carries its record; others come in one piece anyway."""
    from langchain_core.messages import AIMessage

    return flow.OutputType is AIMessage


def _print_stream(flow: Flow, request: Any, config: Any) -> Mapping[str, Any]:
    """Print the text chunk by chunk; the record comes with the last one."""
    from dynflow.closing import closing
    from dynflow.errors import StreamInterrupted
    from dynflow.trace import METADATA_KEY

    record: Mapping[str, Any] = {}
    with closing(flow.stream(request, config)) as chunks:
        try:
            for chunk in chunks:
                click.echo(str(chunk.text), nl=False)
                sys.stdout.flush()
                record = chunk.response_metadata.get(METADATA_KEY, record)
        except (StreamInterrupted, KeyboardInterrupt):
            click.echo()  # the partial answer stands on a line of its own
            raise
    click.echo()
    return record
