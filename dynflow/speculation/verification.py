"""Which tokens of a draft the target keeps, so that its text stays what it would have been alone (needs torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dynflow.speculation.drafters import Proposal

Processors = Callable[[Tensor, Tensor], Tensor]
"""transformers' logits processors: from (token ids (1, length), logits (1, vocabulary)) to changed logits."""


def verify(
    logits: Tensor, ids: Tensor, proposal: Proposal, processors: Sequence[Any] | Processors, sample: bool
) -> list[int]:
    """The tokens that the target writes: those of the draft that it takes, and one of its own.

    `logits`: (drafted + 1, vocabulary), float32, of the text `ids` (1, length) and of it with each drafted token.
    Greedy: a draft is taken where it is the likeliest token. Sampled: exact in distribution. A token that was not
    drawn, of probability p to the target, is taken with p, and else another is drawn from what remains without it,
    which is to say: the target draws, and what it draws counts. So seeded text is that of the target alone. A drawn one
    is taken with min(1, p / q), else one is drawn from max(0, p - q) (Leviathan et al., arXiv 2211.17192, §2.3; Chen et
    al., arXiv 2302.01318, algorithm 2).
    """
    drafted = list(proposal.tokens)
    if not sample and not processors:
        best: list[int] = logits.argmax(dim=-1).tolist()
        taken = next((index for index, token in enumerate(drafted) if best[index] != token), len(drafted))
        return best[: taken + 1]
    text = torch.cat([ids, ids.new_tensor([drafted])], dim=1) if drafted else ids
    written: list[int] = []
    for index in range(len(drafted) + 1):
        scores = processed(processors, text[:, : ids.shape[1] + index], logits[index : index + 1])
        token = drafted[index] if index < len(drafted) else None
        if not sample:
            chosen = int(scores.argmax())
        elif token is None or proposal.distributions is None:
            chosen = draw(scores.softmax(dim=-1))
        else:
            chosen = _take_or_redraw(scores.softmax(dim=-1)[0], proposal.distributions[index], token)
        written.append(chosen)
        if chosen != token:
            break
    return written


def processed(processors: Any, ids: Tensor, logits: Tensor) -> Tensor:
    """The logits (1, vocabulary) as processors change them."""
    return processors(ids, logits) if processors else logits


def draw(probabilities: Tensor) -> int:
    """One token by its probability, (1, vocabulary), from torch's own generator, as transformers draws it."""
    return int(torch.multinomial(probabilities, num_samples=1))


def _take_or_redraw(target: Tensor, draft: Tensor, token: int) -> int:
    """`token`, drawn from `draft`, or another, so that the whole is drawn from `target`; both (vocabulary,)."""
    if float(torch.rand(())) * float(draft[token]) < float(target[token]):
        return token
    rest = (target - draft).clamp(min=0)
    return draw((rest if rest.any() else target)[None])  # of two that differ by rounding alone, nothing may remain
