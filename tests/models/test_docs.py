"""docs/providers.md keeps step with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dynflow
from dynflow.models.settings import PROVIDERS
from dynflow.models.store import _PROVIDERS

PAGE = (Path(__file__).parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")


def test_every_provider_that_answers_has_its_line() -> None:
    lines = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(lines) == {*_PROVIDERS, "diffusers", "host"}
    assert set(lines) <= set(PROVIDERS)


def test_its_graph_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x" * 8)
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert not dynflow.loads(text).warnings


@pytest.mark.parametrize(("package", "version"), re.findall(r"(langchain-\w+) (\d+\.\d+\.\d+)", PAGE))
def test_the_adapters_name_the_same_versions(package: str, version: str) -> None:
    name = package.removeprefix("langchain-")
    adapter = Path(__file__).parents[2] / "dynflow" / "models" / f"{name}.py"
    assert f"{package} {version}" in adapter.read_text(encoding="utf-8").replace("\n", " ")
