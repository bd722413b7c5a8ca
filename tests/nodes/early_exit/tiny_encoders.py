"""Tiny random encoders and a small sample to train them on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

GOOD, BAD = ["fine", "great", "lovely", "bright"], ["dull", "bleak", "broken", "stale"]
COMMON = ["film", "story", "scene", "actor", "plot", "song", "with", "and", "the", "one", "very", "so"]
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(num_hidden_layers=2, **SMALL),
    "roberta": lambda: transformers.RobertaConfig(num_hidden_layers=2, pad_token_id=0, **SMALL),
    "albert": lambda: transformers.AlbertConfig(num_hidden_layers=2, embedding_size=16, pad_token_id=0, **SMALL),
    "modernbert": lambda: transformers.ModernBertConfig(
        num_hidden_layers=2, pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, **SMALL
    ),
}
QUICK = Recipe(alone_epochs=1, epochs=4, batch_rows=16, rate=1e-2, heads_rate=2e-2, rank=4, held_out=24, max_tokens=16)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny products gain nothing from more, and two threads on busy cores wait for each other without end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encoder(folder: Path, kind: str, *, classifies: bool = False) -> Path:
    """A tiny random encoder, or a whole classifier, with a tokenizer that knows the words above."""
    torch.manual_seed(0)
    made: Any = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModel
    made.from_config(CONFIGS[kind]()).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *COMMON]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, "[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    return folder


def reviews(path: Path, rows: int = 240) -> Path:
    """A file of reviews whose label one of their words decides."""
    draw = random.Random(rows)
    lines = ["text\tlabel"]
    for row in range(rows):
        label = row % 2
        words = [draw.choice(COMMON) for _ in range(draw.randint(4, 9))]
        words[draw.randrange(len(words))] = draw.choice(GOOD if label else BAD)
        lines.append(f"{' '.join(words)}\t{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
