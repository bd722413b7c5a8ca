"""Tiny encoders with random weights, and artefacts over them: real transformers models that load in milliseconds."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from dynflow.nodes.early_exit_classifier.architectures import architecture_of
from dynflow.nodes.early_exit_classifier.artefact import DELTAS, DESCRIPTION, HASHES, HEADS, Base, Facts, row_hash
from dynflow.nodes.early_exit_classifier.base import weights_digest
from dynflow.nodes.early_exit_classifier.heads import Heads, HeadsShape
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.reading import Reader

LABELS = ("bad", "dull", "good")
WORDS = (
    "a",
    "fine",
    "film",
    "not",
    "one",
    "moment",
    "of",
    "it",
    "was",
    "worth",
    "the",
    "while",
    "dreadful",
    "très",
    "é",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WIDTH = 32
DEPTH = 4
_COMMON: dict[str, Any] = {"vocab_size": len(SPECIAL) + len(WORDS), "num_labels": len(LABELS), "pad_token_id": 0}
_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _SIZES),
    "bert-relu": ("Bert", {**_SIZES, "hidden_act": "relu"}),
    "roberta": ("Roberta", _SIZES),
    "xlm-roberta": ("XLMRoberta", _SIZES),
    "albert": ("Albert", {**_SIZES, "embedding_size": 16}),
    "albert-groups": ("Albert", {**_SIZES, "embedding_size": 16, "num_hidden_groups": 2, "inner_group_num": 2}),
    "distilbert": ("DistilBert", {"dim": WIDTH, "n_layers": DEPTH, "n_heads": 4, "hidden_dim": 48}),
    "deberta-v2": ("DebertaV2", {**_SIZES, "conv_kernel_size": 3, "pooler_hidden_size": WIDTH}),
    "deberta-v3": (
        "DebertaV2",
        {
            **_SIZES,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "pooler_hidden_size": WIDTH,
        },
    ),
    "modernbert": ("ModernBert", {**_SIZES, "local_attention": 8, "global_attn_every_n_layers": 2}),
    "modernbert-mean": ("ModernBert", {**_SIZES, "local_attention": 8, "classifier_pooling": "mean"}),
}


def stock(family: str, *, depth: int = DEPTH, seed: int = 0) -> Any:
    """A stock classifier of transformers with random weights, large enough that layers differ."""
    kind, sizes = CONFIGURATIONS[family]
    layers = {"n_layers": depth} if kind == "DistilBert" else {"num_hidden_layers": depth}
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    config = getattr(transformers, f"{kind}Config")(**_COMMON, **special, **{**sizes, **layers}, initializer_range=0.3)
    torch.manual_seed(seed)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A token for each known word, and one for all others."""
    words = {word: place for place, word in enumerate((*SPECIAL, *WORDS))}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def heads(layers: tuple[int, ...] = (0, 1, 2, 3), seed: int = 1, **shape: Any) -> Heads:
    """Random heads, steep enough that some rows are sure."""
    torch.manual_seed(seed)
    made = Heads(HeadsShape(layers, WIDTH, len(LABELS), **shape))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.5)
    return made.eval()


def model(family: str = "bert", **options: Any) -> EarlyExitModel:
    """An early-exit model over a tiny encoder, with its stock head at the end."""
    return EarlyExitModel(architecture_of(stock(family)), heads(**options), Reader(tokenizer(), 24), LABELS)


def texts(count: int, seed: int = 0, longest: int = 20) -> list[str]:
    """Random texts of 1 to `longest` words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


def artefact(folder: Path, family: str = "bert", *, deltas: dict[str, torch.Tensor] | None = None) -> Path:
    """An artefact in `folder/artefact` over an encoder in `folder/base`; its path."""
    base, place = folder / "base", folder / "artefact"
    encoder = stock(family)
    encoder.save_pretrained(base)
    tokenizer().save_pretrained(base)
    place.mkdir()
    made = heads()
    hashes = torch.tensor([row_hash("a fine film")], dtype=torch.uint64)
    files = {HEADS: {**made.state_dict(), HASHES: hashes}, **({DELTAS: deltas} if deltas else {})}
    digests = {}
    for name, tensors in files.items():
        data = save(tensors)
        (place / name).write_bytes(data)
        digests[name] = hashlib.sha256(data).hexdigest()
    facts = Facts(
        base=Base("../base", weights_digest(base), encoder.config.model_type),
        labels=LABELS,
        depth=DEPTH,
        heads=made.shape.as_dict(),
        max_tokens=24,
        sha256=digests,
        training={},
    )
    (place / DESCRIPTION).write_text(facts.text(), encoding="utf-8")
    return place
