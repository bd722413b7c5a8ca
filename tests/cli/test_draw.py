from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from unittest.mock import Mock

import pytest

GRAPH = """\
version: 1
name: a <wide> one & "more"
nodes:
  graph: {type: prompt, role: answer, template: "{input}"}
  style: {type: prompt, role: answer, template: "{input}"}
  sorry: {type: prompt, role: answer, template: Sorry.}
edges:
  - {from: start, to: graph, when: 'input.text == "<b>#1 | two</b>" and input.tokens > 20'}
  - {from: start, to: style}
  - {from: graph, to: sorry, when: graph.failed}
  - {from: graph, to: style, when: input.turns > 1}
  - {from: graph, to: end}
  - {from: style, to: end}
  - {from: sorry, to: end}
"""


@pytest.fixture
def graph(write) -> str:
    return write("graph.yaml", GRAPH)


def test_mermaid_is_the_default(invoke, graph):
    result = invoke("draw", graph)
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines[0] == "flowchart TD"
    assert 'n_graph["graph<br/>prompt<br/>held"]:::answer' in lines
    assert 'n_sorry["sorry<br/>prompt<br/>streams live"]:::answer' in lines
    assert 'n_graph -.->|"1: graph.failed"| n_sorry' in lines
    assert 'n_graph -->|"3: otherwise"| n_end' in lines
    assert "n_style --> n_end" in lines
    labelled = next(line for line in lines if line.startswith("n_start -->"))
    text = "input.text == #34;#60;b#62;#35;1 #124; two#60;/b#62;#34; and input.tokens #62; 20"
    assert labelled == f'n_start -->|"{text}"| n_graph'


def test_ascii_is_ascii(invoke, graph):
    result = invoke("draw", graph, "--format", "ascii")
    assert result.stdout.isascii()
    blocks = result.stdout.split("\n\n")
    assert "style  [answer; prompt; streams live]\n  `--> end" in blocks
    assert (
        "graph  [answer; prompt; held]\n"
        "  |-- 1: graph.failed ----> sorry\n"
        "  |-- 2: input.turns > 1 -> style\n"
        "  `-- 3: otherwise -------> end"
    ).replace("->", "-->") in blocks


def test_svg_is_well_formed_and_whole(invoke, graph, tmp_path):
    out = tmp_path / "graph.svg"
    assert invoke("draw", graph, "-o", str(out)).exit_code == 0
    root = ElementTree.parse(out).getroot()
    texts = "".join(root.itertext())
    for word in ("start", "graph", "style", "sorry", "end", "streams live", 'a <wide> one & "more"'):
        assert word in texts
    assert "href" not in out.read_text(encoding="utf-8")


def test_png_is_a_picture(invoke, graph, tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    out = tmp_path / "graph.png"
    assert invoke("draw", graph, "-o", str(out)).exit_code == 0
    with image_module.open(out) as image:
        assert image.width > 200
        assert len(image.convert("RGB").getcolors(1_000_000)) > 10
    assert invoke("draw", graph, "--format", "png").stdout_bytes.startswith(b"\x89PNG")


def test_png_without_pillow_names_the_command(invoke, graph, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    result = invoke("draw", graph, "--format", "png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'pip install "dynflow[draw]"' in result.stderr


def test_a_suffix_that_says_nothing(invoke, graph, tmp_path):
    out = tmp_path / "graph.jpeg"
    assert invoke("draw", graph, "-o", str(out)).exit_code == 2
    assert not out.exists()


def test_a_folder_that_is_not_there(invoke, graph, tmp_path):
    result = invoke("draw", graph, "-o", str(tmp_path / "no" / "graph.svg"))
    assert result.exit_code == 1
    assert result.stderr == f"Error: there is no folder {tmp_path / 'no'}\n"


def test_a_file_that_cannot_be_written(invoke, graph, tmp_path, monkeypatch):
    refused = PermissionError(13, "Permission denied", "/an/invented/name")
    monkeypatch.setattr("dynflow.cli.terminal.tempfile.NamedTemporaryFile", Mock(side_effect=refused))
    result = invoke("draw", graph, "-o", str(tmp_path / "graph.svg"))
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path / 'graph.svg'}: Permission denied\n"


def test_a_broken_graph_is_not_drawn(invoke, write, tmp_path):
    out = tmp_path / "graph.svg"
    assert invoke("draw", write("bad.yaml", GRAPH.replace("to: end", "to: ende")), "-o", str(out)).exit_code == 1
    assert not out.exists()


def test_a_long_graph_is_drawn_in_time_and_refused_as_png(invoke, tmp_path, write):
    lines = [
        "version: 1",
        "nodes:",
        *(f"  n{number}: {{type: prompt, role: answer, template: a}}" for number in range(100)),
    ]
    lines += ["edges:", "  - {from: start, to: n0}"]
    lines += [f"  - {{from: n{number}, to: n{number + 1}}}" for number in range(99)] + ["  - {from: n99, to: end}"]
    graph = write("long.yaml", "\n".join(lines))
    assert invoke("draw", graph, "-o", str(tmp_path / "long.svg")).exit_code == 0
    assert Path(tmp_path / "long.svg").stat().st_size > 10_000
