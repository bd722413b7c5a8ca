"""Every code block of docs/calibration.md runs, on a graph and outcomes of the kind that it speaks of."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from dynflow.calibration.outcomes import read_outcomes
from dynflow.cli.app import cli
from tests.cli.outcomes import GRAPH, outcomes, write_rows

DOC = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text("utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    graph = GRAPH.replace("brief", "local").replace("thorough", "cloud")
    (folder / "graph.yaml").write_text(graph.replace('"local"', '"no"').replace('"cloud"', '"{input}: Paris"'), "utf-8")
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOC, re.DOTALL | re.MULTILINE)


def dynflow(line: str) -> str:
    """What a command line prints, `END` documents written first."""
    result = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    return result.output


def test_no_block_is_left_out() -> None:
    languages = re.findall(r"^```(\w*)\n.*?^```", DOC, re.DOTALL | re.MULTILINE)
    assert sorted(set(languages)) == ["console", "json", "python", "sh"]


def test_the_outcome_row_is_one(folder: Path) -> None:
    row, conversation = blocks("json")
    (folder / "row.jsonl").write_text(row, "utf-8")
    (read,) = read_outcomes(folder / "row.jsonl").rows
    assert {name: outcome.quality for name, outcome in read.outcomes.items()} == {"local": 0, "cloud": 1}
    (folder / "row.jsonl").write_text(conversation, "utf-8")
    assert list(read_outcomes(folder / "row.jsonl").turns) == [0, 1]


def test_shell_blocks(folder: Path) -> None:
    (text,) = blocks("sh")
    document, body, line = re.fullmatch(r"cat > (\S+) <<'END'\n(.*)END\n(.*)\n", text, re.DOTALL).groups()
    (folder / document).write_text(body, "utf-8")
    assert "2 of 2 rows collected" in dynflow(line)
    rows = {row.id: row.outcomes for row in read_outcomes(folder / "outcomes.jsonl").rows}
    assert rows["france"]["cloud"].quality == 1
    assert rows["france"]["local"].quality == 0
    assert rows["sum"]["cloud"].quality == 0


def test_console_blocks(folder: Path) -> None:
    write_rows(folder / "outcomes.jsonl", outcomes(200, ("local", "cloud")))
    for text in blocks("console"):
        for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
            said = dynflow(line)
            quoted = re.search(r"^> (on new requests.*)$", DOC, re.MULTILINE)
            assert quoted is not None
            assert quoted[1] in said
    assert json.loads((folder / "graph.calibration.json").read_text("utf-8"))["promise"]["of"] == "cloud"
    (folder / "graph.calibration.json").unlink()


def test_python_blocks(folder: Path) -> None:
    write_rows(folder / "outcomes.jsonl", outcomes(200, ("local", "cloud")))
    row = {"id": 1, "input": "What is the capital of France?", "reference": "Paris"}
    write_rows(folder / "questions.jsonl", [row])
    printed = []
    for code in blocks("python"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, "calibration.md", "exec"), {"__name__": "doc"})
        printed.append(out.getvalue())
    collected, calibrated = printed
    assert collected.startswith("1.0 ")
    assert "on new requests drawn like these" in calibrated
