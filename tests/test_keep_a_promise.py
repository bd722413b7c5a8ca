"""The README's section "Keep a promise" is run as it is written, with the embedded models.

So that it takes seconds, most of what it collects is taken from an earlier run: the batch goes on from there and really
asks the models for the rest. `make soak` begins with nothing.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import dynflow
from dynflow import graphs
from dynflow.testing import FakeChat
from tests.effort import EFFORT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
_EACH = 27
"""One row of so many is collected anew."""
_SAMPLE = 40
"""Rows that the section collects first."""


@pytest.fixture(scope="module")
def section() -> ModuleType:
    """The script that runs the section, which also makes the README."""
    spec = importlib.util.spec_from_file_location("keep_a_promise", ROOT / "scripts" / "keep_a_promise.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shape(output: str) -> list[str]:
    """What a command prints but for its figures and for what was finished earlier: another machine has others."""
    lines = [line for line in output.splitlines() if "were finished earlier" not in line]
    masked = (re.sub(r"\d[\d,]*(\.\d+)?(e-\d+)?", "#", line) for line in lines)
    return [" ".join(re.sub(r"# (s|min)\b", "# time", line).split()) for line in masked]


def test_as_written(section: ModuleType, tmp_path: Path) -> None:
    section.prepare(tmp_path)
    target = tmp_path / "outcomes.jsonl"
    recorded = section.OUTCOMES.read_text("utf-8").splitlines(keepends=True)
    kept = ["" if EFFORT > 1 or place % _EACH == 0 else line for place, line in enumerate(recorded)]
    outputs: list[str] = []
    for (command, shown), (_, printed) in zip(section.steps(README), section.run(README, tmp_path), strict=True):
        assert shape(printed) == shape(shown), command
        if printed.startswith("error[too_little_data]"):
            with target.open("a", encoding="utf-8") as file:
                file.writelines(kept[_SAMPLE:])
        elif command.startswith("cp "):
            target.write_text("".join(kept[:_SAMPLE]), "utf-8")
        outputs.append(printed)
    assert any(output.startswith("error[too_little_data]") for output in outputs)
    rows = target.read_text("utf-8").splitlines()
    assert len(rows) == len(recorded) == len((tmp_path / "questions.jsonl").read_text("utf-8").splitlines())
    calibration = json.loads((tmp_path / "route.calibration.json").read_text("utf-8"))
    assert calibration["bound"]["value"] >= calibration["bound"]["limit"]
    assert calibration["expected"]["strong_share"]["value"] < 0.9
    assert f"params.easy_below = {calibration['params']['easy_below']:.4g}" in outputs[-1]  # the promise is in use


def test_the_pair_is_what_the_readme_says_of_it(section: ModuleType) -> None:
    """`cloud` is really the better one, and all that it is ahead by is longer answers."""
    rows = [json.loads(line)["outcomes"] for line in section.OUTCOMES.read_text("utf-8").splitlines()]
    local, cloud = (sum(row[name]["quality"] for row in rows) / len(rows) for name in ("local", "cloud"))
    assert cloud > local + 0.2
    assert {row[name]["model"] for row in rows for name in row} == {"embedded/smollm2-135m-instruct"}
    assert max(row["local"]["tokens"]["output"] for row in rows) <= 6
    assert max(row["cloud"]["tokens"]["output"] for row in rows) <= 20


def test_the_graph_degrades_to_a_short_answer() -> None:
    models = {"large": FakeChat(fail_with=TimeoutError("too slow")), "small": FakeChat(replies=["short"])}
    flow = dynflow.load(graphs.path("route"), models=models)
    result = flow.run("Why?", {"configurable": {"easy_below": 0.0}})
    assert result.trace.path == ["start", "difficulty", "cloud", "local", "end"]
    assert result.trace.degraded
    assert result.value.text == "short"
