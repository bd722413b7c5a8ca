"""docs/transcribe.md: its graph is the shipped one, and its tables are of the code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from dynflow import graphs, loads
from dynflow.nodes.transcribe import Transcribe
from tests.nodes.transcribe.test_node import text
from tests.nodes.transcribe.tiny import wav

PAGE = (Path(__file__).parents[3] / "docs" / "transcribe.md").read_text(encoding="utf-8")


def test_its_graph_is_the_shipped_one() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert not loads(text).warnings
    shipped = yaml.safe_load(graphs.path("transcribe").read_text(encoding="utf-8"))
    assert {**shipped, "description": None} == {**yaml.safe_load(text), "description": None}


def test_its_code_runs(whispers: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(code, {"flow": loads(text(whispers("target0"))), "data": wav(1.0)})
    assert re.match(r"[\d.]+ [\d.]+ .", capsys.readouterr().out)


def test_every_option_and_port_is_told() -> None:
    first = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    told = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(told) == sorted([*Transcribe.Options.model_fields, *Transcribe.ports])
