"""Provider `diffusers`: what is a pipeline and what is not, loaded once, and what is said where it cannot be."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref

import pytest

pytest.importorskip("diffusers")

from dynflow.errors import ArtefactError, MissingDependency, MissingModel
from dynflow.models.diffusers import load
from dynflow.models.settings import ModelSettings
from tests.nodes.adaptive_diffusion import tiny_pipelines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pipelines")
    tiny_pipelines.stable_diffusion().save_pretrained(place / "sd")
    tiny_pipelines.stable_diffusion().save_pretrained(place / "pickled", safe_serialization=False)
    tiny_pipelines.stable_diffusion().save_pretrained(place / "damaged")
    [weights] = (place / "damaged" / "unet").glob("*.safetensors")
    weights.write_bytes(b"\x00" * 64)
    (place / "odd").mkdir()
    (place / "odd" / "model_index.json").write_text(json.dumps({"_class_name": "NobodysPipeline"}))
    (place / "broken").mkdir()
    (place / "broken" / "model_index.json").write_text("{")
    return place


def settings(model, **more):
    return ModelSettings(provider="diffusers", model=model, **more)


def test_a_pipeline_is_loaded_once_while_anybody_holds_it(folder):
    one, two = load(settings("sd"), folder), load(settings("sd"), folder)
    assert one is two
    assert load(settings("sd", dtype="bfloat16"), folder).pipeline.unet.dtype != one.pipeline.unet.dtype
    held = weakref.ref(one.pipeline.unet)
    del one, two
    gc.collect()
    assert held() is None


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("./nowhere", MissingModel, "there is no folder"),
        ("odd", ArtefactError, "NobodysPipeline"),
        ("broken", ArtefactError, "is damaged"),
        ("damaged", ArtefactError, "no whole pipeline in damaged"),
        ("pickled", ArtefactError, "no whole pipeline in pickled"),
    ],
)
def test_what_is_no_pipeline_is_said_in_words(folder, model, error, words):
    with pytest.raises(error) as raised:
        load(settings(model), folder)
    assert words in str(raised.value)


@pytest.mark.parametrize("more", [{"device": "cuda:99"}, {"device": "nonsense"}])
def test_a_device_that_is_not_there_is_said_in_words(folder, more):
    with pytest.raises(ArtefactError, match="cannot be put on the device"):
        load(settings("sd", **more), folder)


def test_without_the_package_the_command_that_installs_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingDependency, match=r"pip install \"dynflow\[diffusers\]\""):
        load(settings("sd", revision="other"), folder)


def test_neither_node_nor_provider_loads_the_libraries():
    program = (
        "import sys, dynflow.nodes.adaptive_diffusion, dynflow.nodes.adaptive_diffusion.checks, "
        "dynflow.models.diffusers; "
        "print([name for name in ('torch', 'diffusers', 'transformers', 'numpy', 'PIL') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
