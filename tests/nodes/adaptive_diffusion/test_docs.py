"""docs/diffusion.md: its graph is sound, its tables are of the code."""

from __future__ import annotations

import re
from pathlib import Path

import dynflow
from dynflow.nodes.adaptive_diffusion import AdaptiveDiffusion

PAGE = (Path(__file__).parents[3] / "docs" / "diffusion.md").read_text(encoding="utf-8")


def test_the_graph_is_sound():
    (graph,) = re.findall(r"```yaml\n(version: 1\n.*?)```", PAGE, re.DOTALL)
    assert not dynflow.loads(graph).warnings


def test_every_option_and_port_is_told():
    rows = dict(re.findall(r"^\| `([\w.]+)`.*? \| (.*) \|$", PAGE, re.MULTILINE))
    assert AdaptiveDiffusion.Options.model_fields.keys() <= rows.keys()
    assert AdaptiveDiffusion.ports.keys() <= rows.keys()
