"""`kill -9` at random points of a batch, and of collecting: in the end every row stands in the output exactly once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.effort import EFFORT
from tests.slow_model import Model, answer, serving

ROUNDS = 2 * EFFORT
ROWS_A_ROUND = 60
CONCURRENCY = 8

GRAPH = """
version: 1
models: {m: {provider: ollama, model: m, api_base: "http://127.0.0.1:PORT"}}
nodes: {ask: {type: chat, model: m}, again: {type: chat, model: m, system: once more}}
edges:
  - {from: start, to: ask}
  - {from: ask, to: again, when: input.tokens > 1000}
  - {from: ask, to: end}
  - {from: again, to: end}
"""
MODES = {"batch": ([], 1), "collecting": (["--all-paths", "--grade", "regex:{reference}"], 2)}
"""Options of the command, and how often each row calls the model."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends SIGKILL")


@pytest.fixture
def model() -> Iterator[Model]:
    pytest.importorskip("ollama")
    with serving() as server:
        yield server


def whole_rows(path: Path) -> list[dict[str, object]]:
    """The rows of whole lines; each must be JSON."""
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in whole]


@pytest.mark.parametrize("mode", MODES)
def test_every_row_once_whenever_it_is_killed(model, tmp_path, mode):
    options, calls = MODES[mode]
    rounds = ROUNDS // calls
    rows = ROWS_A_ROUND * rounds
    graph, source, target = (tmp_path / name for name in ("graph.yaml", "in.jsonl", "out.jsonl"))
    graph.write_text(GRAPH.replace("PORT", str(model.server_port)))
    made = [{"id": f"row/{n}", "input": f"question {n} ?", "reference": f"answer {n}"} for n in range(rows)]
    source.write_text("".join(f"{json.dumps(row)}\n" for row in made))
    command = [sys.executable, "-m", "dynflow", "batch", str(graph), "--input", str(source), "--output", str(target)]
    command += [*options, "--concurrency", str(CONCURRENCY), "--json"]
    chance = random.Random(11)
    killed = 0
    started: list[float] = []
    """Seconds from a process's start to its first row."""
    for number in range(rounds):
        before = whole_rows(target)
        finished = {f"question {str(row['id']).split('/')[1]} ?" for row in before}
        asked = Counter(model.asked)
        began = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            if number % 4 == 3:  # while it starts, reads, mends
                time.sleep(chance.uniform(0.0, min(started)))
            else:
                while process.poll() is None and sum(model.asked.values()) == asked.total():
                    time.sleep(0.002)
                started.append(time.monotonic() - began)
                time.sleep(chance.uniform(0.0, 0.1))
            killed += process.poll() is None
            process.kill()
            _, errors = process.communicate(timeout=60)
        assert process.returncode in (0, -9), errors.decode()
        after = whole_rows(target)
        assert after[: len(before)] == before  # nothing that was finished is lost,
        assert all(model.asked[question] == asked[question] for question in finished)  # or paid for again
        ids = [row["id"] for row in after]
        assert len(ids) == len(set(ids))
    assert killed >= (rounds + 1) // 2

    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["rows"], figures["finished"], figures["failed"], figures["left"]) == (rows, rows, 0, 0)
    assert target.read_bytes().endswith(b"\n")
    found = {row["id"]: row for row in whole_rows(target)}
    assert len(whole_rows(target)) == len(found) == rows
    for n in range(rows):
        row, said = found[f"row/{n}"], answer(f"question {n} ?")
        if mode == "batch":
            assert row["output"] == said
        else:
            outcomes = {name: (each["quality"], each["response"]) for name, each in row["outcomes"].items()}
            assert outcomes == {"ask": (1, said), "again": (1, said)}
    assert model.asked.total() <= calls * (rows + killed * CONCURRENCY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.yaml", "in.jsonl", "out.jsonl"]
