"""Tiny random language models, and generation with and without speculation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynflow.speculation.acceptance import Acceptance
from dynflow.speculation.controller import Controller
from dynflow.speculation.costs import Costs
from dynflow.speculation.decoding import SpeculativeDecoding
from dynflow.speculation.drafters import Drafter

VOCABULARY = 12
CHEAP = {1: 1.0, 17: 1.2}
"""Passes of which more tokens cost hardly more: always worth a draft."""


def tiny_llama(seed: int = 0, hidden: int = 16, layers: int = 1, **config: Any) -> Any:
    """A random Llama whose texts soon repeat themselves."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    usual = {"vocab_size": VOCABULARY, "max_position_embeddings": 256, "eos_token_id": 11, "pad_token_id": 11}
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            initializer_range=0.5,
            bos_token_id=None,
            **{**usual, **config},
        )
    )
    return model.eval()


def agreeing(layers: int = 8, **config: Any) -> Any:
    """A model whose layers after the first do nothing, so that the first alone says what all say."""
    import torch

    model = tiny_llama(layers=layers, **config)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


class Tokens:
    """A writer that keeps what goes out together, and whether it had been drafted."""

    def __init__(self) -> None:
        self.runs: list[tuple[list[int], bool]] = []
        self._tokens: list[int] = []

    def put(self, ids: Any) -> None:
        self._tokens.append(int(ids))

    def flush(self, accepted: bool) -> None:
        if self._tokens:
            self.runs.append((self._tokens, accepted))
        self._tokens = []


def speculating(
    drafters: Sequence[Drafter], writer: Tokens | None = None, wanted: Any = lambda: True, longest: int = 8
) -> SpeculativeDecoding:
    controller = Controller(FixedCosts(CHEAP), Acceptance(400), longest)
    return SpeculativeDecoding(drafters, controller, writer or Tokens(), wanted)


class FixedCosts(Costs):
    """Learns nothing from the clock."""

    def learn(self, tokens: int, seconds: float) -> None:
        pass


def generate(
    model: Any, prompt: Sequence[int], decoding: SpeculativeDecoding | None = None, **options: Any
) -> list[int]:
    """The answer's tokens, greedy unless the options say otherwise."""
    import torch

    ids = torch.tensor([prompt])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            **{"do_sample": False, "max_new_tokens": 32, "custom_generate": decoding, **options},
        )
    answer: list[int] = text[0, len(prompt) :].tolist()
    return answer


def save_tiny(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    """The model as a folder. Its tokenizer, unless given, has one-letter words, a to k, and a bare chat template."""
    (tokenizer or letters()).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def letters(words: str = "abcdefghijk") -> Any:
    """A tokenizer of eleven one-letter words and an end."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: index for index, letter in enumerate(words)} | {"</s>": 11}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="</s>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="</s>")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return fast
