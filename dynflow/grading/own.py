"""The grader that is the host's own function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from dynflow.errors import GradingError
from dynflow.grading.grader import Answered, Grade, Grader

if TYPE_CHECKING:
    from dynflow.budgets import Budget

GradeFunction = Callable[[Answered], float | bool | Awaitable[float | bool]]


class Own(Grader):
    """What a function says: a number from 0 to 1, or whether the answer is right; it may be async.

    What the function raises goes through. Results are told apart by its name alone, not by what it does.
    """

    def __init__(self, function: GradeFunction) -> None:
        self._function = function
        self._name = (
            f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__name__)}"
        )

    @override
    def identity(self) -> Any:
        return ["own", self._name]

    @override
    def fault(self, row: Mapping[str, Any]) -> str | None:
        return None

    @override
    async def grade(self, answered: Answered, budget: Budget | None = None) -> Grade:
        given = self._function(answered)
        quality = await given if inspect.isawaitable(given) else given
        try:
            number = float(quality)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number <= 1:
            raise GradingError(f"the grader {self._name} gave {quality!r}: give a number from 0 to 1, or a bool")
        return Grade(number)
