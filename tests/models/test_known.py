"""What is known of a model, the store, threads, and stop texts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynflow.errors import InputError
from dynflow.models import cores, known
from dynflow.models.embedded import MODELS
from dynflow.models.settings import Capabilities, ModelSettings, Price
from dynflow.models.stop_texts import StopTexts
from dynflow.models.store import create


def about(provider: Any, model: str, **settings: Any) -> known.Known:
    return known.known(ModelSettings(provider=provider, model=model, **settings))


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {
        "gpt-x": {
            "litellm_provider": "openai",
            "input_cost_per_token": 2.5e-07,
            "output_cost_per_token": 2e-06,
            "cache_read_input_token_cost": 2.5e-08,
            "max_input_tokens": 1000,
            "supports_function_calling": True,
        },
        "half": {"litellm_provider": "openai", "input_cost_per_token": 1e-06},
    }
    monkeypatch.setattr(known, "_prices", lambda: listed)


@pytest.mark.usefixtures("prices")
def test_a_listed_model() -> None:
    found = about("litellm", "openai/gpt-x")
    assert found == about("litellm", "gpt-x")
    assert found.price is not None
    assert (found.price.input, found.price.output, found.price.cached) == pytest.approx((0.25, 2.0, 0.025))
    assert found.capabilities == Capabilities(tools=True, images=False, audio=False, context=1000)


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize("model", ["openai/unheard-of", "azure/gpt-x"])
def test_an_unlisted_model_is_unknown(model: str) -> None:
    assert about("litellm", model) == known.Known(None, Capabilities())


@pytest.mark.usefixtures("prices")
def test_half_a_price_is_no_price() -> None:
    assert about("litellm", "openai/half").price is None


@pytest.mark.usefixtures("prices")
def test_the_settings_win() -> None:
    found = about("litellm", "openai/gpt-x", price={"input": 9.0}, capabilities={"images": True})
    assert found.price == Price(input=9.0, output=2.0)
    assert found.capabilities == Capabilities(tools=True, images=True, audio=False, context=1000)


@pytest.mark.usefixtures("prices")
def test_a_side_that_is_left_out_is_not_free() -> None:
    assert about("litellm", "openai/unheard-of", price={"input": 3.0}).price is None
    assert about("litellm", "openai/half", price={"output": 3.0}).price is None
    assert about("host", "x", price={"output": 3.0}).price is None
    assert about("host", "x", price={"watts": 3.0}).price is None
    assert about("ollama", "x", price={"output": 3.0, "second": 1.0}).price is None
    assert about("host", "x", price={"second": 1.0}).price == Price(second=1.0)
    assert about("litellm", "openai/gpt-x", price={"second": 1.0}).price == Price(input=0.25, output=2.0, second=1.0)
    tier = {"above": 9, "input": 7.0}
    assert about("host", "x", price={"input": 1.0, "output": 1.0, "tiers": [tier]}).price is None
    completed = about("litellm", "openai/gpt-x", price={"input": 1.0, "tiers": [tier]}).price
    assert completed is not None
    assert [(rates.input, rates.output) for rates in (completed.at(9), completed.at(10))] == [(1.0, 2.0), (7.0, 2.0)]


def test_a_price_that_the_list_completes_is_completed_for_long_prompts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = {"litellm_provider": "openai", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
    longer = {"input_cost_per_token_above_200k_tokens": 2e-06, "output_cost_per_token_above_200k_tokens": 4e-06}
    monkeypatch.setattr(known, "_prices", lambda: {"tiered": {**listed, **longer}})
    price = about("litellm", "openai/tiered", price={"input": 9.0}).price
    assert price is not None
    assert [(rates.input, rates.output) for rates in (price.at(1), price.at(200_001))] == [(9.0, 2.0), (9.0, 4.0)]


def test_local_models_cost_nothing_unless_told() -> None:
    for provider in ("llama_cpp", "transformers", "ollama"):
        assert about(provider, "some").price == Price()
    assert about("ollama", "some", price={"second": 0.01}).price == Price(second=0.01)
    assert about("ollama", "some").capabilities == Capabilities()
    small = "embedded/smollm2-135m-instruct"
    assert about("llama_cpp", small).capabilities == MODELS[small].capabilities


def test_litellms_own_list_is_read_without_importing_it() -> None:
    pytest.importorskip("litellm")
    program = """
import sys
from dynflow.models.known import known
from dynflow.models.settings import ModelSettings
found = known(ModelSettings(provider="litellm", model="openai/gpt-4o-mini"))
assert found.price.input > 0 and found.price.output > found.price.input and found.capabilities.tools
heavy = {"litellm", "torch", "transformers", "ollama", "openai", "numpy", "xllamacpp"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_without_litellm_nothing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    known._prices.cache_clear()
    monkeypatch.setitem(sys.modules, "litellm", None)
    assert about("litellm", "openai/gpt-4o-mini") == known.Known(None, Capabilities())
    known._prices.cache_clear()


def test_creating_a_model_loads_no_library() -> None:
    program = """
import sys
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
for provider in ("llama_cpp", "transformers", "litellm", "ollama"):
    assert create(ModelSettings(provider=provider, model="m"), "name").name == "name"
heavy = {"litellm", "torch", "transformers", "ollama", "openai", "numpy", "xllamacpp", "httpx"}
assert not heavy - {"httpx"} & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("provider", ["encoder", "diffusers", "host"])
def test_a_provider_that_does_not_chat(provider: Any) -> None:
    with pytest.raises(InputError, match=f"provider {provider} makes no chat model; use one of: llama_cpp"):
        create(ModelSettings(provider=provider, model="m"), "mine")


def test_a_model_shows_no_secret() -> None:
    model = create(ModelSettings(provider="litellm", model="openai/gpt-x", api_key="sk-canary"), "large")  # type: ignore[arg-type]
    shown = [
        repr(model),
        str(model),
        str(model._identifying_params),
        str(model._get_ls_params()),
        model.model_dump_json(),
    ]
    assert not any("sk-canary" in text for text in shown)


def test_threads_follow_a_containers_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def read(path: Path, *args: Any) -> str:
        text = str(path)
        if text.endswith("thread_siblings_list"):
            cpu = int(text.split("/cpu")[-1].split("/")[0])
            return f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}"
        if text in files:
            return files[text]
        raise FileNotFoundError(text)

    monkeypatch.setattr(Path, "read_text", read)
    assert cores.physical_cores() == 2
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert cores.physical_cores() == 4
    files.clear()
    assert cores.physical_cores() == 4


@given(
    text=st.text("abc", max_size=20), stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), data=st.data()
)
def test_stop_texts_cut_wherever_the_pieces_break(text: str, stop: list[str], data: st.DataObject) -> None:
    cutter, passed, rest = StopTexts(stop), "", text
    while rest and not cutter.found:
        size = data.draw(st.integers(1, len(rest)))
        passed += cutter.feed(rest[:size])
        rest = rest[size:]
    passed += cutter.rest()
    seen = text[: len(text) - len(rest)]
    assert text.startswith(passed)
    assert not any(entry in passed for entry in stop)
    if cutter.found:
        assert any(seen[len(passed) :].startswith(entry) for entry in stop)
    else:
        assert passed == text


def test_langchain_is_told_what_a_model_can_take() -> None:
    settings = ModelSettings(provider="litellm", model="openai/gpt-4o", capabilities={"audio": True})  # type: ignore[arg-type]
    profile = create(settings, "large").profile
    assert profile is not None
    assert (profile["tool_calling"], profile["image_inputs"], profile["audio_inputs"]) == (True, True, True)
    assert profile["max_input_tokens"] == 128_000
    assert create(ModelSettings(provider="litellm", model="openai/nobody-knows"), "new").profile is None
    small = create(ModelSettings(provider="transformers", model="some/model"), "small").profile
    assert small is not None
    assert small["tool_calling"] is False
    assert "max_input_tokens" not in small
