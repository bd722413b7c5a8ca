"""Tiny tokenizers of the kinds that there are, learnt from a few lines."""

from __future__ import annotations

import json
from typing import Any

TEXTS = (
    "The harbour of Westmouth closed on Monday after a crane fell across the main pier.\n",
    "Über den Dächern der Stadt stand das Café; niemand kam. 漢字と仮名 are not alike 🙂🙃.\n",
    "def add(first, second):\n    return first + second  # 12 345 678\n\n\n",
    " a  b   c\tthe quick brown fox, jumped over the lazy dog's “own” basket…\n",
)


def byte_level(size: int = 330) -> Any:
    """As GPT-2's: words with the space before them, bytes at the bottom. Turns are marked by special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>", "<|turn|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    template = "{% for message in messages %}<|turn|>{{ message['content'] }}<|end|>{% endfor %}<|turn|>"
    return _fast(tokenizer, "<|end|>", template)


def byte_fallback(size: int = 420) -> Any:
    """As Llama 2's: a space is put before a text, bytes are there for unknown characters only."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    special = ["<unk>", "<s>", "</s>"]
    given = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learnt = Tokenizer(models.BPE())
    learnt.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=given, show_progress=False)
    words = [word for text in TEXTS for word in text.split() if word.isascii()]
    learnt.train_from_iterator(words, trainer)
    model = json.loads(learnt.to_str())["model"]
    merges = [(first, second) for first, second in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    template = "<s>{% for message in messages %}[INST] {{ message['content'] }} [/INST]{% endfor %}"
    return _fast(tokenizer, "</s>", template)


def runs_of_letters(*merged: str) -> Any:
    """Letters a to l without spaces, and pairs of them that are one token: no more than that, so 12 tokens at least."""
    from tokenizers import Tokenizer, decoders, models

    words = [*"abcdefghijkl", *merged]
    merges = [(word[:-1], word[-1]) for word in merged]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.decoder = decoders.Fuse()
    return _fast(tokenizer, None, "{{ messages[0]['content'] }}")


def _fast(tokenizer: Any, end: str | None, template: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end)
    fast.chat_template = template
    return fast
