"""What speculation did for one request: drafted, accepted, target passes, and what that saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Exactness = Literal["exact_greedy", "exact_distribution", "lossy"]
"""How the text relates to that of the target alone: the same tokens, the same distribution, or neither."""

SPECULATION_KEY = "speculation"
"""Name of the call option that asks for speculation, and of its statistics beside `usage` in an engine's last event
and in a message's `response_metadata`."""
ACCEPTED_KEY = "accepted"
"""Key of an engine's event whose text is a draft's that the target accepted; a message lists all such texts by it."""


@dataclass(frozen=True, slots=True)
class Speculation:
    """Statistics of one request. Counts are tokens but for `passes`; what an engine cannot know is None or empty."""

    tokens: int
    """Of the answer, end-of-text among them where the target had to write it."""
    passes: int
    """Forward passes of the target after that on the prompt, drafts or not."""
    drafted: int = 0
    accepted: int = 0
    drafted_by_position: tuple[int, ...] = ()
    """How many drafts reached a first, second… token."""
    accepted_by_position: tuple[int, ...] = ()
    """How many of these tokens were accepted."""
    drafters: tuple[str, ...] = ()
    """Which drafted anything, by name; none: plain decoding."""
    seconds: float = 0.0
    """Writing the answer, without the prompt."""
    seconds_drafting: float | None = None
    seconds_verifying: float | None = None
    """In passes that had drafts to check."""
    seconds_plain: float | None = None
    """Estimate of what plain decoding would have taken for the same tokens."""
    exactness: Exactness = "exact_greedy"
    lossy_parameter: float | None = None
    """What a `lossy` rule accepted by; None where exact."""
    dtype: str | None = None
    """In which the target computed: in float32 greedy text is the same token for token, elsewhere ties may differ."""
    fallback: str | None = None
    """Why the engine left its fast path for plain decoding, in words; None: it did not."""

    def __post_init__(self) -> None:
        if self.exactness not in get_args(Exactness):
            raise ValueError(f"exactness is {', '.join(get_args(Exactness))}, not {self.exactness!r}")
        if not 0 <= self.accepted <= self.drafted:
            raise ValueError(f"{self.accepted} tokens accepted of {self.drafted} drafted")
        if (self.lossy_parameter is None) == (self.exactness == "lossy"):
            raise ValueError("a lossy answer, and no other, has a lossy_parameter")

    @property
    def mean_accepted_length(self) -> float:
        """Tokens per target pass, the target's own among them; 1.0 is plain decoding, 0.0 no pass at all."""
        return self.tokens / self.passes if self.passes else 0.0

    @property
    def acceptance(self) -> float | None:
        """Share of the drafted tokens that was accepted; None where nothing was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    @property
    def acceptance_by_position(self) -> tuple[float | None, ...]:
        """The same for the first, second… token of a draft."""
        pairs = zip(self.drafted_by_position, self.accepted_by_position, strict=True)
        return tuple(accepted / drafted if drafted else None for drafted, accepted in pairs)

    @property
    def speed_up(self) -> float | None:
        """Against the estimate of plain decoding; None where there is no estimate."""
        return self.seconds_plain / self.seconds if self.seconds_plain is not None and self.seconds > 0 else None

    def phrase(self) -> str:
        """A few words for a ledger's line and a trace's note."""
        if not self.drafted:
            return f"drafted nothing, {self.passes} passes"
        return f"drafted {self.drafted}, accepted {self.accepted}, {self.passes} passes"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for events, metadata and JSON; `from_dict` reads them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Speculation:
        """Reads what `as_dict` gave; keys that this version does not know are passed over."""
        known = {field.name for field in fields(cls)}
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
        }
        return cls(**plain)
