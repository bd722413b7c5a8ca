"""Has a model write many texts at once, and keeps the states that it wrote them from (needs torch)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from dynflow.speculation.draft_head.last_states import LastStates


@dataclass(frozen=True)
class Answer:
    """One answer of the target: `tokens` (length,), and `states` (length, width), of which each says its token."""

    tokens: Tensor
    states: Tensor
    greedy: bool


def write(
    model: Any, prompts: Sequence[Sequence[int]], temperatures: Sequence[float], most: int, ends: Collection[int]
) -> list[Answer]:
    """An answer to each prompt, of at most `most` tokens or up to one of `ends`; temperature 0 is greedy.

    Draws from torch's own generator. States are kept in half precision.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    heat = torch.tensor(temperatures)
    rows = torch.arange(len(prompts))
    tokens: list[list[int]] = [[] for _ in prompts]
    states: list[list[Tensor]] = [[] for _ in prompts]
    cache, watched = DynamicCache(config=model.config), LastStates(model)
    try:
        with torch.no_grad():
            for _ in range(most):
                logits = model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
                warm = heat[rows]
                drawn = (logits.float() / warm.clamp(min=1e-3)[:, None]).softmax(dim=-1).multinomial(1)[:, 0]
                chosen = torch.where(warm > 0, drawn, logits.argmax(dim=-1))
                last = watched.states[:, -1].half()
                for row, token, state in zip(rows.tolist(), chosen.tolist(), last, strict=True):
                    tokens[row].append(token)
                    states[row].append(state)
                going = torch.tensor([token not in ends for token in chosen.tolist()])
                if not going.all():
                    cache.batch_select_indices(going.nonzero()[:, 0])
                    rows, chosen, mask, positions = (each[going] for each in (rows, chosen, mask, positions))
                if not len(rows):
                    break
                ids, positions = chosen[:, None], positions[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    finally:
        watched.close()
    return [
        Answer(torch.tensor(written), torch.stack(seen), not temperature)
        for written, seen, temperature in zip(tokens, states, temperatures, strict=True)
    ]
