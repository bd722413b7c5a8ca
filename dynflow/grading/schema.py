"""The grader that holds an answer against a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dynflow.errors import GradingError
from dynflow.grading.grader import Answered, Grade, Grader

if TYPE_CHECKING:
    from dynflow.budgets import Budget


class Schema(Grader):
    """1 where the answer is JSON (bare, or in one fence) that fits a JSON schema; else 0. It needs no reference.

    Raises `GradingError` where the schema is none. Nothing that a schema refers to is fetched.
    """

    def __init__(self, schema: Any) -> None:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import Draft202012Validator
        from referencing import Registry

        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise GradingError(f"this is no JSON schema to grade by: {error.message}") from None
        self._schema = schema
        self._validator = Draft202012Validator(schema, registry=Registry())

    @classmethod
    def read(cls, path: Path) -> Schema:
        """The schema of a file. Raises `GradingError`."""
        try:
            return cls(json.loads(path.read_text("utf-8-sig")))
        except OSError as error:
            raise GradingError(f"the schema {path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise GradingError(f"the schema {path} is no JSON: {error}") from None

    @override
    def identity(self) -> Any:
        return ["schema", self._schema]

    @override
    def fault(self, row: Mapping[str, Any]) -> str | None:
        return None

    @override
    async def grade(self, answered: Answered, budget: Budget | None = None) -> Grade:
        from referencing.exceptions import Unresolvable

        body = answered.text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return Grade(0.0)
        try:
            return Grade(float(self._validator.is_valid(value)))
        except Unresolvable as error:
            raise GradingError(f"the schema refers to what is not in it: {error}") from None
