"""What is kept of a GGUF model: the same model, whole or not at all."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from dynflow.models.dequantised import load_kept

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Loader:
    """Loads a tiny model: from a folder as transformers does, or, as if it were a GGUF file, from a seed."""

    def __init__(self) -> None:
        self.widened = 0

    def __call__(self, source: dict[str, Any]) -> tuple[Any, Any]:
        folder = source["pretrained_model_name_or_path"]
        if "gguf_file" not in source:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            return tokenizer, transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
        self.widened += 1
        return _tokenizer(), _model(int((Path(folder) / source["gguf_file"]).read_text()))


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"<unk>": 0, "hello": 1}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>")
    tokenizer.chat_template = "{{ messages }}"
    return tokenizer


def _model(seed: int) -> Any:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 2, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config)
    model.config.quantization_config = {"quant_method": "gguf"}  # as it stands in a model that was widened
    return model


def weights(model: Any) -> dict[str, list[float]]:
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNFLOW_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    file.write_text("1")
    return file


def kept(file: Path) -> list[Path]:
    return sorted((file.parent / "cache" / "dequantised").iterdir())


def test_it_is_widened_once(file: Path) -> None:
    load = Loader()
    first_tokenizer, first = load_kept(file, load)
    tokenizer, model = load_kept(file, load)
    assert load.widened == 1
    assert weights(model) == weights(first)
    assert tokenizer.chat_template == first_tokenizer.chat_template
    assert not hasattr(model.config, "quantization_config")
    assert [path.name[0] for path in kept(file)] != ["."]
    file.write_text("2")
    assert weights(load_kept(file, load)[1]) != weights(first)
    assert (load.widened, len(kept(file))) == (2, 2)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "manifest"])
def test_what_is_damaged_is_made_anew(file: Path, damage: str) -> None:
    load = Loader()
    whole = weights(load_kept(file, load)[1])
    weights_file = kept(file)[0] / "model.safetensors"
    data = weights_file.read_bytes()
    if damage == "flipped":
        weights_file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "cut":
        weights_file.write_bytes(data[: len(data) // 2])
    elif damage == "gone":
        weights_file.unlink()
    else:
        (kept(file)[0] / "manifest.json").write_text("{")
    assert weights(load_kept(file, load)[1]) == whole
    assert load.widened == 2
    assert weights(load_kept(file, load)[1]) == whole
    assert load.widened == 2


def test_what_cannot_be_read_any_more_is_made_anew(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    load = Loader()
    load_kept(file, load)

    def refuse(source: dict[str, Any]) -> tuple[Any, Any]:
        if "gguf_file" in source:
            return load(source)
        raise KeyError("a name of another version")

    load_kept(file, refuse)
    assert load.widened == 2
    assert "made anew" in caplog.text


def test_a_cache_that_cannot_be_written_costs_time_only(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    (file.parent / "cache").write_text("a file where the folder would be")
    load = Loader()
    with caplog.at_level(logging.WARNING):
        load_kept(file, load)
        load_kept(file, load)
    assert load.widened == 2
    assert "cannot keep tiny.gguf" in caplog.text
