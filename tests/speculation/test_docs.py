"""docs/speculative.md: its graph is sound, and its tables are of the code."""

from __future__ import annotations

import re
from pathlib import Path

import dynflow
from dynflow.nodes.chat import Chat
from dynflow.nodes.speculative_generator import _DRAFTERS, SpeculativeGenerator
from dynflow.speculation.asked import DRAFTERS

PAGE = (Path(__file__).parents[2] / "docs" / "speculative.md").read_text(encoding="utf-8")


def test_its_graph_is_sound() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert not dynflow.loads(text).warnings


def test_it_lists_all_options_and_drafters() -> None:
    first = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    own = SpeculativeGenerator.Options.model_fields.keys() - Chat.Options.model_fields.keys()
    assert sorted(first) == sorted([*own, *DRAFTERS])


def test_it_says_which_engine_has_which_drafter() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (yes|no) \| (yes|no) \|$", PAGE, re.MULTILINE)
    for engine, column in (("llama_cpp", 1), ("transformers", 2)):
        assert {row[0] for row in rows if row[column] == "yes"} == _DRAFTERS[engine]
