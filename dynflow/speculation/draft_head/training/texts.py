"""What a draft head learns from: the target's own answers, to given prompts or to ones that it draws itself."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from dynflow.errors import InputError
from dynflow.speculation.draft_head.training.writing import Answer, write

if TYPE_CHECKING:
    from dynflow.learning.kept import Progress

_AT_ONCE = 64
_PROMPT_TOKENS = 80
"""Of a prompt that the target draws itself."""
_PROMPT_HEAT = 0.8
_HEATS = (0.0, 0.0, 0.6, 1.0)
"""Temperatures of the answers, by chance; those held out are greedy."""
_HELD_OUT = 16
"""One answer of so many."""
_TASKS = (
    "Summarise this text in two sentences:",
    "What is this text about? Answer briefly.",
    "Give the main points of this text as a list:",
    "Explain this text in simpler words:",
)
"""What is asked about a drawn text that came to no end: it is taken for something to read."""
_MARK = "\N{REPLACEMENT CHARACTER}here\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Texts:
    """How many answers, of how many tokens at most. `prompts`: those to answer, in turns; none: the target's own."""

    answers: int = 2_000
    tokens: int = 128
    prompts: tuple[str, ...] = ()
    seed: int = 0

    def held_out(self, row: int) -> bool:
        """Whether an answer is to judge by, and none to the same prompt is to learn from."""
        return (row % len(self.prompts) if self.prompts else row) % _HELD_OUT == 0


def collect(model: Any, tokenizer: Any, texts: Texts, folder: Path, digest: str, progress: Progress) -> list[Answer]:
    """The answers; finished parts of them are found again in `folder`, by `digest` of the model."""
    told = [digest, asdict(texts), _TASKS, _HEATS, _HELD_OUT]
    place = folder / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    found: list[Answer] = []
    with torch.random.fork_rng(devices=[]):
        for start in range(0, texts.answers, _AT_ONCE):
            progress(start, texts.answers, "the model's own text")
            path = place / f"{start:08}.safetensors"
            if not path.is_file():
                torch.manual_seed(texts.seed + start)
                rows = range(start, min(start + _AT_ONCE, texts.answers))
                _keep(_answers(model, tokenizer, texts, rows), path)
            found += _kept(path)
    progress(texts.answers, texts.answers, "the model's own text")
    return found


def own_prompts(model: Any, tokenizer: Any, count: int, draw: random.Random) -> list[str]:
    """Prompts that a chat model draws itself, asked to go on where its template begins a user's turn (Xu et al.,
    Magpie, arXiv 2406.08464). Raises InputError."""
    template = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    before, _, after = template.partition(_MARK)
    begin, turn = (tokenizer(part.strip(" "), add_special_tokens=False)["input_ids"] for part in (before, after))
    ends = _ends(model) | set(turn[:1])
    if not begin:
        raise InputError("the model's chat template begins with the user's words, so it draws no prompts: give --data")
    prompts = []
    for answer in write(model, [begin] * count, [_PROMPT_HEAT] * count, _PROMPT_TOKENS, ends):
        tokens = answer.tokens.tolist()
        text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        prompts.append(text if tokens[-1] in ends else f"{draw.choice(_TASKS)}\n\n{text}")
    return prompts


def _answers(model: Any, tokenizer: Any, texts: Texts, rows: Sequence[int]) -> list[Answer]:
    draw = random.Random(texts.seed + rows[0])
    if texts.prompts:
        prompts = [texts.prompts[row % len(texts.prompts)] for row in rows]
    else:
        prompts = own_prompts(model, tokenizer, len(rows), draw)
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in prompts
    ]
    asked = [ids[-(model.config.max_position_embeddings - texts.tokens) :] for ids in asked]
    heats = [0.0 if texts.held_out(row) else draw.choice(_HEATS) for row in rows]
    return write(model, asked, heats, texts.tokens, _ends(model))


def _ends(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


def _keep(answers: Sequence[Answer], path: Path) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}")
    save_file(
        {
            "tokens": torch.cat([answer.tokens for answer in answers]),
            "states": torch.cat([answer.states for answer in answers]),
            "lengths": torch.tensor([len(answer.tokens) for answer in answers]),
            "greedy": torch.tensor([answer.greedy for answer in answers]),
        },
        unfinished,
    )
    os.replace(unfinished, path)


def _kept(path: Path) -> list[Answer]:
    kept = load_file(path)
    lengths = kept["lengths"].tolist()
    tokens, states = (torch.split(kept[name], lengths) for name in ("tokens", "states"))
    return [Answer(*parts) for parts in zip(tokens, states, kept["greedy"].tolist(), strict=True)]
