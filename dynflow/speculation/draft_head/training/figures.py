"""How good a draft head is: how often its target takes what it drafts (needs torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from dynflow.speculation.draft_head.network import HeadNetwork, TargetWeights
    from dynflow.speculation.draft_head.training.writing import Answer

LONGEST = 8


@dataclass(frozen=True)
class Figures:
    """Of greedy answers that were held out. `taken[k]`: share of the drafted tokens k + 1 that the target takes where
    it took those before; `places`: from how many places of the answers drafts were judged; `covered`: share of the
    answers' tokens that the draft vocabulary has."""

    answers: int
    places: int
    taken: tuple[float, ...]
    covered: float

    def tokens_a_pass(self, drafted: int) -> float:
        """Tokens that a pass of the target over a draft of so many gives, its own among them."""
        total, chance = 1.0, 1.0
        for share in self.taken[:drafted]:
            chance *= share
            total += chance
        return total


def judge(network: HeadNetwork, target: TargetWeights, answers: Sequence[Answer]) -> Figures:
    """Draft from every place of these answers, which the target wrote greedily, and compare."""
    tried, taken = torch.zeros(LONGEST), torch.zeros(LONGEST)
    has = total = 0
    with torch.no_grad():
        for answer in answers:
            tokens = answer.tokens
            state = answer.states.to(next(network.parameters()).dtype)
            alive = torch.ones(len(tokens), dtype=torch.bool)
            has, total = has + int(torch.isin(tokens, target.vocabulary).sum()), total + len(tokens)
            embedded = target.embed(tokens).to(state.dtype)
            for ahead in range(1, min(LONGEST, len(tokens) - 1) + 1):
                # A draft is right so far only if its tokens are the answer's: so those may be read in place of its own.
                state, alive = network(state[:-1], embedded[ahead - 1 : -1]), alive[:-1]
                right = target.vocabulary[target.logits(state.to(target.dtype)).argmax(dim=-1)] == tokens[ahead:]
                tried[ahead - 1] += alive.sum()
                alive = alive & right
                taken[ahead - 1] += alive.sum()
    shares = (taken / tried.clamp(min=1)).tolist()
    return Figures(len(answers), int(tried[0]), tuple(round(share, 4) for share in shares), has / max(total, 1))
