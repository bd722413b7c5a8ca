"""The target's last hidden states, of which a draft head forecasts the next."""

from __future__ import annotations

import threading
from typing import Any

from dynflow.errors import ArtefactError

_MOST = 512
"""States that are kept of a long pass, its last ones; more than a draft has tokens."""


class LastStates:
    """Watches a causal language model of transformers, and keeps the states of each thread's latest pass.

    For a model that drafts for a larger one runs in that one's thread too. Raises ArtefactError for a model that does
    not tell its states.
    """

    def __init__(self, model: Any) -> None:
        self._latest = threading.local()
        base = model.base_model
        if base is model or model.get_output_embeddings() is None:
            raise ArtefactError(f"a {type(model).__name__} has no body of its own that tells the last hidden states")
        self._hook = base.register_forward_hook(self._keep, with_kwargs=True)

    @property
    def states(self) -> Any:
        """(batch, tokens, width), after the last norm, as the output layer gets them; None before the first pass."""
        return getattr(self._latest, "states", None)

    def before(self, length: int) -> Any:
        """The state (width) that said the last token of a text of so many; None if the latest pass did not have it."""
        if (states := self.states) is None:
            return None
        place = length - 2 - (self._latest.end - states.shape[1])
        return states[0, place] if 0 <= place < states.shape[1] else None

    def close(self) -> None:
        """Watch no longer."""
        self._hook.remove()

    def _keep(self, module: Any, arguments: Any, named: dict[str, Any], output: Any) -> None:
        cache = named.get("past_key_values")
        self._latest.end = output.last_hidden_state.shape[1] if cache is None else cache.get_seq_length()
        self._latest.states = output.last_hidden_state[:, -_MOST:].detach().clone()
