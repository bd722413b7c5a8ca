"""The benchmarks run to their end and report what they say they do. How fast anything is, no test asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_overhead(tmp_path: Path) -> None:
    pytest.importorskip("langgraph")
    file = tmp_path / "overhead.json"
    command = [sys.executable, str(BENCHMARKS / "overhead.py"), "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(file.read_text(encoding="utf-8"))
    assert set(results) == {"machine", "styles", "chains", "provider", "load", "imports"}
    expected = {"plain Python", "dynflow", "LCEL RunnableBranch", "LCEL sequence with RunnableBranch", "LangGraph"}
    for style in ("invoke", "ainvoke", "stream"):
        samples = results["styles"][style]
        assert expected <= set(samples)
        assert all(seconds > 0 for found in samples.values() for seconds in found)
        assert f"## {style}" in done.stdout
    assert set(results["chains"]) == {"1", "10", "100"}
    assert {"litellm, bare", "ChatLiteLLM", "litellm Router"} < set(results["provider"]["astream"])
    assert "| invoke, of LCEL's |" in done.stdout
    assert "`import dynflow`" in done.stdout


def test_promises(tmp_path: Path) -> None:
    data = BENCHMARKS.parents[1] / "shared" / "data"
    if not (data / "routing" / "gsm8k.jsonl").is_file():
        pytest.skip("needs the recorded outcomes")
    command = [sys.executable, str(BENCHMARKS / "promises.py"), "--data", str(data), "--draws", "20", "--pools", "1"]
    command += ["--check", "surface", "--out", str(tmp_path)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "promises.json").read_text(encoding="utf-8"))["results"]
    assert len(results) == 8
    assert all(0 <= row["violations"] <= 1 and row["above_oracle"] < 0.5 for row in results)
    assert "| quality_of 0.95 | 1,000 |" in done.stdout
    assert done.stdout == (tmp_path / "promises.md").read_text(encoding="utf-8") + "\n"
