"""Tokens that are written one by one, and the text of each: what draft and target have in common across tokenizers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_CONTEXT = 6
"""Tokens before a place that are decoded, or written anew, with what follows: for what a tokenizer does at seams."""
_CHARACTER = 4
"""Most tokens that one character takes: it has at most four bytes."""
_ANCHOR = "\n"
"""Text that no word grows together with, for words to be written as if within a text."""
_SAMPLE = 256
"""Words that tell whether tokenizers understand each other."""
_KEPT = 0.5
"""Share of them that must come through."""


class TokenText:
    """An answer's tokens after those of its prompt, and the text that each of them completed.

    That is "" of special tokens, and until a character's last bytes have come. Reading or taking back a token costs the
    same however long the text is.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        """`tokenizer`: of transformers."""
        self._tokenizer, self._prompt = tokenizer, len(prompt)
        self.tokens = list(prompt)
        """All, prompt and answer."""
        self._pieces: list[str] = []
        self._whole = len(prompt)  # tokens whose text has come

    @property
    def unfinished(self) -> list[int]:
        """The last tokens, where their character is not complete."""
        return self.tokens[self._whole :]

    def read(self, tokens: Iterable[int]) -> str:
        """Append tokens; the text that they complete."""
        begin = len(self._pieces)
        for token in tokens:
            self.tokens.append(token)
            known = self.tokens[max(self._whole - _CONTEXT, 0) :]
            text = self._decode(known)
            if text.endswith("\N{REPLACEMENT CHARACTER}") and len(self.unfinished) < _CHARACTER:
                self._pieces.append("")
            else:
                self._pieces.append(text[len(self._decode(known[: -len(self.unfinished)])) :])
                self._whole = len(self.tokens)
        return "".join(self._pieces[begin:])

    def rewrite(self, characters: int, text: str) -> int:
        """Let `text` take the place of the last so many characters; the number of tokens that stay as they were.

        What stands there since the last word began is written anew, as the tokenizer writes whole words. Unfinished
        characters and special tokens at the end are dropped.
        """
        dropped, further = "", 0
        while self._pieces and (not self._pieces[-1] or len(dropped) < characters):
            dropped = self._drop() + dropped
        text = dropped[: len(dropped) - characters] + text
        while text and not text[0].isspace() and self._pieces and further < _CONTEXT:
            text, further = self._drop() + text, further + 1
        while self._pieces and not self._pieces[-1]:  # the first bytes of a character that went
            self._drop()
        self._whole = kept = len(self.tokens)
        self.read(self.spell(text) if text else ())
        return kept

    def spell(self, text: str) -> list[int]:
        """The tokens of `text` where it follows this one."""
        for before in (self._ending(), _ANCHOR):
            tokens = self._encode(before + text) if before else []
            for count in range(1, len(tokens) + 1):
                decoded = self._decode(tokens[:count])
                if decoded == before:
                    return tokens[count:]
                if len(decoded) > len(before) + _CHARACTER:
                    break
        return self._encode(text)

    def _ending(self) -> str:
        return "".join(self._pieces[-_CONTEXT:])

    def _drop(self) -> str:
        self.tokens.pop()
        return self._pieces.pop()

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return tokens


def translation_fault(target_tokenizer: Any, draft_tokenizer: Any) -> str | None:
    """Why what one tokenizer writes cannot be read by the other, if so: by some hundred words of the target's."""
    size = len(target_tokenizer)
    words = [
        target_tokenizer.decode([token], skip_special_tokens=True) for token in range(0, size, max(size // _SAMPLE, 1))
    ]
    words = [word for word in words if word.strip() and "\N{REPLACEMENT CHARACTER}" not in word]
    kept = 0
    for word in words:
        there = draft_tokenizer.encode(word, add_special_tokens=False)
        kept += draft_tokenizer.decode(there, skip_special_tokens=True).strip() == word.strip()
    if kept < _KEPT * len(words) or not words:
        return f"of {len(words)} words of the target's vocabulary its tokenizer keeps {kept}: it cannot read the text"
    return None
