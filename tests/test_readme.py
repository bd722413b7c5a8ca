"""The README keeps step with what it shows, and its Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def block(name: str) -> str:
    """What stands between two markers, without the fence."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```\n<!-- /{name} -->", README, re.DOTALL)
    assert found is not None, name
    return found[1]


def test_shows_the_graph_that_the_quickstart_runs() -> None:
    assert block("graph") == (ROOT / "graphs" / "quickstart.yaml").read_text("utf-8").split("\n", 1)[1]


def test_shows_its_drawing() -> None:
    command = [sys.executable, "-m", "dynflow", "draw", "graphs/quickstart.yaml"]
    drawn = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert block("drawing").strip() == drawn.strip()


def test_quickstart_output_shows_both_paths() -> None:
    shown = block("quickstart")
    assert "OPENAI_API_KEY" in shown
    assert "stand_in" in shown
    assert "local" in shown


def test_python_blocks_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    scope: dict[str, object] = {"__name__": "readme"}
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert "Paris" in printed
    assert "['start', 'difficulty'" in printed
