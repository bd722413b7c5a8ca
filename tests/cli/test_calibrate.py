"""`dynflow calibrate`: writes params that keep a promise, or says why there are none; loading applies them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import dynflow
from tests.cli.conftest import Invoke
from tests.cli.outcomes import GRAPH, outcomes, write_rows

Write = Callable[[str, str], str]


def test_a_promise_is_written_told_and_applied(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    graph, file = write("g.yaml", GRAPH), write_rows(tmp_path / "o.jsonl", outcomes())
    result = invoke("calibrate", graph, "--outcomes", file, "--quality", "0.9", "--of", "thorough")
    assert result.exit_code == 0, result.output
    assert (
        "on new requests drawn like these, mean quality is at least 90 % of thorough's, "
        "unless this calibration was among the unlucky 10 %"
    ) in result.stdout
    assert "tested on" in result.stdout
    written = json.loads((tmp_path / "g.calibration.json").read_text())
    assert written["promise"] == {"kind": "quality_of", "target": 0.9, "of": "thorough", "confidence": 0.9}
    flow = dynflow.load(graph)
    assert flow.params["short_below"].default == written["params"]["short_below"] != 20
    checked = invoke("check", graph)
    assert "calibrated" in checked.stdout


def test_json_and_dry_run(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    graph, file = write("g.yaml", GRAPH), write_rows(tmp_path / "o.jsonl", outcomes())
    result = invoke("calibrate", graph, "--outcomes", file, "--share", "0.5", "--dry-run", "--json")
    assert json.loads(result.stdout)["expected"]["strong_share"]["value"] <= 0.5
    assert not (tmp_path / "g.calibration.json").exists()


def test_conversations_are_counted(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    rows = [{**row, "conversation": row["id"] // 2} for row in outcomes(600)]
    graph, file = write("g.yaml", GRAPH), write_rows(tmp_path / "o.jsonl", rows)
    result = invoke("calibrate", graph, "--outcomes", file, "--share", "0.6")
    assert "on the first 2 requests of new conversations drawn like these, at most 60 % call thorough" in result.stdout
    made = json.loads((tmp_path / "g.calibration.json").read_text())
    assert made["n"] + made["tuning_rows"] == 300
    assert made["requests"] == 2 * made["n"]
    assert f"tested on {made['n']} conversations of {made['requests']} requests; " in result.stdout
    once = invoke("calibrate", graph, "--outcomes", file, "--share", "0.6", "--turns", "1", "--json", "--dry-run")
    assert json.loads(once.stdout)["requests"] == made["n"]
    told = json.loads(invoke("evaluate", graph, "--outcomes", file, "--json").stdout)
    assert (told["n"], told["requests"]) == (300, 600)
    assert "300 conversations of 600 requests" in invoke("evaluate", graph, "--outcomes", file).stdout


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ((), 2, "give one promise"),
        (("--quality", "0.9", "--share", "0.5"), 2, "give one promise"),
        (("--quality", "1.5"), 2, "range"),
        (("--quality", "nan"), 2, "nan is no finite number"),
        (("--usd", "inf"), 2, "inf is no finite number"),
        (("--share", "0.5", "--confidence", "nan"), 2, "nan is no finite number"),
        (("--mean-quality", "0.99"), 1, "error[broken_promise]"),
        (("--quality", "0.999"), 1, "error[too_little_data]"),
    ],
)
def test_what_cannot_be_promised_is_said(
    invoke: Invoke, write: Write, tmp_path: Path, options: tuple[str, ...], code: int, told: str
) -> None:
    file = write_rows(tmp_path / "o.jsonl", outcomes())
    result = invoke("calibrate", write("g.yaml", GRAPH), "--outcomes", file, *options)
    assert result.exit_code == code
    assert told in result.stderr
    assert not (tmp_path / "g.calibration.json").exists()


def test_check_warns_of_one_that_is_out_of_date(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    graph, file = write("g.yaml", GRAPH), write_rows(tmp_path / "o.jsonl", outcomes())
    assert invoke("calibrate", graph, "--outcomes", file, "--quality", "0.9").exit_code == 0
    write("g.yaml", GRAPH.replace("max: 100", "max: 90"))
    result = invoke("check", graph)
    assert result.exit_code == 0
    assert "warning[calibration]" in result.stdout
    assert "calibrate again" in result.stdout
    found = json.loads(invoke("check", graph, "--format", "json").stdout)
    assert [problem["code"] for problem in found["files"][0]["problems"]] == ["calibration"]


def test_check_warns_of_requests_that_are_not_like_those_calibrated_on(
    invoke: Invoke, write: Write, tmp_path: Path
) -> None:
    text = GRAPH.replace("nodes:\n", "nodes:\n  difficulty: {type: difficulty_classifier, estimator: surface}\n")
    old = "from: start, to: brief, when: input.tokens < params.short_below"
    assert old in text
    text = text.replace(old, "from: start, to: difficulty")
    old = "{from: start, to: thorough}"
    new = "{from: difficulty, to: brief, when: 100 * difficulty.score < params.short_below}"
    text = text.replace(old, f"{new}\n  - {{from: difficulty, to: thorough}}")
    graph, file = write("g.yaml", text), write_rows(tmp_path / "o.jsonl", outcomes())
    assert invoke("calibrate", graph, "--outcomes", file, "--quality", "0.8").exit_code == 0
    for name, prompts in (("same", [row["prompt"] for row in outcomes(120)]), ("other", ["Prove that 2 > 1."] * 120)):
        traces = tmp_path / f"{name}.jsonl"
        for prompt in prompts:
            dynflow.load(graph, trace=traces).invoke(prompt)
        result = invoke("check", graph, "--traces", str(traces))
        assert result.exit_code == 0
        assert ("warning[drift]: difficulty.score of 120 new requests" in result.stdout) == (name == "other")


def test_a_param_that_nothing_reads_cannot_be_calibrated(invoke: Invoke, write: Write, tmp_path: Path) -> None:
    spare = "params:\n  spare: {default: 0.5, min: 0, max: 1, tune: true}\n"
    graph, file = write("g.yaml", GRAPH.replace("params:\n", spare)), write_rows(tmp_path / "o.jsonl", outcomes())
    result = invoke("calibrate", graph, "--outcomes", file, "--quality", "0.9")
    assert result.exit_code == 1
    assert "error[no_knob]" in result.stderr
    assert "'spare'" in result.stderr
