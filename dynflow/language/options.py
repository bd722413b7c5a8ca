"""Options: the typed fields of a node or a model, any of which may be a reference until it is resolved."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from dynflow.language.references import AnyReference, Reference, find_references

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 366 * 24 * 3600.0
FROM_TEXT = {"from_text": True}
"""Validation context of what stands in a graph's text."""


def parse_duration(value: Any, info: ValidationInfo) -> Any:
    """Seconds of `30s`, `500ms`, `2m` or `1h`. Raises `ValueError` where the unit is missing.

    Outside a graph's text a number is seconds: an option that was validated before, or the value of a reference.
    """
    if isinstance(value, float) and info.context is not FROM_TEXT:
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration needs a unit, such as 30s, 500ms or 2m")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST:
        raise ValueError("a duration is at most a year")
    return seconds


Duration = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=Annotated[str, Field(pattern=rf"^{_DURATION.pattern}$")]),
]


def _not_at_once(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("a time limit must be more than 0")
    return seconds


TimeLimit = Annotated[Duration, AfterValidator(_not_at_once)]


class Options(BaseModel):
    """Base of every typed option set: closed, immutable, and open to references in any field but `static`.

    Strict, so that what the text says stays what it looks like: `buffer: no` is text, and refused.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, strict=True, allow_inf_nan=False
    )

    static: ClassVar[frozenset[str]] = frozenset()
    """Fields that shape the graph and so must be literals."""

    @field_validator("*", mode="wrap")
    @classmethod
    def _let_references_pass(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return value if isinstance(value, AnyReference) else handler(value)

    def references(self) -> dict[tuple[str | int, ...], AnyReference]:
        """Every reference in the options, by its path."""
        return dict(find_references(self._given()))

    def resolve(self, lookup: Callable[[AnyReference], Any]) -> Self:
        """The same options with every reference replaced by its value.

        Values are validated anew, but for those of fields that are declared as references: they may be anything.
        Raises pydantic's `ValidationError` where a value does not fit its field.
        """
        taken: dict[str, Any] = {}
        typed: dict[str, Any] = {}
        given = self._given()
        for name, value in given.items():
            if name in _declared_references(type(self)) and isinstance(value, AnyReference):
                taken[name] = lookup(value)
            elif next(find_references(value), None) is not None:
                typed[name] = _substitute(value, lookup)
        # Not strict: an environment's value is always text, also where a number is wanted.
        options = type(self).model_validate({**given, **typed}, strict=False) if typed else self
        return options.model_copy(update=taken) if taken else options

    def _given(self) -> dict[str, Any]:
        """The fields that were set, under the names that the text uses."""
        fields = type(self).model_fields
        return {fields[name].alias or name: getattr(self, name) for name in fields if name in self.model_fields_set}


@cache
def _declared_references(options: type[Options]) -> frozenset[str]:
    """Fields whose type is `Reference`."""
    fields = options.model_fields.items()
    return frozenset(name for name, info in fields if Reference in (info.annotation, *get_args(info.annotation)))


def _substitute(value: Any, lookup: Callable[[AnyReference], Any]) -> Any:
    if isinstance(value, AnyReference):
        return lookup(value)
    if isinstance(value, Mapping):
        return {key: _substitute(item, lookup) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_substitute(item, lookup) for item in value]
    return value
