"""docs/cli.md names every verb and option, and shows what the commands really print."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from dynflow.cli.app import VERBS, cli

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_option_is_documented(verb):
    _, begin, rest = DOC.partition(f"\n## {verb}\n")
    section = rest.partition("\n## ")[0]
    assert begin
    assert f"`dynflow {verb}" in section
    assert f"[`{verb}`](#{verb})" in DOC
    command = cli.get_command(click.Context(cli), verb)
    parts = command.commands.values() if isinstance(command, click.Group) else [command]
    options = [name for part in parts for param in part.params for name in param.opts if name.startswith("--")]
    assert [name for name in options if name not in section and name != "--output"] == []


def test_exact_examples_are_exact(invoke, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "graphs", tmp_path / "graphs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    blocks = re.findall(r"<!-- exact -->\n```console\n(.*?)```", DOC, re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, expected = step.partition("\n")
            if line.startswith("sed "):
                _, change, source, _, target = shlex.split(line)
                _, old, new, _ = change.split("/")
                Path(target).write_text(Path(source).read_text("utf-8").replace(old, new), encoding="utf-8")
                continue
            result = invoke(*shlex.split(line.removeprefix("OPENAI_API_KEY=none "))[1:])
            assert (result.stdout + result.stderr).rstrip("\n") == expected.rstrip("\n"), line
