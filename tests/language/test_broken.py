"""Every broken graph gives exactly its problems: code, line and column, with the source line, a caret and a mend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynflow.compile import check_text, compile_text, read_graph_file
from dynflow.errors import GraphError
from dynflow.language.codes import CODES
from dynflow.language.source import Problem
from tests.language.corpus import FILES, FOLDER, expected, problems

ROOT = Path(__file__).parents[2]
_MEND = re.compile(
    r"did you mean|expected one of|is none of|there are|is missing|at most|(below|above) its|are for|can have|"
    r"below that|a second try|fine for|looks into|fold it|"
    r"\b(rename|write|add|use|give|remove|must|takes?|needs?|choose|quote|belongs?|leave|compare|name|end|export|split|"
    r"move|route|should be|keep|sort|flatten|correct|read|save|set)\b"
)
_EMITTED = re.compile(
    r"(?:report|report_at|_refuse|Finding|ExpressionError|problem|fail)\(\s*(?:source,\s*)?\"([a-z_]+)\""
)
_QUOTED_FIRST = {
    *("unknown_key", "unknown_option", "unknown_type", "unknown_provider", "unknown_model", "unknown_node"),
    *("unknown_param", "named_twice", "bad_name", "not_in_enum", "duplicate_key", "unreachable", "dead_end"),
    *("unhandled_failure", "baseline", "two_groups"),
}
"""Codes whose text begins with the word that the caret must stand under."""


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_the_corpus_is_large() -> None:
    assert len(FILES) >= 200
    assert all(expected(file) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_broken_graph(file: Path) -> None:
    found = problems(file)
    assert [(item.severity, item.code, item.place.line, item.place.column) for item in found] == expected(file)
    for problem in found:
        _check_shown(problem, file)


def _check_shown(problem: Problem, file: Path) -> None:
    place = problem.place
    head, *rest = problem.render().split("\n")
    prefix = f"broken/{file.name}:{place.line}:{place.column}: {problem.severity}[{problem.code}]: "
    assert head == f"{prefix}{problem.text}"
    assert problem.code in CODES
    assert _MEND.search(problem.text), problem.text
    assert "object at 0x" not in problem.text
    assert "Traceback" not in problem.text
    if problem.code == "not_text":
        return
    shown, carets = rest
    marked = problem.source_line[place.column - 1 : place.column - 1 + place.length]
    if problem.code != "syntax":  # the reader may stop at a blank
        assert marked.strip()
    width = len(carets.strip())
    assert carets.strip() == "^" * width
    if len(problem.source_line) <= 160:
        assert carets.index("^") - 4 == place.column - 1
        assert shown[4:][place.column - 1 :][:width] == "".join(mark if mark.isprintable() else " " for mark in marked)
    if problem.code in _QUOTED_FIRST and "'" in problem.text:
        assert problem.text.split("'")[1] in marked


def test_every_code_is_explained_and_covered() -> None:
    emitted = {
        code
        for folder in (ROOT / "dynflow", ROOT / "nodes")
        for file in folder.rglob("*.py")
        if "dynflow/nodes" not in str(file)
        for code in _EMITTED.findall(file.read_text())
    }
    assert emitted == CODES.keys()
    elsewhere = {
        "too_large": "a file of 256 KB: test_too_large",
        "no_file": "no file: test_no_file",
        "unknown_runnable": "needs the host: test_unknown_runnable",
        "broken_type": "needs a broken package: test_broken_type",
        "drift": "needs traces: tests/cli/test_calibrate.py",
        "calibration": "needs a calibration file: tests/calibration/test_saved.py",
    }
    covered = {code for file in FILES for _, code, _, _ in expected(file)}
    assert covered | elsewhere.keys() == CODES.keys()
    assert not covered & elsewhere.keys()
    for text in CODES.values():  # what it is, and how to mend it
        assert len(re.findall(r"[.:](?: |$)", text)) >= 2, text


def test_too_large() -> None:
    source, graph = check_text("version: 1\nname: " + "x" * 262_144)
    assert graph is None
    assert [problem.code for problem in source.problems] == ["too_large"]


def test_no_file(tmp_path: Path) -> None:
    (tmp_path / "cascade.yaml").write_text("version: 1\n")
    with pytest.raises(GraphError, match=r"no_file.*did you mean 'cascade.yaml'"):
        read_graph_file(tmp_path / "cascad.yaml")
    with pytest.raises(GraphError, match="cannot be read"):
        read_graph_file(tmp_path)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as file:
        file.truncate(10**12)
    data = read_graph_file(huge)
    assert len(data) < 300_000
    assert [problem.code for problem in check_text(data)[0].problems] == ["too_large"]


HOSTED = """
version: 1
nodes:
  answer: {type: runnable, name: anser, role: answer}
edges:
  - {from: start, to: answer}
  - {from: answer, to: end}
"""


def test_unknown_runnable() -> None:
    assert check_text(HOSTED)[1] is not None
    source, _ = check_text(HOSTED, runnables={"answer": str})
    assert [problem.code for problem in source.problems] == ["unknown_runnable"]
    assert "did you mean 'answer'" in source.problems[0].text


def test_broken_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise ImportError("No module named 'gone'")

    monkeypatch.setattr("dynflow.nodetable.node_type", broken)
    source, _ = check_text(HOSTED)
    assert [problem.code for problem in source.problems] == ["broken_type"]


def test_empty_file() -> None:
    for data in (b"", b"\n\n", b"\xef\xbb\xbf", "---\n...\n"):
        source, _ = check_text(data)
        assert [problem.code for problem in source.problems] == ["not_a_graph"]


def test_an_error_holds_every_problem_and_survives_pickling() -> None:
    import pickle

    file = FOLDER / "many_faults.yaml"
    with pytest.raises(GraphError) as caught:
        compile_text(file.read_bytes(), str(file), path=file)
    again = pickle.loads(pickle.dumps(caught.value))
    assert len(again.problems) >= 10
    assert str(again) == str(caught.value)


def test_forms_for_machines() -> None:
    (problem,) = problems(FOLDER / "unknown_model.yaml")
    assert problem.as_dict()["code"] == "unknown_model"
    assert problem.as_dict()["line"] == problem.place.line
    github = problem.as_github()
    assert github.startswith("::error file=broken/unknown_model.yaml,line=6,col=31,endColumn=35,")
    assert "\n" not in github


def test_a_terminal_is_not_obeyed() -> None:
    problem = Problem("syntax", "x", source_line="a\x1b[31mb")
    assert "\x1b" not in problem.render()
