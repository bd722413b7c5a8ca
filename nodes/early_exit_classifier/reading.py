"""What an encoder reads of a text: its tokens, cut where the model ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dynflow.errors import ArtefactError, InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_CHARACTERS_A_TOKEN = 32
"""Far more than any text needs: what lies beyond is cut unread, so that a huge text takes no time."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text as the encoder reads it, and what is to be said of the reading."""

    ids: list[int]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)


class Reader:
    """A tokenizer that cuts texts at `max_tokens`, special tokens with them. Safe to share between threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        """Raises ArtefactError for a tokenizer that is not of the `tokenizers` library, or knows no padding."""
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or tokenizer.pad_token_id is None:
            raise ArtefactError(f"{type(tokenizer).__name__} is no fast tokenizer with a padding token")
        self.max_tokens = max_tokens
        self.padding = int(tokenizer.pad_token_id)
        self._unknown = tokenizer.unk_token_id
        self._special = frozenset(tokenizer.all_special_ids) - {self._unknown}
        # its own copy: transformers sets and unsets truncation on the shared one at each call
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def read(self, text: str) -> Tokens:
        """The tokens of one text. Raises InputError where it is no Unicode, or holds nothing that the encoder knows."""
        most = self.max_tokens * _CHARACTERS_A_TOKEN
        long = len(text) > most
        read = text.strip()[:most] if long else text
        try:
            encoding = self._tokenizer.encode(read)
        except TypeError as error:  # a string of Python's can hold what UTF-8 cannot
            raise InputError(
                "the text holds a half of a surrogate pair, which is no character: decode it anew"
            ) from error
        ids: list[int] = encoding.ids
        own = [token for token in ids if token not in self._special]
        if not own:
            raise InputError("the text is empty: there is nothing to classify")
        unknown = own.count(self._unknown)
        if unknown == len(own):
            raise InputError(
                "the encoder knows no word of the text, which may be of another script than it was trained on"
            )
        cut = bool(encoding.overflowing)
        if not (unknown or cut or long):
            return Tokens(ids)
        notes = []
        if cut or len(text.strip()) > most:
            where = f"{self.max_tokens} tokens" if cut else f"{most:,} characters"
            notes.append(f"the text was cut at {where}, the most that the encoder reads")
        if 2 * unknown >= len(own):
            notes.append(f"{unknown} of the text's {len(own)} tokens are unknown to the encoder")
        return Tokens(ids, tuple(notes))

    def ids(self, text: str) -> list[int]:
        """The token ids of any text, also of one that says nothing to the encoder; what is no character is replaced."""
        read = text.strip()[: self.max_tokens * _CHARACTERS_A_TOKEN]
        ids: list[int] = self._tokenizer.encode(read.encode(errors="replace").decode()).ids
        return ids

    def batch(self, tokens: Sequence[Tokens]) -> tuple[Tensor, Tensor | None]:
        """Token ids (rows, columns), int64, padded on the right; their mask, None where all are as long."""
        columns = max(map(len, tokens))
        if all(len(each) == columns for each in tokens):
            return torch.tensor([each.ids for each in tokens]), None
        ids = [each.ids + [self.padding] * (columns - len(each)) for each in tokens]
        mask = [[1] * len(each) + [0] * (columns - len(each)) for each in tokens]
        return torch.tensor(ids), torch.tensor(mask)
