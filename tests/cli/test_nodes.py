from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
import yaml
from click.testing import CliRunner
from pydantic import Field

from dynflow.cli.app import cli
from dynflow.cli.examples import example_of
from dynflow.cli.nodes import describe
from dynflow.language.references import parse_reference
from dynflow.node import Node, NodeOptions, Output, node_type, node_types

BUILT_IN = [point.name for point in entry_points(group="dynflow.nodes") if point.value.startswith("dynflow.")]


class Custom(Node):
    type = "custom"
    summary = "does as it likes"
    extra = "custom"

    class Options(NodeOptions):
        folder: str = Field(description="where")
        limit: float
        wanted: list[int] = Field(default_factory=list)
        loud: bool = False

    ports: ClassVar[Any] = {}

    def run(self, call):
        return Output()


def test_every_type_is_listed(invoke):
    result = invoke("nodes")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:-2]] == list(node_types())


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_type_is_described(invoke, name):
    result = invoke("nodes", name)
    assert result.exit_code == 0
    cls = node_type(name)
    assert cls.summary in result.stdout
    for option, field in cls.Options.model_fields.items():
        assert f"  {field.alias or option} " in result.stdout
    for port in cls.ports:
        assert f"  {name}.{port} " in result.stdout
    assert "any  " not in result.stdout.split("ports of every node")[0].split("\nports")[0], (
        "an option's type has no words"
    )


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_example_fits_its_type(name):
    ((_, example),) = yaml.safe_load(example_of(node_type(name))).items()
    assert example.pop("type") == name
    for common in ("timeout", "on_failure"):
        example.pop(common, None)
    node_type(name).Options.model_validate({key: _read(value) for key, value in example.items()})


def test_a_type_that_cannot_be_loaded(invoke, monkeypatch):
    monkeypatch.setattr("dynflow.node.node_types", lambda: ("broken",))
    monkeypatch.setattr("dynflow.node.node_type", Mock(side_effect=ModuleNotFoundError("No module named 'absent'")))
    result = invoke("nodes", "broken")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: the node type 'broken' cannot be loaded: No module named 'absent'; install what its package needs\n"
    )
    assert "cannot be loaded: No module named 'absent'" in invoke("nodes").stdout


def _read(value):
    return (parse_reference(value) if isinstance(value, str) else None) or value


def test_a_foreign_type_gets_an_example_of_what_it_requires():
    assert example_of(Custom) == "my_custom:\n  type: custom\n  folder: …\n  limit: 0.5"
    text = "\n".join(describe(Custom))
    assert 'needs: pip install "dynflow[custom]"' in text
    assert "  folder  text             where; required" in text
    assert "  wanted  list of integer" in text
    assert "  loud    true or false    default: false" in text


def test_an_unknown_type_is_guessed(invoke):
    result = invoke("nodes", "rooter")
    assert result.exit_code == 2
    assert "did you mean 'router'?" in " ".join(result.stderr.split())


def test_types_are_completed():
    environment = {"_DYNFLOW_COMPLETE": "bash_complete", "COMP_WORDS": "dynflow nodes ro", "COMP_CWORD": "2"}
    assert CliRunner(env=environment).invoke(cli, prog_name="dynflow").stdout == "plain,router\n"
