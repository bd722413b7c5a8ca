"""Runs the README's section "Keep a promise" as it is written there: its commands, one after the other, in a folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTCOMES = ROOT / "tests" / "keep_a_promise.jsonl"
"""The outcomes that the section collected when the README was made; tests collect a few of them anew."""
_BEGIN, _END = "<!-- promise -->\n```console\n", "```\n<!-- /promise -->"
_NEEDS = ("graphs/route.yaml", "examples/questions.jsonl")
_PROGRESS = re.compile(r"\[[#-]|\w+ on [\d,]+ requests")
"""How lines begin that only tell how far a command is: the README does not show them."""


def steps(readme: str) -> list[tuple[str, str]]:
    """Each command of the section with what the README says it prints."""
    block = readme.partition(_BEGIN)[2].partition(_END)[0]
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, output.strip()) for command, _, output in (part.partition("\n") for part in parts)]


def prepare(folder: Path) -> None:
    """Put what the section begins with into an empty folder."""
    for name in _NEEDS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)


def run(readme: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Each command of the section with what it prints now, without progress; no key is in its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["DYNFLOW_STATE"] = str(folder / "state")
    for command, _ in steps(readme):
        whole = ["sh", "-c", f"{command} 2>&1"]
        done = subprocess.run(whole, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)
        shown = [line for line in done.stdout.splitlines() if not _PROGRESS.match(line)]
        yield command, "\n".join(shown).strip()


def block(results: list[tuple[str, str]]) -> str:
    """The section's code block."""
    return "\n\n".join(f"$ {command}\n{output}".rstrip() for command, output in results)
