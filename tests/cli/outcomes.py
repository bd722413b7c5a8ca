"""A graph that needs no model, and outcomes of its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GRAPH = """\
version: 1
name: by_length
params:
  short_below: {default: 20, min: 0, max: 100, tune: true}
nodes:
  brief: {type: prompt, role: answer, template: "brief"}
  thorough: {type: prompt, role: answer, template: "thorough"}
edges:
  - {from: start, to: brief, when: input.tokens < params.short_below}
  - {from: start, to: thorough}
  - {from: brief, to: end}
  - {from: thorough, to: end}
limits: {usd_per_request: 0.02}
baseline: thorough
"""


def outcomes(count: int = 400, names: tuple[str, str] = ("brief", "thorough")) -> list[dict[str, Any]]:
    """Requests that the brief answer serves the worse, the longer they are."""
    rng = np.random.default_rng(3)
    words = rng.integers(1, 90, count)
    brief = rng.random(count) < 1 - words / 120
    thorough = rng.random(count) < 0.95
    return [
        {
            "id": row,
            "prompt": "abc " * int(words[row]),
            "outcomes": {
                names[0]: {"quality": int(brief[row]), "usd": 0.0},
                names[1]: {"quality": int(thorough[row]), "usd": 0.01},
            },
        }
        for row in range(count)
    ]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a file; its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
