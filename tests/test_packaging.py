"""The wheel holds `dynflow` and nothing else, and all of it; the house keeps to its own rules of import."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("dynflow", "nodes", "graphs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Names of the files in a wheel built from a copy of what git tracks and would track."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = ROOT / name
        if source.exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name, follow_symlinks=False)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(copy)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    with zipfile.ZipFile(next(target.glob("*.whl"))) as archive:
        return frozenset(archive.namelist())


def test_only_top_level_name_is_dynflow(wheel: frozenset[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"dynflow"}


def test_every_source_file_is_inside(wheel: frozenset[str]) -> None:
    expected = {
        "/".join(("dynflow", *path.relative_to(ROOT).parts) if top != "dynflow" else path.relative_to(ROOT).parts)
        for top in SOURCES
        for path in (ROOT / top).rglob("*.py")
        if "__pycache__" not in path.parts and not path.is_relative_to(ROOT / "dynflow" / "nodes")
    }
    assert expected - wheel == set()


@pytest.mark.parametrize(
    "name",
    [
        "dynflow/py.typed",
        "dynflow/schema/v1.json",
        "dynflow/models/minilm/model.onnx",
        "dynflow/models/minilm/tokenizer.json",
        "dynflow/models/minilm/README.md",
        "dynflow/graphs/quickstart.yaml",
        "dynflow/graphs/cascade.yaml",
        "dynflow/nodes/difficulty_classifier/artefacts/embedding/head.safetensors",
        "dynflow/nodes/difficulty_classifier/artefacts/surface/head.safetensors",
    ],
)
def test_data_files_are_inside(wheel: frozenset[str], name: str) -> None:
    assert name in wheel


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def python_files(top: str) -> list[Path]:
    return [path for path in (ROOT / top).rglob("*.py") if not path.is_relative_to(ROOT / "dynflow" / "nodes")]


def test_the_engine_imports_no_node_type() -> None:
    engine = [path for path in python_files("dynflow") if not path.is_relative_to(ROOT / "dynflow" / "cli")]
    assert len(engine) > 30
    found = {path.name: name for path in engine for name in imported(path) if name.startswith("dynflow.nodes")}
    assert found == {}


def test_a_node_imports_no_other_nodes_internals() -> None:
    """But a type that is a chat subclasses the public one."""
    chats = {("dynflow.nodes.speculative_generator", "dynflow.nodes.chat")}
    for path in python_files("nodes"):
        own = ".".join(("dynflow", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        family = ".".join(own.split(".")[:3])
        foreign = {name for name in imported(path) if name.startswith("dynflow.nodes.") and not name.startswith(family)}
        assert {(own, name) for name in foreign} <= chats, path


def test_nothing_imports_the_command_line() -> None:
    allowed = {ROOT / "dynflow" / "__main__.py"}
    for path in [*python_files("dynflow"), *python_files("nodes")]:
        if path not in allowed and not path.is_relative_to(ROOT / "dynflow" / "cli"):
            assert not any(name.startswith("dynflow.cli") for name in imported(path)), path
