"""JSON schemas that graphs and graders give, and the JSON that a model answers with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


def schema_fault(schema: Any) -> str | None:
    """What is wrong with a JSON schema (draft 2020-12), in words. One that refers outside itself is refused."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator

    dialect = Draft202012Validator.META_SCHEMA["$id"]
    if isinstance(schema, Mapping) and schema.get("$schema", dialect) != dialect:
        return f"$schema must be {dialect}"
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"{error.message}; correct that"
    return _unresolved(schema)


def schema_validator(schema: Any) -> Validator:
    """Validates by a schema without fault. Nothing is fetched."""
    from jsonschema.validators import Draft202012Validator
    from referencing import Registry

    return Draft202012Validator(schema, registry=Registry())


def read_json(text: str) -> Any:
    """The value of a text that is JSON, bare or in one fence. Raises `ValueError`."""
    body = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unresolved(schema: Any) -> str | None:
    """Which reference leads nowhere."""
    from jsonschema_specifications import REGISTRY
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    root = DRAFT202012.create_resource(schema)
    waiting = [(root, REGISTRY.with_resource("", root).resolver())]
    while waiting:
        resource, resolver = waiting.pop()
        for key in ("$ref", "$dynamicRef"):
            target = resource.contents.get(key) if isinstance(resource.contents, Mapping) else None
            try:
                if target is not None:
                    resolver.lookup(target)
            except Unresolvable:
                return f"{key} {target!r} refers to what is not in it; nothing is fetched, so put it under $defs"
        waiting += [(part, resolver.in_subresource(part)) for part in resource.subresources()]
    return None
