"""Drafts by a trained head (needs torch)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dynflow.speculation.draft_head.last_states import LastStates
from dynflow.speculation.draft_head.network import HeadNetwork, TargetWeights
from dynflow.speculation.drafters import Proposal
from dynflow.speculation.verification import draw


@dataclass(frozen=True)
class LoadedHead:
    """A head beside its target. Shared by the target's requests, which run one at a time."""

    network: HeadNetwork
    target: TargetWeights
    states: LastStates


class DraftHead:
    """Goes on from the target's last state with the head's own forecasts, greedily or drawn at a temperature."""

    name = option = "draft_head"
    free = False

    def __init__(
        self, head: LoadedHead, logits: int, temperature: float | None, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """`logits`: how many the target has; `temperature` None: greedy; `wanted` is asked before each token."""
        self._head, self._logits, self._temperature, self._wanted = head, logits, temperature, wanted

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        target, state = self._head.target, self._head.states.before(len(tokens))
        if state is None:
            return Proposal()
        drafted: list[int] = []
        drawn_from: list[torch.Tensor] = []
        with torch.no_grad():
            state, token = state[None], torch.tensor([tokens[-1]], device=state.device)
            while len(drafted) < limit and self._wanted():
                state = self._head.network(state, target.embed(token))
                logits = target.logits(state)[0]
                if self._temperature is None:
                    place = int(logits.argmax())
                else:
                    chances = (logits.float() / self._temperature).softmax(dim=-1)
                    place = draw(chances[None])
                    drawn_from.append(chances.new_zeros(self._logits).index_copy(0, target.vocabulary, chances))
                token = target.vocabulary[place : place + 1]
                drafted.append(int(token))
        return Proposal(drafted, distributions=torch.stack(drawn_from) if drawn_from else None)
