"""Schemas refer to nothing outside themselves, and an answer's JSON is read bare or fenced."""

from __future__ import annotations

from typing import Any

import pytest

from dynflow.json_schema import read_json, schema_fault, schema_validator

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/name", "$defs": {"name": {"type": "string"}}},
        {"$ref": "#name", "$defs": {"name": {"$anchor": "name", "type": "string"}}},
        {"$ref": "name", "$defs": {"name": {"$id": "name", "type": "string"}}},
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#"}}]},
        {"$schema": DIALECT, "type": "string"},
        {"type": "string", "examples": [{"$ref": "elsewhere"}]},
    ],
)
def test_a_schema_may_refer_to_itself(schema: dict[str, Any]) -> None:
    assert schema_fault(schema) is None
    assert schema_validator(schema).is_valid("a")
    assert not schema_validator(schema).is_valid(3)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "2020-12"),
        ({"$ref": "https://example.org/schema.json"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"properties": {"name": {"$ref": "#/$defs/nome"}}, "$defs": {"name": {}}}, "#/$defs/nome"),
        ({"items": {"$dynamicRef": "#nowhere"}}, "#nowhere"),
    ],
)
def test_a_fault_is_told(schema: dict[str, Any], said: str) -> None:
    assert said in (schema_fault(schema) or "")


def test_json_is_read_bare_or_fenced() -> None:
    assert read_json(' {"n": 3}\n') == read_json('```json\n{"n": 3}\n```') == {"n": 3}
    for text in ("n is 3", "", "[" * 100_000):
        with pytest.raises(ValueError, match=r"Expecting|deeply"):
            read_json(text)
