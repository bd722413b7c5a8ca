"""What Whisper has heard: text in segments, and those segments that are certain while it still writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dynflow.speculation.statistics import Speculation


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of speech, from `start` to `end`, in seconds of the recording."""

    start: float
    end: float
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for ports and JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in one recording."""

    text: str
    segments: tuple[Segment, ...]
    language: str | None
    """Its code, such as `en`; None where the model does not tell."""
    speculation: Speculation


class Writer:
    """Takes tokens of one window after another, and delivers text that stays: a segment at a time.

    What Whisper writes after the last end of a segment is thrown away, and heard again in the next window (§4.5 of
    Radford et al., arXiv 2212.04356): so a segment is certain once the next one begins, with two timestamps in a row.
    A window without timestamps is one segment.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], deliver: Callable[[str], object], **marks: int) -> None:
        """`decode` gives the text of tokens. `marks`: `end` of text, and `first` of the timestamps' tokens."""
        self._decode, self._deliver = decode, deliver
        self._end, self._first = marks["end"], marks["first"]
        self._open: list[int] = []
        self._settled = False  # whether a segment of this window has ended
        self._begun = False

    def put(self, ids: Any) -> None:
        """One more token."""
        token = int(ids)
        if token == self._end:
            return
        if token >= self._first and self._open and self._open[-1] >= self._first:
            self._out(self._open)
            self._open, self._settled = [], True
        self._open.append(token)

    def flush(self, accepted: bool) -> None:
        """Nothing goes out before a segment is whole, and that mixes what was drafted and what was not."""

    def end_window(self) -> None:
        """The window is over: what stands open stays where it ends with a timestamp, or is all that there is."""
        stamps = [token >= self._first for token in self._open[-2:]]
        if not self._settled or stamps == [False, True]:
            self._out(self._open)
        self._open, self._settled = [], False

    def _out(self, tokens: Sequence[int]) -> None:
        text = self._decode(tokens)
        if not self._begun:
            text = text.lstrip()
        if text:
            self._begun = True
            self._deliver(text)


def transcript(
    found: Sequence[Mapping[str, Any]],
    decode: Callable[[Sequence[int]], str],
    seconds: float,
    languages: Mapping[int, str],
    speculation: Speculation,
) -> Transcript:
    """Of the segments that `generate` returns for one recording of so many seconds."""
    texts = [decode(segment["tokens"].tolist()) for segment in found]

    def place(time: Any) -> float:
        return round(min(max(float(time), 0.0), seconds), 2)

    segments = tuple(
        Segment(place(segment["start"]), place(segment["end"]), text.strip())
        for segment, text in zip(found, texts, strict=True)
        if text.strip()
    )
    whole = found[0]["result"].tolist() if found else []
    language = next((languages[token] for token in whole if token in languages), None)
    return Transcript("".join(texts).lstrip(), segments, language, speculation)


def joined(parts: Sequence[Speculation]) -> Speculation:
    """The statistics of all windows of one recording."""
    first = parts[0]
    return Speculation(
        tokens=sum(part.tokens for part in parts),
        passes=sum(part.passes for part in parts),
        drafted=sum(part.drafted for part in parts),
        accepted=sum(part.accepted for part in parts),
        drafted_by_position=_columns([part.drafted_by_position for part in parts]),
        accepted_by_position=_columns([part.accepted_by_position for part in parts]),
        drafters=tuple(dict.fromkeys(name for part in parts for name in part.drafters)),
        seconds=sum(part.seconds for part in parts),
        seconds_drafting=sum(part.seconds_drafting or 0.0 for part in parts),
        seconds_verifying=sum(part.seconds_verifying or 0.0 for part in parts),
        seconds_plain=sum(part.seconds_plain or 0.0 for part in parts),
        exactness=first.exactness,
        dtype=first.dtype,
        fallback=next((part.fallback for part in parts if part.fallback is not None), None),
    )


def _columns(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    longest = max(map(len, rows))
    return tuple(sum(row[place] for row in rows if place < len(row)) for place in range(longest))
