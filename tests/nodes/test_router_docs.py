"""docs/routing.md shows what is really printed, and graphs that are sound; the shipped graph uses all its routes."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import dynflow
from dynflow import graphs
from dynflow.cli.app import cli
from dynflow.cli.explain import explain
from dynflow.compile import check_text

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "routing.md").read_text(encoding="utf-8")
GRAPH = graphs.path("n_models")


def test_graphs_of_the_page_are_sound() -> None:
    blocks = re.findall(r"```yaml\n(version: 1\n.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        source, graph = check_text(block)
        assert graph is not None
        assert {problem.code for problem in source.sorted()} <= {"missing_environment"}


def test_what_the_page_shows_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    question, shown = re.findall(
        r'```console\n\$ dynflow explain graphs/n_models.yaml "(.*?)"\n(.*?)```', PAGE, re.DOTALL
    )[0]
    result = CliRunner().invoke(cli, ["explain", "graphs/n_models.yaml", question])
    assert result.stdout == shown


def test_each_route_of_the_shipped_graph_is_taken() -> None:
    flow = dynflow.load(GRAPH)

    def way(**params: float) -> str:
        return click.unstyle(next(explain(flow, "What is the capital of France?", params)))

    assert way(floor=0.0) == "start → difficulty → route → quick"
    assert way(floor=1.0) == "start → difficulty → route → cloud"
    assert way(sure_from=1.0) == "start → difficulty → route → careful"
