"""docs/early_exit.md: its graphs are sound, its program runs, its tables are of the code."""

import json
import re
from importlib import resources
from pathlib import Path

import pytest

import dynflow
from dynflow.nodes.early_exit_classifier import EarlyExitClassifier, Exit
from dynflow.nodes.early_exit_classifier.criteria import CRITERIA
from tests.nodes.early_exit import tiny

PAGE = (Path(__file__).parents[3] / "docs" / "early_exit.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    tiny.artefact(tmp_path).rename(tmp_path / "my-reviews")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "x" * 8)
    return tmp_path


def test_graphs_are_sound_and_the_first_runs(folder):
    first, second = re.findall(r"```yaml\n(version: 1\n.*?)```", PAGE, re.DOTALL)
    assert dynflow.loads(first, base=folder).invoke("a fine film").label in tiny.LABELS
    assert not dynflow.loads(second, base=folder).warnings


def test_the_program_runs(folder, capsys):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(program, {})
    assert re.fullmatch(r"(\w+ \d\.\d\d after \d of 4 layers\n){2}", capsys.readouterr().out)


def test_tables_are_of_the_code():
    _heading, *rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", PAGE, re.MULTILINE)
    assert rows == [(name, kind.summary) for name, kind in CRITERIA.items()]
    options = re.findall(r"^\| `([\w.]+)` \|", PAGE.split("## Options")[1].split("##")[0], re.MULTILINE)
    exits = [f"exit.{name}" for name in Exit.__annotations__]
    assert sorted(options) == sorted([*EarlyExitClassifier.Options.model_fields, *exits])
    ports = re.findall(r"^\| `(\w+)` \|", PAGE.split("## Ports")[1].split("##")[0], re.MULTILINE)
    assert ports == list(EarlyExitClassifier.ports)


def test_the_schema_has_each_option():
    schema = json.loads(resources.files("dynflow").joinpath("schema/v1.json").read_text("utf-8"))["$defs"]
    assert EarlyExitClassifier.Options.model_fields.keys() <= schema["node.early_exit_classifier"]["properties"].keys()
    assert schema["early_exit_classifier.Exit"]["properties"].keys() == Exit.__annotations__.keys()
