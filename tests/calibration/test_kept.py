"""Outputs of signals are kept between runs, without content, and only where they would be the same."""

from __future__ import annotations

from pathlib import Path

import pytest

import dynflow
from dynflow.calibration.kept import KeptOutputs
from dynflow.calibration.outcomes import read_outcomes
from dynflow.calibration.replay import Replay
from dynflow.nodes.runnable import RunnableOfHost
from tests.calibration.test_replay import CASCADE, HOST, counted, difficulty, rows, write


def walk(folder: Path, calls: list[str], text: str = CASCADE, count: int = 40) -> Replay:
    flow = dynflow.loads(text, runnables={**HOST, "difficulty": counted(difficulty, calls)})
    kept = KeptOutputs(folder / "kept.sqlite")
    replay = Replay(flow, read_outcomes(write(folder, rows(["local", "cloud"], count))), kept=kept)
    replay.walk([{}])
    kept.close()
    return replay


def test_a_second_run_reads_what_the_first_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunnableOfHost, "fingerprint", lambda self: "one")
    first: list[str] = []
    failed = walk(tmp_path, first).failures["difficulty"]
    assert len(first) == 40
    second: list[str] = []
    walk(tmp_path, second, count=45)
    assert len(second) == failed + 5 > 5  # failures are tried again
    monkeypatch.setattr(RunnableOfHost, "fingerprint", lambda self: "another")
    third: list[str] = []
    walk(tmp_path, third)
    assert len(third) == 40


def test_what_has_no_fingerprint_is_not_kept(tmp_path: Path) -> None:
    for _ in range(2):
        calls: list[str] = []
        walk(tmp_path, calls)
        assert len(calls) == 40


def test_no_content_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunnableOfHost, "fingerprint", lambda self: "one")
    walk(tmp_path, [])
    data = (tmp_path / "kept.sqlite").read_bytes()
    assert b"task" in data  # a label
    assert b"word" not in data
    kept = KeptOutputs(tmp_path / "kept.sqlite")
    kept.put([("long", {"text": "x" * 41}), ("short", {"label": "x"}), ("odd", {"value": object()})])
    assert kept.get(["long", "short", "odd"]) == {"short": {"label": "x"}}


def test_a_file_that_cannot_be_used_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"no database, but long enough to look at" * 100)
    for path in (tmp_path / "broken", tmp_path / "broken" / "below"):
        kept = KeptOutputs(path)
        kept.put([("key", {"score": 1})])
        assert kept.get(["key"]) == {}
        kept.close()
