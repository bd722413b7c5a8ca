"""Further forms of training texts, so that what is learnt from a benchmark's prompts holds for other traffic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from dynflow.nodes.difficulty_classifier.features import reading

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAIN = 1
"""Which of the forms is the text as a chat would ask it."""
_SEED = 0
_WORDS = (4, 16)
_SENTENCE = re.compile(r"(?<=[.!?])\s|\n")


def augmented(texts: Sequence[str]) -> list[list[str]]:
    """Three forms of each text, as three lists in the order of `texts`: as it is; without lettered choices; behind
    words or a sentence or two of other texts, which have nothing to do with how hard it is. The same input gives the
    same forms."""
    random = np.random.default_rng(_SEED)
    plain = [reading(text) for text in texts]
    words = [word for text in texts for word in text.split()]
    sentences = [part.strip() for text in plain for part in _SENTENCE.split(text) if part.strip()]

    def drawn(pieces: list[str], count: int) -> str:
        return " ".join(pieces[place] for place in random.integers(0, len(pieces), count))

    behind = []
    for text, bare in zip(texts, plain, strict=True):
        of_words = random.random() < 0.5
        preamble = (
            drawn(words, int(random.integers(*_WORDS))) if of_words else drawn(sentences, int(random.integers(1, 3)))
        )
        behind.append(f"{preamble} {text if random.random() < 0.5 else bare}")
    return [list(texts), plain, behind]
