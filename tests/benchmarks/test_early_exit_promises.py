"""The benchmark of early exit's promises runs to its end, and tells a promise that is broken from one that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.benchmarks.scripts import load_script
from tests.benchmarks.test_early_exit import model  # noqa: F401
from tests.calibration.test_stopping import pool as drawn
from tests.nodes.early_exit.test_node import GRAPH
from tests.nodes.early_exit.tiny_encoders import one_thread


def test_it_runs_on_the_rows_held_out(
    model: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    graph = model.parent / "reviews.yaml"
    graph.write_text(GRAPH.replace("artefact", model.name), encoding="utf-8")
    command = ["--train", str(model.parent / "reviews.tsv"), "--graph", str(graph), "--draws", "10", "--rows", "40"]
    with one_thread():
        load_script("early_exit_promises").main([*command, "--splits", "2", "--out", str(tmp_path)])
    results = json.loads((tmp_path / "early_exit_promises.json").read_text(encoding="utf-8"))
    assert [each["promise"] for each in results["promises"]] == ["gap", "gap", "disagreement", "disagreement"]
    assert len(results["budgets"]) == 3
    shown = capsys.readouterr().out
    assert shown == (tmp_path / "early_exit_promises.md").read_text(encoding="utf-8")
    assert shown.count("kept: ") + shown.count("MISSED: ") == 11


@pytest.mark.parametrize("kind", ["gap", "disagreement"])
def test_a_bound_that_is_none_is_found_out(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool with known exits; a test that believes the rows' own means must break its promise too often."""
    script = load_script("early_exit_promises")
    pool = script.Pool(drawn(4_000, 0), np.full(4_000, "good", dtype=object), np.linspace(1.01, 0, 60))

    def study() -> tuple[bool, bool]:
        found = script.study(pool, kind, 0.06, 500, 60, lambda done, total, what: None)
        violations, saving = script.bars([found], [])
        return violations.startswith("kept"), saving.startswith("kept")

    assert study() == (True, True)
    monkeypatch.setattr(
        "dynflow.calibration.promises.Tested.kept", lambda tested, _: tested.values.mean(-1) >= tested.limit
    )
    assert study() == (False, True)
