"""Texts made to keep an early-exit classifier from being sure: what `early_exit_attacks.py` measures.

Whoever makes them knows the model, its criterion and its threshold, and asks it as often as they like. The search over
words is after WAFFLE (arXiv 2310.19152, section 4), which turns attacks on accuracy into attacks on exits: it pushes
the exits' probabilities towards uniform.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dynflow.nodes.early_exit_classifier.criteria import Criterion
from dynflow.nodes.early_exit_classifier.criteria.recorded import exits
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel

EDITS = 0.25
"""Share of a text's words that a search may replace, at least one."""
NEAR = 8
"""Words nearest to one that may replace it."""
TRIED = 4
"""Texts drawn for each that is kept."""
SIGNS = "0123456789.,;:-/?!()"
_FREQUENT = 5
_VOCABULARY = 4000
_SUFFIX_WORDS = 3
_SUFFIX_TRIED = 60
_SUFFIX_TEXTS = 24
Progress = Callable[[int, int, str], None]


class Attacker:
    """Makes texts that `criterion` is slow on. `known` are texts to take words from, and to attack."""

    def __init__(self, model: EarlyExitModel, criterion: Criterion, known: Sequence[str], seed: int = 0) -> None:
        self._model = model
        self._criterion = criterion
        self._draw = random.Random(seed)
        counts = Counter(word for text in known for word in re.findall(r"[a-z]+", text.casefold()))
        self._words = [word for word, count in counts.most_common(_VOCABULARY) if count >= _FREQUENT]
        self._places = {word: place for place, word in enumerate(self._words)}
        table = model.architecture.encoder.get_input_embeddings().weight.detach()
        rows = torch.stack([table[model.reader.read(word).ids[1:-1]].mean(0) for word in self._words])
        self._vectors = torch.nn.functional.normalize(rows, dim=1)

    def slowness(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Exits that each text passes, and below 1 how near to uniform those are that it does."""
        logits = self._model.trajectories(texts, criterion=self._criterion.name).astype(np.float64)
        passed = exits(self._criterion, logits, self._model.layers)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        entropy = -(shares * np.log(shares + 1e-12)).sum(-1) / np.log(shares.shape[-1])
        found: NDArray[np.float64] = passed + 0.999 * entropy[:, :-1].mean(1)
        return found

    def words_replaced(self, texts: Sequence[str], progress: Progress) -> list[str]:
        """Each text with some words replaced by near ones, those first that matter most."""
        found = []
        for place, text in enumerate(texts):
            progress(place, len(texts), "searching for words")
            found.append(self._searched(text))
        progress(len(texts), len(texts), "searching for words")
        return found

    def suffix(self, texts: Sequence[str], progress: Progress) -> str:
        """A few words that slow down whatever they are put behind, found on some texts, word by word."""
        tried_on = self._draw.sample(list(texts), min(_SUFFIX_TEXTS, len(texts)))
        found = ""
        for count in range(_SUFFIX_WORDS):
            progress(count, _SUFFIX_WORDS, "searching for a suffix")
            words = self._draw.sample(self._words, min(_SUFFIX_TRIED, len(self._words)))
            tried = [f"{found} {each}" for each in (*words, *SIGNS)]
            slow = self.slowness([f"{text}{each}" for each in tried for text in tried_on])
            found = tried[int(slow.reshape(len(tried), -1).mean(1).argmax())]
        progress(_SUFFIX_WORDS, _SUFFIX_WORDS, "searching for a suffix")
        return found

    def contradictions(self, texts: Sequence[str], labels: Sequence[int], count: int) -> list[str]:
        """Two sentences of different labels in one."""
        sides = [[text for text, label in zip(texts, labels, strict=True) if label == side] for side in set(labels)]
        found = []
        for _ in range(count):
            one, other = self._draw.sample(sides, 2)
            found.append(f"{self._draw.choice(one)} , but {self._draw.choice(other)}")
        return found

    def long_contradictions(self, texts: Sequence[str], labels: Sequence[int], count: int) -> list[str]:
        """As many such pairs as the encoder reads."""
        most = self._model.reader.max_tokens
        return [" . ".join(self.contradictions(texts, labels, max(1, most // 16))) for _ in range(count)]

    def nothing_said(self, count: int) -> list[str]:
        """Words that say nothing, in any order: of those that leave the exits least sure alone, the slowest draws."""
        dullest = np.argsort(-self.slowness(self._words))[: max(20, len(self._words) // 20)]
        words = [self._words[place] for place in dullest]
        drawn = [" ".join(self._draw.choices(words, k=self._draw.randint(4, 24))) for _ in range(TRIED * count)]
        return self._slowest(drawn, count)

    def signs(self, count: int) -> list[str]:
        """Punctuation and digits alone, the slowest draws."""
        drawn = [" ".join(self._draw.choices(SIGNS, k=self._draw.randint(4, 24))) for _ in range(TRIED * count)]
        return self._slowest(drawn, count)

    def _slowest(self, texts: Sequence[str], count: int) -> list[str]:
        return [texts[place] for place in np.argsort(-self.slowness(texts), kind="stable")[:count]]

    def _searched(self, text: str) -> str:
        words = text.split()
        without = [" ".join([*words[:place], "...", *words[place + 1 :]]) for place in range(len(words))]
        slow, *lacking = self.slowness([text, *without])
        order = sorted(range(len(words)), key=lambda place: -abs(lacking[place] - slow))
        edits = max(1, round(EDITS * len(words)))
        for place in order:
            if edits == 0 or slow >= len(self._model.layers) - 1:
                break
            tried = [[*words[:place], near, *words[place + 1 :]] for near in self._near(words[place])]
            if not tried:
                continue
            found = self.slowness([" ".join(each) for each in tried])
            if found.max() > slow:
                slow, words, edits = float(found.max()), tried[int(found.argmax())], edits - 1
        return " ".join(words)

    def _near(self, word: str) -> list[str]:
        place = self._places.get(word.casefold())
        if place is None:
            return []
        nearest = torch.topk(self._vectors @ self._vectors[place], min(NEAR + 1, len(self._words))).indices.tolist()
        return [self._words[each] for each in nearest if each != place]
