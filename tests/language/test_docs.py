"""The pages on the language keep step with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dynflow.compile import check_text
from dynflow.language.codes import CODES
from dynflow.language.evaluate import UNKNOWN, compile_expression
from dynflow.language.expression import parse_expression
from dynflow.language.reader import decode, read
from dynflow.language.schema import json_schema
from tests.language.errors_page import page

DOCS = Path(__file__).parents[2] / "docs"
ERRORS = DOCS / "errors.md"
LANGUAGE = DOCS / "language.md"
_BLOCK = re.compile(r"^```yaml(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind or "graph", text) for kind, text in _BLOCK.findall(LANGUAGE.read_text())]

AROUND = {
    "version": 1,
    "models": {"small": {"provider": "host"}, "large": {"provider": "host"}},
}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_errors_page_is_up_to_date() -> None:
    """`python -m tests.language.errors_page > docs/errors.md`"""
    assert ERRORS.read_text() == page()
    for code in CODES:
        assert f"### `{code}`\n" in ERRORS.read_text()


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 12
    assert {kind for kind, _ in BLOCKS} <= {"graph", "refused", "values"}


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "graph"])
def test_graphs_are_sound(text: str, tmp_path: Path) -> None:
    """Every graph of the page is checked without an error, and taken by the schema."""
    for inner in re.findall(r"uses: (\S+)", text):
        (tmp_path / inner).parent.mkdir(exist_ok=True)
        (tmp_path / inner).write_text(INNER)
    source, graph = check_text(text, path=tmp_path / "graph.yaml")
    assert graph is not None, [problem.render() for problem in source.errors()]
    assert {problem.code for problem in source.sorted()} <= {"missing_environment"}, source.sorted()[0].render()
    faults = [error.message for error in Draft202012Validator(json_schema()).iter_errors(read(decode(text, "x")))]
    assert faults == []


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "refused"])
def test_what_is_refused(text: str) -> None:
    """The first line names the code: `# not_certain`."""
    wanted = text.split("\n", 1)[0].removeprefix("# ").strip()
    source, graph = check_text(text)
    assert graph is None
    assert {problem.code for problem in source.errors()} == {wanted}


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "values"])
def test_values(text: str) -> None:
    """Each line says what it is read as: `key: 010  # 10`."""
    value: Any = read(decode(text, "values"))
    for line in text.splitlines():
        key, said = line.split(":", 1)[0], line.rsplit("# ", 1)[1]
        assert repr(value[key]) == said, line


_ROW = re.compile(r"^\| `(.+?)` \| (true|false|unknown) \|", re.MULTILINE)


@pytest.mark.parametrize(("text", "said"), _ROW.findall(LANGUAGE.read_text()))
def test_table_of_three_values(text: str, said: str) -> None:
    """`a` succeeded with score 0.75 and no confidence, `b` failed with a timeout, `c` did not run."""
    ports = {
        "a": {"ok": True, "failed": False, "error": None, "score": 0.75, "confidence": None, "seconds": 0.1},
        "b": {"ok": False, "failed": True, "error": "timeout", "seconds": 0.1},
        "c": {"ok": False, "failed": False},
    }
    value = compile_expression(parse_expression(text))(lambda owner, port: ports[owner].get(port, UNKNOWN))
    assert value is {"true": True, "false": False, "unknown": UNKNOWN}[said]


INNER = """
version: 1
params: {bound: 0.5}
models: {m: {provider: host}}
nodes:
  first: {type: chat, model: m}
  second: {type: chat, model: m}
edges:
  - {from: start, to: first}
  - {from: first, to: second, when: first.failed or first.tokens > params.bound}
  - {from: first, to: end}
  - {from: second, to: end}
"""
