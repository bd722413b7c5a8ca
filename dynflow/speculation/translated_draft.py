"""Drafts by a model of another tokenizer: the text so far in its tokens, and its words in the target's.

This is string-level exact match (Timor et al., arXiv 2502.05202, SLEM), transformers' universal assisted decoding. What
comes of it are tokens that nobody drew from a distribution, so they are verified as those of a lookup are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile
from math import ceil
from operator import eq

from dynflow.speculation.draft_model import DraftModel
from dynflow.speculation.drafters import Proposal
from dynflow.speculation.token_text import TokenText

_MOST = 4
"""Tokens that a draft model writes at most for one of the target's."""


class TranslatedDraft:
    """Lets a draft model write in its own tokens, and spells that in the target's. One per request.

    `text` and `drafted` begin with the prompt as target and draft model read it, by their own chat templates; what
    follows is kept in step, and no step reads more of it than what is new and the word before. An end of text that the
    draft model writes, one of `ends`, is drafted as the target's own, `end`.
    """

    name = option = "draft_model"
    free = False

    def __init__(
        self, model: DraftModel, text: TokenText, drafted: TokenText, ends: Collection[int] = (), end: int | None = None
    ) -> None:
        """`model` is to draft greedily, and to stop at `ends`."""
        self._model, self._text, self._drafted, self._ends, self._end = model, text, drafted, ends, end
        self._ahead = ""  # what the draft model wrote beyond the target's text
        self._theirs = self._ours = 1  # tokens of the draft model, and what they came to

    def draft(self, tokens: Sequence[int], limit: int) -> Proposal:
        new = self._text.read(tokens[len(self._text.tokens) :])
        agreed = sum(1 for _ in takewhile(bool, map(eq, self._ahead, new)))
        kept = self._drafted.rewrite(len(self._ahead) - agreed, new[agreed:])
        self._model.forget(kept)
        most = ceil(limit * min(self._theirs / self._ours, _MOST))
        written = list(self._model.draft(self._drafted.tokens, most).tokens)
        ended = bool(written) and written[-1] in self._ends
        self._ahead = self._drafted.read(written[: len(written) - ended])
        proposed = self._spelt()
        if proposed is not None and ended and self._end is not None:
            proposed.append(self._end)
        self._theirs, self._ours = self._theirs + len(written), self._ours + len(proposed or ())
        return Proposal((proposed or [])[:limit])

    def _spelt(self) -> list[int] | None:
        """What the draft model wrote, in the target's tokens; None: the target is amid a character that it is not."""
        begun = self._text.unfinished
        spelt = self._text.spell(self._ahead) if self._ahead else []
        return spelt[len(begun) :] if spelt[: len(begun)] == begun else None
