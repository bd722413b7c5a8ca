"""`dynflow batch --all-paths`: outcomes from the command line."""

from __future__ import annotations

import json

import pytest

from tests.cli.outcomes import GRAPH

ROWS = [{"id": row, "input": "abc " * row, "reference": "thorough"} for row in range(1, 6)]


@pytest.fixture
def files(write):
    source = write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))
    return write("graph.yaml", GRAPH), source, source.replace("rows.jsonl", "outcomes.jsonl")


def test_collects_tells_and_goes_on(invoke, files):
    graph, source, target = files
    command = ("batch", graph, "-i", source, "-o", target, "--all-paths", "--grade", "exact")
    result = invoke(*command, "--sample", "3")
    assert result.exit_code == 0
    collected, cost, header, brief, thorough, _ = result.stdout.splitlines()
    assert collected == "3 of 3 rows collected"
    assert cost.startswith("cost $0 · ")
    assert header == "            quality  USD per row  seconds  failed"
    assert (brief.split()[:3], brief.split()[-1]) == (["brief", "0.000", "$0"], "0")
    assert thorough.split()[:3] == ["thorough", "1.000", "$0"]
    assert f"next: dynflow evaluate {graph} --outcomes {target}" in result.stdout
    again = invoke(*command, "--json")
    assert "3 of 5 rows were finished earlier" in again.stderr
    told = json.loads(again.stdout)
    assert (told["rows"], told["earlier"], told["finished"]) == (5, 3, 5)
    assert told["nodes"]["thorough"]["quality"] == 1
    evaluated = invoke("evaluate", graph, "--outcomes", target, "--json")
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(evaluated.stdout)["n"] == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--grade", "exact"], "--grade goes with --all-paths"),
        (["--sample", "3"], "--sample goes with --all-paths"),
        (["--judge-prompt", __file__], "--judge-prompt goes with --all-paths"),
        (["--usd", "3"], "--usd goes with --all-paths"),
        (["--seed", "0"], "--seed goes with --all-paths"),
        (["--all-paths"], "--all-paths needs --grade"),
        (["--all-paths", "--grade", "exact", "--usd", "nan"], "nan is no finite number"),
        (["--all-paths", "--grade", "exact", "--trace", "t.jsonl"], "--trace records walks"),
    ],
)
def test_wrong_usage(invoke, files, options, said):
    graph, source, target = files
    result = invoke("batch", graph, "-i", source, "-o", target, *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_faults_are_told_in_words(invoke, files, write):
    graph, source, target = files
    command = ("batch", graph, "-i", source, "-o", target, "--all-paths", "--grade")
    for grader, said in [("exakt", "did you mean 'exact'"), ("number", ":1: a reference is one number here")]:
        result = invoke(*command, grader)
        assert result.exit_code == 1
        assert said in result.stderr
        assert "Traceback" not in result.stderr


def test_a_failed_row_and_a_stop_have_exit_codes_of_their_own(invoke, files, write):
    _, source, target = files
    models = "models:\n  m: {provider: litellm, model: openai/none, api_key: '${env:DYNFLOW_NO_SUCH_KEY}'}\n"
    text = GRAPH.replace("nodes:\n", f"{models}nodes:\n", 1).replace("limits: {usd_per_request: 0.02}\n", "")
    text = text.replace('{type: prompt, role: answer, template: "thorough"}', "{type: chat, model: m}")
    stopped = invoke("batch", write("paid.yaml", text), "-i", source, "-o", target, "--all-paths", "--grade", "exact")
    assert stopped.exit_code == 3
    assert "DYNFLOW_NO_SUCH_KEY" in stopped.stderr
    assert "5 of 5 rows are left; the same command goes on with them" in stopped.stderr
    assert "next:" not in stopped.stdout
    long = GRAPH.replace("limits: {", "limits: {max_input_tokens: 3, ")
    failed = invoke("batch", write("short.yaml", long), "-i", source, "-o", target, "--all-paths", "--grade", "exact")
    assert failed.exit_code == 1
    assert "of them with a failure (invalid" in failed.stdout
