"""The network of a draft head (needs torch)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class HeadNetwork(nn.Module):
    """Foretells, from the target's last hidden state and the token that it chose, its hidden state after that token.

    Fed with its own forecasts it goes on, token by token: a recurrent drafter (Cheng et al., arXiv 2403.09919) that
    forecasts features (Li et al., EAGLE, arXiv 2401.15077), by one gated layer and without attention, so that it needs
    no cache of its own. What the forecast says, the target's own output weights tell, of `draft vocabulary` only.
    """

    def __init__(self, width: int, inner: int) -> None:
        """`width`: of the target's hidden states; `inner`: of the gated layer."""
        super().__init__()
        self.width, self.inner = width, inner
        self.state_norm, self.token_norm = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.read = nn.Linear(2 * width, 2 * inner + width, bias=False)
        self.write = nn.Linear(inner, width, bias=False)

    def forward(self, state: Tensor, embedding: Tensor) -> Tensor:
        """The next state. All are (…, width): state, embedding of the token, and what is returned."""
        kept = self.state_norm.weight.dtype  # which mixed precision computes norms in
        seen = torch.cat([self.state_norm(state.to(kept)), self.token_norm(embedding.to(kept))], dim=-1)
        gate, up, straight = self.read(seen).split([self.inner, self.inner, self.width], dim=-1)
        written: Tensor = straight + self.write(functional.silu(gate) * up)
        return written


class TargetWeights:
    """What a head borrows from its target: embeddings, and the output weights of the draft vocabulary."""

    def __init__(self, target: Any, vocabulary: Tensor) -> None:
        """`vocabulary`: ids of the tokens that can be drafted, (tokens,)."""
        output = target.get_output_embeddings()
        self.vocabulary = vocabulary.to(target.device)
        self._embeddings = target.get_input_embeddings()
        self._rows = output.weight.detach()[self.vocabulary]  # a copy, in one piece
        bias = getattr(output, "bias", None)
        self._bias = None if bias is None else bias.detach()[self.vocabulary]

    @property
    def dtype(self) -> torch.dtype:
        """Of the target's weights."""
        dtype: torch.dtype = self._rows.dtype
        return dtype

    def embed(self, tokens: Tensor) -> Tensor:
        """(…) ids to (…, width)."""
        embedded: Tensor = self._embeddings(tokens).detach()
        return embedded

    def logits(self, states: Tensor) -> Tensor:
        """(…, width) to (…, tokens of the draft vocabulary)."""
        return functional.linear(states, self._rows, self._bias)
