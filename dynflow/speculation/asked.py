"""What a caller asks of an engine that speculates: the call option `speculation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Drafter = Literal["prompt_lookup", "ngram_cache", "draft_model"]
DRAFTERS: tuple[Drafter, ...] = get_args(Drafter)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which drafters an engine may use for a request; whether and when it does is up to its controller."""

    drafters: tuple[Drafter, ...] | None = None
    """None: all that the engine has and that need no more than what is asked."""
    most: int | None = None
    """Most tokens per draft; None: the engine's own limit."""
    draft: str | None = None
    """The draft model, as `model:` of its entry names it."""
    flow: str = ""
    """Whose requests these are: what a controller or an n-gram cache learns, it learns for one such name."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the call option has them; `from_dict` reads them back."""
        plain = asdict(self) | {"drafters": None if self.drafters is None else list(self.drafters)}
        return {name: value for name, value in plain.items() if value not in (None, "")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Asked:
        """Raises ValueError for an unknown drafter, TypeError for an unknown key."""
        drafters = values.get("drafters")
        if unknown := set(drafters or ()) - set(DRAFTERS):
            raise ValueError(f"there is no drafter {', '.join(sorted(unknown))}; there are {', '.join(DRAFTERS)}")
        return cls(**{**values, "drafters": None if drafters is None else tuple(drafters)})

    def allows(self, drafter: Drafter) -> bool:
        """Whether this drafter may be used."""
        return drafter in self.drafters if self.drafters is not None else drafter != "draft_model" or bool(self.draft)
