"""Speculation in llama.cpp's server: what it can draft by, and what its events tell of it.

The server takes its way of drafting when it starts, not with a request (build b11549). So each mode has a server of its
own, made when it is first wanted; the weights, mapped from one file, are in memory once, the context is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynflow.speculation.asked import Asked
from dynflow.speculation.choosing import Lookup, Measured, Mode
from dynflow.speculation.statistics import Speculation

BATCH = 64
"""Tokens that a server reads between two looks at whether the request is still wanted: a quarter second on two cores.
A draft and the token before it must fit in, else llama.cpp ends the whole process."""
_KEY = 3  # tokens; with two, new text is drafted for in vain, with five or six, half of what a summary copies is missed
_SHORT, _LONG = 6, 16  # tokens per draft: short ones lose least where a draft is wrong, long ones win most in a copy
_DTYPE = re.compile(r"(?i)(?<![a-z0-9])(i?q\d\w*|bf16|f16|f32)(?![a-z0-9])")


def modes_of(asked: Asked) -> tuple[Mode, ...]:
    """The modes that a request may use. An n-gram cache, which takes a context's memory more, only by name."""
    modes: list[Mode] = []
    if asked.allows("prompt_lookup"):
        # llama.cpp looks no nearer than a whole draft before the end, so that long ones find little; and what follows
        # a key must be as long as the key.
        longest = min(asked.most or _LONG, _LONG)
        modes += [Lookup(min(_KEY, most), most) for most in sorted({min(_SHORT, longest), longest})]
    most = min(asked.most or _SHORT, BATCH - 1)
    if asked.allows("ngram_cache"):
        modes.append(Measured("ngram_cache", most))
    if asked.allows("draft_model") and asked.draft is not None:
        modes.append(Measured("draft_model", most, asked.draft))
    return tuple(modes)


def set_mode(xllamacpp: Any, params: Any, mode: Mode) -> None:
    """Tell a server that is about to start how to draft. A draft model's name is its file's path by now."""
    types, drafting = xllamacpp.common_speculative_type, params.speculative
    if isinstance(mode, Lookup):
        drafting.types = [types.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        drafting.ngram_simple.size_n, drafting.ngram_simple.size_m = mode.key, mode.most
    elif mode.drafter == "ngram_cache":
        drafting.types = [types.COMMON_SPECULATIVE_TYPE_NGRAM_MOD]
        drafting.ngram_mod.n_match, drafting.ngram_mod.n_min, drafting.ngram_mod.n_max = _KEY, 1, mode.most
    else:
        drafting.types = [types.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        drafting.draft.mparams.path, drafting.draft.n_max = mode.draft, mode.most
        drafting.draft.cpuparams = params.cpuparams
        drafting.draft.cpuparams_batch = params.cpuparams_batch


def name_of(mode: Mode) -> str:
    """The drafter of a mode."""
    return "prompt_lookup" if isinstance(mode, Lookup) else mode.drafter


def dtype_of(path: Path) -> str:
    """In which numbers the weights are, as files of weights are named; `gguf` where the name does not say."""
    found = _DTYPE.search(path.stem)
    return found.group(1).upper() if found else "gguf"


class Tally:
    """Counts passes from the events of one streamed answer. Each event must tell its timings (`timings_per_token`).

    An event may stand for several tokens, of more than one pass: what could become a stop text, or is half a character,
    waits. So tokens are counted against what the passes known can have written: the rest came one a pass.
    """

    def __init__(self) -> None:
        self.text: list[str] = []
        self.timings: Mapping[str, Any] = {}
        self.tokens = self.passes = self.drafted = self.accepted = 0
        self.plain: list[float] = []
        """Seconds of each pass for one token."""
        self.checked: list[tuple[int, float]] = []
        """Drafted tokens and seconds of each pass that checked a draft."""
        self._drafted_at: list[int] = []
        self._accepted_at: list[int] = []
        self._left = 0
        """Tokens of the passes known that are still to come; at last, those that the answer's end cut off."""
        self._taken = 0
        """Tokens that the latest pass over a draft accepted."""
        self._last = 0.0

    def read(self, event: Mapping[str, Any]) -> bool:
        """Take in an event; whether its text is an accepted draft's."""
        choice = next(iter(event.get("choices") or ()), None)
        timings = event.get("timings")
        if choice is not None:
            self.text.append((choice.get("delta") or {}).get("content") or "")
        if not timings or "predicted_n" not in timings:
            return False
        self.timings = timings
        fresh = timings["predicted_n"] - self.tokens
        drafted, accepted = timings.get("draft_n", 0) - self.drafted, timings.get("draft_n_accepted", 0) - self.accepted
        if fresh <= 0:
            return False
        seconds = timings["predicted_ms"] / 1000 - self._last
        self._last = timings["predicted_ms"] / 1000
        if not self.tokens:
            self._left = 1  # the first token comes from the pass on the prompt
        if drafted > 0:
            self.passes += 1
            self.checked.append((drafted, seconds))
            self._by_position(drafted, accepted)
            self._left += accepted + 1
        single = max(fresh - self._left, 0)
        self.passes += single
        if single and not drafted:
            self.plain.append(seconds / single)
        self.tokens, self.drafted, self.accepted = self.tokens + fresh, self.drafted + drafted, self.accepted + accepted
        self._left = max(self._left - fresh, 0)
        return self._left > 0  # the last token of a pass is the target's own

    def _by_position(self, drafted: int, accepted: int) -> None:
        self._taken = accepted
        longer = drafted - len(self._drafted_at)
        self._drafted_at += [0] * longer
        self._accepted_at += [0] * longer
        for position in range(drafted):
            self._drafted_at[position] += 1
            self._accepted_at[position] += position < accepted

    def statistics(
        self, mode: Mode | None, plain: float, greedy: bool, dtype: str, fallback: str | None
    ) -> Speculation:
        """Of the whole answer; `plain` are the seconds that a pass for one token takes."""
        cut = min(max(self._left - 1, 0), self._taken)  # accepted, but behind the answer's end
        accepted_at = list(self._accepted_at)
        for position in range(self._taken - cut, self._taken):
            accepted_at[position] -= 1
        return Speculation(
            tokens=self.tokens,
            passes=self.passes,
            drafted=self.drafted,
            accepted=self.accepted - cut,
            drafted_by_position=tuple(self._drafted_at),
            accepted_by_position=tuple(accepted_at),
            drafters=(name_of(mode),) if mode is not None and self.drafted else (),
            seconds=self._last,
            seconds_verifying=sum(seconds for _, seconds in self.checked),
            seconds_plain=plain * max(self.tokens - 1, 0) if self.drafted else self._last,
            exactness="exact_greedy" if greedy else "exact_distribution",
            dtype=dtype,
            fallback=fallback,
        )
