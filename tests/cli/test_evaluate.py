"""`dynflow evaluate`: a table for people, JSON for programs, faults with their lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Invoke
from tests.cli.outcomes import GRAPH, outcomes, write_rows

Write = Callable[[str, str], str]
WANTED = ("apgr", "cpt50", "cpt80", "quality", "usd", "strong_share")


def test_json_has_every_figure_with_its_interval(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "o.jsonl", outcomes())
    result = invoke("evaluate", write("g.yaml", GRAPH), "--outcomes", file, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["n"] == 400
    assert (found["strong"], found["weak"]) == ("thorough", "brief")
    for name in WANTED:
        figure = found[name]
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert 0.5 < found["apgr"]["value"] < 1
    assert found["baselines"].keys() == {"random", "prompt_length", "oracle", "always_weak", "always_strong"}
    assert found["curve"][0]["strong_share"] == 1
    again = invoke("evaluate", write("g.yaml", GRAPH), "--outcomes", file, "--json")
    assert again.stdout == result.stdout


def test_the_table_shows_them_too(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "o.jsonl", outcomes())
    result = invoke("evaluate", write("g.yaml", GRAPH), "--outcomes", file)
    assert result.exit_code == 0, result.output
    for told in ("400 rows", "short_below = 20", "share of thorough", "APGR", "oracle", "always brief"):
        assert told in result.stdout


def test_outcomes_are_bound_and_params_set(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "o.jsonl", outcomes(names=("weak", "strong")))
    graph = write("g.yaml", GRAPH)
    missing = invoke("evaluate", graph, "--outcomes", file)
    assert missing.exit_code == 1
    assert "--outcome weak=brief" in missing.stderr
    bound = ("--outcome", "weak=brief", "--outcome", "strong=thorough")
    result = invoke("evaluate", graph, "--outcomes", file, *bound, "--set", "short_below=0", "--json")
    assert json.loads(result.stdout)["strong_share"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert invoke("evaluate", graph, "--outcomes", file, "--outcome", "weak").exit_code == 2
    assert invoke("evaluate", graph, "--outcomes", file, *bound, "--seed", "-1").exit_code == 2
    twice = invoke("evaluate", graph, "--outcomes", file, *bound, "--outcome", "weak=thorough")
    assert twice.exit_code == 2
    assert "'weak' are bound to 'brief' already" in twice.stderr


def test_a_misspelt_name_of_outcomes_is_noted(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    rows = outcomes()
    for row in rows:
        row["outcomes"] |= {"thoruogh": row["outcomes"]["thorough"], "other": row["outcomes"]["thorough"]}
    result = invoke("evaluate", write("g.yaml", GRAPH), "--outcomes", write_rows(tmp_path / "o.jsonl", rows), "--json")
    assert json.loads(result.stdout)["notes"] == ["no node has the outcomes of 'thoruogh' (did you mean 'thorough'?)"]


def test_every_bad_line_is_listed(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    rows = outcomes(10)
    rows[2]["outcomes"]["brief"]["quality"] = 7
    del rows[5]["outcomes"]["thorough"]
    file = write_rows(tmp_path / "o.jsonl", rows)
    result = invoke("evaluate", write("g.yaml", GRAPH), "--outcomes", file)
    assert result.exit_code == 1
    assert f"{file}:3: the quality of 'brief' is a number from 0 to 1, not 7" in result.stderr
    rows[2]["outcomes"]["brief"]["quality"] = 1
    result = invoke("evaluate", write("g.yaml", GRAPH), "--outcomes", write_rows(tmp_path / "o.jsonl", rows))
    assert f"{file}:6: no outcome of 'thorough'" in result.stderr
    assert not result.stdout
