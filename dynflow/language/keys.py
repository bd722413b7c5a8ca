"""Which keys a mapping of the text can have: read off the types that it is checked against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict


def known_keys(kind: Any, path: Sequence[str | int]) -> list[str]:
    """The keys of the mapping at `path` inside a value of this type, a model or an annotation; none where any will do.

    `path` is one of the text: keys as it has them, and places in lists.
    """
    parts = get_args(kind)
    if get_origin(kind) is Annotated:
        return known_keys(parts[0], path)
    if fields := _fields(kind):
        return known_keys(fields.get(str(path[0])), path[1:]) if path else [*fields]
    if get_origin(kind) in (dict, list, tuple):  # the last part is the type of what they hold
        return known_keys(parts[-1], path[1:]) if path else []
    return [key for part in parts for key in known_keys(part, path)]  # a union


def _fields(kind: Any) -> dict[str, Any]:
    """Types by the keys that the text uses; empty for what has no fields."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {info.alias or name: info.annotation for name, info in kind.model_fields.items()}
    return get_type_hints(kind) if is_typeddict(kind) else {}
