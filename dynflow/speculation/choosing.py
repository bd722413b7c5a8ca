"""Whether, and with which settings, to draft for one whole request: for engines that take them so.

Decided from the prompt, from what drafts would have won in earlier answers, and from what passes cost here. Lookup is
not tried out at a request's expense: after every answer, drafted or not, each setting is replayed on its text. What
cannot be replayed, such as a draft model, is measured where it is used, and tried again after a while where it lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["edits", "reads", "writes"]
"""What a prompt asks for: text that stands in it to be written again, something about such text, or new text."""

_WORDS = re.compile(r" ?\w+| ?[^\w\s]+|\s+")  # near enough to tokens
_AGAIN = re.compile(
    r"\b(cop(y|ies)|repeat|rewrite|rename|edit|fix|correct|proofread|refactor|replace|change|insert|reformat|extract|quote"
    r"|verbatim|word for word|exactly as|once more|write .{0,40}again)\b",
    re.IGNORECASE,
)
_MATERIAL = 40
"""Words that a conversation must have for there to be something to copy from."""
_WEIGHT = 0.25
"""Of the latest request in the running means."""
_MARGIN = 0.03
"""Share of the time that drafting must be expected to save."""
_FIRST_TRY = 0.9
"""Time, as a share of plain decoding's, that a measured mode is taken to need before it was used."""
_RECOVERY = 0.02
"""How fast a measured mode that lost is thought better of again, a request."""
_LATEST = 4_000
"""Words of a prompt that replays look at; the last ones."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """Drafting by lookup: `most` tokens that followed the latest earlier place of the last `key` tokens."""

    key: int
    most: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Drafting of another kind, known by what it won: `drafter`, most tokens per draft, and the draft model's file."""

    drafter: Literal["ngram_cache", "draft_model"]
    most: int
    draft: str | None = None


Mode = Lookup | Measured


_DRAFTED = 0.35
"""What a drafted token adds to a pass, until it is measured; without drafts to measure by, the mean returns to it."""
_FADING = 0.05


@dataclass(slots=True)
class Costs:
    """What forward passes of one model take on this machine, as running means in seconds; guesses at first."""

    plain: float = 0.015
    """A pass for one token."""
    drafted: float = _DRAFTED
    """What each drafted token adds to it, as a share of a plain pass."""
    reading: float = 0.0015
    """Reading one character of a prompt."""
    _measured: set[str] = field(default_factory=set)

    def learn(self, plain: float | None, drafted: float | None, reading: float | None) -> None:
        """Take in what one request showed; None: it did not."""
        if drafted is None:  # what a busy moment showed must not keep drafting off for ever
            self.drafted += _FADING * (_DRAFTED - self.drafted)
        else:
            self.drafted += _WEIGHT * (min(max(drafted, 0.01), 2.0) - self.drafted)
        for name, value in (("plain", plain), ("reading", reading)):
            if value is not None:
                weight = _WEIGHT if name in self._measured else 1.0
                self._measured.add(name)
                setattr(self, name, getattr(self, name) + weight * (value - getattr(self, name)))


@dataclass(slots=True)
class Rates:
    """Drafted and accepted tokens per token of an answer."""

    drafted: float
    accepted: float

    def time(self, costs: Costs) -> float:
        """Time per token as a share of plain decoding's."""
        return 1.0 - self.accepted + costs.drafted * self.drafted

    def learn(self, drafted: float, accepted: float) -> None:
        """Take in one answer."""
        self.drafted += _WEIGHT * (drafted - self.drafted)
        self.accepted += _WEIGHT * (accepted - self.accepted)


def expected(kind: Kind, lookup: Lookup) -> Rates:
    """Rates to begin with: those of SmolLM2 on a few dozen prompts, before anything is known of a flow."""
    drafted, accepted = {"edits": (0.56, 0.67), "reads": (0.36, 0.32), "writes": (0.15, 0.06)}[kind]
    return Rates(drafted * (1.0 + lookup.most / 16), accepted * (1.0 + lookup.most / 160))


@dataclass
class Chooser:
    """Chooses for the requests of one flow. `costs` are the model's, shared by all its flows."""

    costs: Costs
    tokens: float = 64.0
    """Length of an answer, a running mean."""
    _rates: dict[tuple[Kind, Lookup], Rates] = field(default_factory=dict)
    _measured: dict[tuple[Kind, Measured], float] = field(default_factory=dict)

    def rates(self, kind: Kind, lookup: Lookup) -> Rates:
        """What is expected of a mode for prompts of a kind."""
        return self._rates.setdefault((kind, lookup), expected(kind, lookup))

    def time(self, kind: Kind, mode: Mode) -> float:
        """Time per token that is expected of a mode, as a share of plain decoding's."""
        if isinstance(mode, Measured):
            return self._measured.get((kind, mode), _FIRST_TRY)
        return self.rates(kind, mode).time(self.costs)

    def choose(self, kind: Kind, modes: Sequence[Mode], unread: Mapping[Mode | None, int]) -> Mode | None:
        """The mode that should take least time; None: plain decoding.

        `unread` are the characters of the prompt that a mode must read first, and another may still have in its cache.
        """
        times = {mode: self.time(kind, mode) for mode in modes}
        worth: dict[Mode | None, float] = {mode: time for mode, time in times.items() if time < 1.0 - _MARGIN}
        answer = self.tokens * self.costs.plain
        return min(
            (None, *worth),
            key=lambda mode: worth.get(mode, 1.0) * answer + unread.get(mode, 0) * self.costs.reading,
        )

    def learn(
        self,
        kind: Kind,
        prompt: str,
        answer: str,
        tokens: int,
        modes: Sequence[Mode],
        used: Mode | None = None,
        time: float | None = None,
    ) -> None:
        """Take in an answer; `time` is what the mode used took for it as a share of plain decoding's, if known."""
        if not tokens:
            return
        self.tokens += _WEIGHT * (tokens - self.tokens)
        before, words = _WORDS.findall(prompt)[-_LATEST:], _WORDS.findall(answer)
        for mode in modes if words else ():
            if isinstance(mode, Lookup):
                drafted, accepted = replay(before, words, mode)
                self.rates(kind, mode).learn(drafted / len(words), accepted / len(words))
            elif mode != used:
                self._measured[kind, mode] = self.time(kind, mode) * (1.0 - _RECOVERY)
            elif time is not None:
                self._measured[kind, mode] = self.time(kind, mode) + _WEIGHT * (time - self.time(kind, mode))


def kind_of(prompt: str, instruction: str) -> Kind:
    """What a prompt asks for: by its length, and by the words of the part that says what to do."""
    if sum(1 for _ in re.finditer(r"\w+", prompt)) < _MATERIAL:
        return "writes"
    return "edits" if _AGAIN.search(instruction) else "reads"


def replay(prompt: Sequence[str], answer: Sequence[str], mode: Lookup) -> tuple[int, int]:
    """How many tokens a lookup would have drafted in this answer, and how many of them had been accepted."""
    history = [*prompt, *answer]
    latest: dict[tuple[str, ...], int] = {}  # a key, and where what follows it begins
    indexed, at = 0, len(prompt) + 1  # the first token of an answer comes from the pass on the prompt
    drafted = accepted = 0
    while at < len(history):
        while indexed + mode.key < at:
            latest[tuple(history[indexed : indexed + mode.key])] = indexed + mode.key
            indexed += 1
        begin = latest.get(tuple(history[at - mode.key : at]), math.inf) if at >= mode.key else math.inf
        taken = 0
        if begin < at:
            # What stands after `at` is not known yet: a draft ends there, as it does before the answer's last token.
            draft = history[int(begin) : min(int(begin) + mode.most, at)][: len(history) - at - 1]
            drafted += len(draft)
            while taken < len(draft) and draft[taken] == history[at + taken]:
                taken += 1
            accepted += taken
        at += taken + 1
    return drafted, accepted
