"""`dynflow new`: a commented graph to start from."""

from __future__ import annotations

from pathlib import Path

import click

from dynflow.cli.terminal import write_whole

STARTER = """\
# A graph: each request walks from `start` to `end`; at each node the first edge whose `when` is true is taken.
#   dynflow check {file}
#   dynflow explain {file} "What is the capital of France?"
#   dynflow run {file} "What is the capital of France?"
version: 1
name: {name}
description: Easy questions are answered on this machine, hard ones by the cloud.

params:                         # the knobs; set one for a request with --set easy_below=0.3
  easy_below: {{default: 0.5, min: 0, max: 1, help: a question that scores less stays on this machine}}

models:
  small:                        # runs in this process; `dynflow models` says how to install it
    provider: llama_cpp
    model: embedded/smollm2-135m-instruct
    temperature: 0
    max_tokens: 160
  large:                        # any model that litellm knows: needs pip install "dynflow[litellm]" and its key
    provider: litellm
    model: openai/gpt-5-mini
    api_key: ${{env:OPENAI_API_KEY}}
    max_tokens: 2000
    price: {{input: 0.25, output: 2.00}}    # USD per million tokens; without it, litellm's list is asked

nodes:                          # `dynflow nodes` lists the types, `dynflow nodes chat` explains one
  difficulty:                   # a signal: it measures, from 0 (easy) to 1 (hard)
    type: difficulty_classifier
  local:                        # an answer
    type: chat
    model: small
    system: You are a helpful assistant. Answer in one short sentence.
  cloud:
    type: chat
    model: large
    timeout: 60s
  stand_in:                     # answers when the cloud cannot; the result is then marked degraded
    type: chat
    model: small
    system: You are a helpful assistant. Answer in one short sentence.

edges:                          # order matters; the edge without `when` is the default and comes last
  - {{from: start, to: difficulty}}
  - {{from: difficulty, to: local, when: difficulty.failed or difficulty.score < params.easy_below}}
  - {{from: difficulty, to: cloud}}
  - {{from: local, to: end}}
  - {{from: cloud, to: stand_in, when: cloud.failed}}
  - {{from: cloud, to: end}}
  - {{from: stand_in, to: end}}

limits:
  timeout: 120s

baseline: cloud                 # savings are told against always asking the cloud
"""


@click.command("new")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=Path("graph.yaml"))
def command(file: Path) -> None:
    """Write a commented graph to start from.

    FILE is graph.yaml unless given. An existing file is never overwritten.

    \b
    Examples:
      dynflow new
      dynflow new support.yaml
    """
    if file.exists():
        raise click.ClickException(f"{file} exists already; give another name: dynflow new <file>")
    write_whole(file, STARTER.format(file=file, name=file.stem.replace("-", "_")).encode())
    click.echo(f"wrote {file}; try: dynflow run {file} 'What is the capital of France?'")
