"""Labelled texts for a tiny early-exit model."""

from __future__ import annotations

from dynflow.learning.labelled import Labelled
from tests.nodes.early_exit import tiny

SEEN = "a fine film"
"""What the tiny artefact says that it was trained on."""


def labelled() -> list[Labelled]:
    """Texts with labels that the whole model gets right two times of three."""
    texts = [text for text in dict.fromkeys(tiny.texts(700, seed=3)) if text != SEEN]
    said = [each.label for each in tiny.model().classify(texts, None)]
    return [
        Labelled(text, tiny.LABELS[(tiny.LABELS.index(label) + (place % 3 == 0)) % 3], "texts", place + 1)
        for place, (text, label) in enumerate(zip(texts, said, strict=True))
    ]
