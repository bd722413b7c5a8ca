"""The command line in this process, and small graphs that need no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dynflow.cli.app import cli

CANNED = """\
version: 1
name: canned
params:
  long_from: {default: 8, min: 1, max: 1000}
  loud: false
  greeting: Hello
nodes:
  short:
    type: prompt
    role: answer
    template: "short: {input}"
  long:
    type: prompt
    role: answer
    template: "{greeting}, long: {input}"
    with:
      greeting: ${params.greeting}
edges:
  - {from: start, to: long, when: input.tokens >= params.long_from or params.loud}
  - {from: start, to: short}
  - {from: short, to: end}
  - {from: long, to: end}
"""

Invoke = Callable[..., Result]


@pytest.fixture
def invoke() -> Invoke:
    def call(*args: str, stdin: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, list(args), input=stdin)

    return call


@pytest.fixture
def canned(tmp_path: Path) -> str:
    path = tmp_path / "canned.yaml"
    path.write_text(CANNED, encoding="utf-8")
    return str(path)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
