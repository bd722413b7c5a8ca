"""docs/transcribe.md: its graph is the shipped one, and its tables are of the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from dynflow import graphs, loads
from dynflow.nodes.transcribe import Transcribe

PAGE = (Path(__file__).parents[3] / "docs" / "transcribe.md").read_text(encoding="utf-8")


def test_its_graph_is_the_shipped_one() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert not loads(text).warnings
    shipped = yaml.safe_load(graphs.path("transcribe").read_text(encoding="utf-8"))
    assert {**shipped, "description": None} == {**yaml.safe_load(text), "description": None}


def test_every_option_and_port_is_told() -> None:
    first = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    told = [name for cell in first for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(told) == sorted([*Transcribe.Options.model_fields, *Transcribe.ports])
