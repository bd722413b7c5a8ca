"""The grader that holds an answer against a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dynflow.errors import GradingError
from dynflow.grading.grader import Answered, Grade, Grader
from dynflow.json_schema import read_json, schema_fault, schema_validator

if TYPE_CHECKING:
    from dynflow.budgets import Budget


class Schema(Grader):
    """1 where the answer is JSON (bare, or in one fence) that fits a JSON schema; else 0. It needs no reference.

    Raises `GradingError` where the schema is none, or refers outside itself: nothing is fetched.
    """

    def __init__(self, schema: Any) -> None:
        if (fault := schema_fault(schema)) is not None:
            raise GradingError(f"this is no JSON schema to grade by: {fault}")
        self._schema = schema
        self._validator = schema_validator(schema)

    @classmethod
    def read(cls, path: Path) -> Schema:
        """The schema of a file. Raises `GradingError`."""
        try:
            return cls(json.loads(path.read_text("utf-8-sig")))
        except GradingError as error:
            raise GradingError(f"{path}: {error}") from None
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
        try:
            value = read_json(answered.text)
        except ValueError:
            return Grade(0.0)
        return Grade(float(self._validator.is_valid(value)))
