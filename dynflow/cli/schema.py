"""`dynflow schema`: the language as a JSON Schema, for editors."""

from __future__ import annotations

import json

import click


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of graph files.

    It holds the options of all installed node types. An editor with YAML support completes and checks a graph whose
    first line is `# yaml-language-server: $schema=dynflow.schema.json`.

    \b
    Examples:
      dynflow schema > dynflow.schema.json
    """
    from dynflow.language.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
