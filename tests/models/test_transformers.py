"""transformers as chat model: the real SmolLM2, widened from its GGUF once."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError
from langchain_core.messages import AIMessageChunk

from dynflow.errors import MissingDependency, MissingModel
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
from dynflow.models.transformers import TransformersChat

SPIDER = "How many legs has a spider?"
STORY = "Tell me a very long story about a ship."


def chat(**settings: Any) -> TransformersChat:
    given = {"model": "embedded/smollm2-135m-instruct", "temperature": 0.0, "max_tokens": 24, **settings}
    model = create(ModelSettings(provider="transformers", **given), "plain")
    assert isinstance(model, TransformersChat)
    return model


@pytest.fixture(scope="module")
def plain() -> Iterator[TransformersChat]:
    for package in ("torch", "transformers", "gguf"):
        pytest.importorskip(package)
    model = chat()
    model.warm_up()
    yield model
    model.close()


async def test_all_call_styles_agree(plain: TransformersChat) -> None:
    whole = plain.invoke(SPIDER)
    assert "8" in whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["input_tokens"] > 20
    assert whole.response_metadata["finish_reason"] == "stop"
    assert (await plain.ainvoke(SPIDER)).text == whole.text
    for chunks in (list(plain.stream(SPIDER)), [chunk async for chunk in plain.astream(SPIDER)]):
        total = sum(chunks[1:], chunks[0])
        assert isinstance(total, AIMessageChunk)
        assert len(chunks) > 5
        assert total.text == whole.text
        assert total.usage_metadata == whole.usage_metadata


def test_stop_length_and_seed(plain: TransformersChat) -> None:
    stopped = plain.invoke(SPIDER, stop=["legs"])
    assert "legs" not in stopped.text
    assert stopped.response_metadata["finish_reason"] == "stop"
    cut = plain.invoke(SPIDER, max_tokens=3)
    assert cut.response_metadata["finish_reason"] == "length"
    assert cut.usage_metadata is not None
    assert cut.usage_metadata["output_tokens"] == 3
    texts = [plain.invoke(STORY, temperature=1.2, seed=seed).text for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


async def test_closing_and_timing_out_stop_the_generation(plain: TransformersChat) -> None:
    engine = plain._engine
    assert engine is not None
    stream = plain.astream(STORY, max_tokens=2000)
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    with pytest.raises(ModelTimeoutError):
        await plain.ainvoke(STORY, max_tokens=2000, timeout=0.5)
    deadline = time.monotonic() + 10
    while engine._busy and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert not engine._busy


def test_a_prompt_beyond_the_context(plain: TransformersChat) -> None:
    with pytest.raises(ContextOverflowError, match="too long"):
        plain.invoke("hello " * 10_000)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(MissingModel):
        chat(model=str(tmp_path)).warm_up()


def test_an_unknown_hub_id_offline_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    asked = Mock(side_effect=OSError("no network"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", asked)
    with pytest.raises(MissingModel, match=r"no model 'nope/nope': .*\(no network\); give a local folder, embedded/"):
        chat(model="nope/nope").warm_up()
    asked.assert_called_once()
    assert capfd.readouterr() == ("", "")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r'pip install "dynflow\[transformers\]"'):
        chat(threads=1).warm_up()
