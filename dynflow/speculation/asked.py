"""What a caller asks of an engine that speculates: the call option `speculation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from dynflow.errors import InputError
from dynflow.speculation.statistics import SPECULATION_KEY

Drafter = Literal["prompt_lookup", "ngram_cache", "draft_model", "draft_head", "early_exit"]
DRAFTERS: tuple[Drafter, ...] = get_args(Drafter)
LONGEST = 256
"""Most tokens of a draft that can be asked for; an engine may stay below."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which drafters an engine may use for a request; whether and when it does is up to its controller."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    drafters: tuple[Drafter, ...] | None = None
    """None: lookup in the text, and the draft model and head that are given."""
    most: Annotated[int, Field(ge=1, le=LONGEST)] | None = None
    """Most tokens per draft; None: the engine's own limit."""
    draft: str | None = None
    """The draft model, as `model:` of its entry names it."""
    revision: str | None = None
    """Of a draft model from the hub."""
    head: str | None = None
    """A trained draft head: a folder, or `embedded/<name>`."""
    flow: str = ""
    """Whose requests these are: what a controller or an n-gram cache learns, it learns for one such name."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the call option has them; `from_dict` reads them back."""
        plain = asdict(self) | {"drafters": None if self.drafters is None else list(self.drafters)}
        return {name: value for name, value in plain.items() if value not in (None, "")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Asked:
        """Raises InputError, with the key at fault."""
        try:
            return _adapter().validate_python(values)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in (SPECULATION_KEY, *fault["loc"]))
            raise InputError(f"the call option {place}: {fault['msg']}, not {fault['input']!r}") from None

    def allows(self, drafter: str) -> bool:
        """Whether this one of DRAFTERS may be used."""
        if self.drafters is not None:
            return drafter in self.drafters
        given = {"prompt_lookup": True, "draft_model": self.draft is not None, "draft_head": self.head is not None}
        return given.get(drafter, False)


@cache
def _adapter() -> TypeAdapter[Asked]:
    return TypeAdapter(Asked)
