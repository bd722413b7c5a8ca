"""`dynflow replay`, and the `--trace` of `dynflow run` that it reads."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.records import records

LONG = "a question that is long, with many more words than eight tokens"


@pytest.fixture
def traced(invoke, canned, tmp_path) -> str:
    trace = tmp_path / "decisions.jsonl"
    for question in ("Hi", LONG):
        assert invoke("run", canned, question, "--trace", str(trace)).exit_code == 0
    return str(trace)


def test_run_writes_a_record_without_content(traced):
    first, second = records(Path(traced))
    assert (first["answer"], second["answer"]) == ("short", "long")
    assert "Hi" not in Path(traced).read_text("utf-8")
    assert "question" not in Path(traced).read_text("utf-8")
    assert stat.S_IMODE(Path(traced).stat().st_mode) == 0o600


@pytest.mark.parametrize("extra", [["--json"], ["--stream"], []])
def test_run_writes_content_where_it_is_asked_to(invoke, canned, tmp_path, extra):
    invoke("run", canned, "Hi", "--trace", str(tmp_path / "t"), "--trace-content", *extra)
    (record,) = records(tmp_path / "t")
    assert record["content"]["request"] == "Hi"
    assert record["content"]["answer"]["data"]["content"] == "short: Hi"


def test_a_failed_run_is_recorded(invoke, canned, tmp_path):
    assert invoke("run", canned, " ", "--trace", str(tmp_path / "t")).exit_code == 1
    assert [record["outcome"] for record in records(tmp_path / "t")] == ["failed"]


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(invoke, canned, tmp_path):
    result = invoke("run", canned, "Hi", "--trace", str(tmp_path / "none" / "t"))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"error: {tmp_path / 'none' / 't'}: No such file or directory\n"
    assert invoke("run", canned, "Hi", "--trace-content").exit_code == 2


def test_lost_records_are_told_of(canned):
    command = [sys.executable, "-m", "dynflow", "run", canned, "Hi", "--trace", "/dev/full"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "short: Hi\n"
    assert done.stderr.splitlines()[-1] == "warning: 1 record could not be written to /dev/full"


def test_the_same_way(invoke, canned, traced):
    result = invoke("replay", canned, traced)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "2 requests: 2 go the same way, 0 another, 0 cannot be told to the end",
        "  answered by  then      now",
        "  short        1 (50 %)  1 (50 %)",
        "  long         1 (50 %)  1 (50 %)",
        "  cost: $0 then, $0 now",
    ]
    assert result.stderr == ""


def test_another_threshold(invoke, canned, traced):
    lines = invoke("replay", canned, traced, "--set", "long_from=1").stdout.splitlines()
    assert lines[:3] == [
        "line 1: start → long → ?  (was start → short → end)",
        "  cannot be told: long did not run then",
        "",
    ]
    assert "  long         1 (50 %)  2 (100 %)" in lines
    assert lines[-2:] == [
        "  did not run then, and would have to: long for 1",
        "  cost: $0 then, $0 now, of the 1 that can be told to the end",
    ]


TWO_STEPS = """\
version: 1
name: two_steps
params: {again_from: {default: 1, min: 0, max: 1000}}
nodes:
  one: {type: prompt, role: answer, template: one}
  two: {type: prompt, role: answer, template: two}
edges:
  - {from: start, to: one}
  - {from: one, to: two, when: input.tokens >= params.again_from}
  - {from: one, to: end}
  - {from: two, to: end}
"""


def test_another_way_says_which_edge(invoke, write, tmp_path):
    graph = write("two.yaml", TWO_STEPS)
    for _ in range(25):
        invoke("run", graph, "Hi", "--trace", str(tmp_path / "t"))
    result = invoke("replay", graph, str(tmp_path / "t"), "--set", "again_from=5")
    assert result.stdout.splitlines()[:2] == [
        "line 1: start → one → end  (was start → one → two → end)",
        "  one → end  otherwise  (input.tokens = 1, params.again_from = 5)",
    ]
    assert "… and 5 more; --json shows all" in result.stdout
    shown = json.loads(invoke("replay", graph, str(tmp_path / "t"), "--set", "again_from=5", "--json").stdout)
    assert shown["other"] == 25
    assert shown["answers"] == {"one": {"then": 0, "now": 25}, "two": {"then": 25, "now": 0}}
    assert len(shown["differing"]) == 25
    assert shown["differing"][0]["path"] == ["start", "one", "end"]


def test_an_edited_graph_and_broken_lines_are_told_of(invoke, canned, traced):
    Path(canned).write_text(Path(canned).read_text("utf-8").replace("default: 8", "default: 9"), "utf-8")
    with Path(traced).open("a") as file:
        file.write('{"record": 1, "path')
    result = invoke("replay", canned, traced)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "warning: 2 of 2 records were made by another graph, or before this one was edited",
        "warning: 1 line was left out; line 3: it is no JSON: the line was cut short, or another program wrote it",
    ]


@pytest.mark.parametrize("key", ["answer", "graph_hash", "ledger", "outcome", "path"])
def test_a_damaged_line_is_left_out(invoke, canned, traced, key):
    first, second = Path(traced).read_text("utf-8").splitlines()
    damaged = json.loads(first)
    del damaged[key]
    Path(traced).write_text(f"{json.dumps(damaged)}\n{second}\n", "utf-8")
    result = invoke("replay", canned, traced)
    assert result.exit_code == 0
    assert result.stdout.startswith("1 request: 1 go the same way")
    assert result.stderr.startswith("warning: 1 line was left out; line 1: this is no whole decision record")
    assert repr(key) in result.stderr


def test_a_way_that_goes_on_where_the_recorded_one_ended(invoke, canned, traced):
    lines = [json.loads(line) for line in Path(traced).read_text("utf-8").splitlines()]
    lines[0]["path"].pop()
    lines[1]["path"].append("further")
    Path(traced).write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    result = invoke("replay", canned, traced)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:3] == [
        "line 1: start → short → end  (was start → short)",
        "line 2: start → long → end  (was start → long → end → further)",
        "",
    ]


@pytest.mark.parametrize("text", ["", "no record\n"])
def test_a_file_without_records(invoke, canned, tmp_path, text):
    (tmp_path / "t").write_text(text, "utf-8")
    result = invoke("replay", canned, str(tmp_path / "t"))
    assert result.exit_code == 1
    assert "holds no decision record" in result.stderr


def test_a_file_that_is_not_there(invoke, canned):
    result = invoke("replay", canned, "nowhere.jsonl")
    assert result.exit_code == 1
    assert result.stderr == "error: nowhere.jsonl: No such file or directory\n"


def test_a_wrong_setting(invoke, canned, traced):
    result = invoke("replay", canned, traced, "--set", "long_fron=1")
    assert result.exit_code == 2
