"""Whether a budget can be kept: what each call may cost at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynflow.errors import BudgetExceeded
from dynflow.prospects import longest_answer

if TYPE_CHECKING:
    from dynflow.flow import Flow


def check_bounded(flow: Flow, prefix: str = "") -> None:
    """Raises `BudgetExceeded` where a call could cost whatever it likes: then no budget can be kept, and an answer that
    ends where the money does would be graded for that."""
    for plan in flow.checked.nodes.values():
        if plan.model is None:
            continue
        name = f"{prefix}{plan.model}"
        price = flow.resources.known(plan.model).price
        if price is None:
            raise BudgetExceeded(f"a budget is set and the price of {name!r} is unknown: give the model a `price:`")
        if price.most(0)[1] > 0 and longest_answer(flow.checked, plan) is None:
            raise BudgetExceeded(
                f"a budget is set and nothing says how long an answer of {name!r} may be: give the model `max_tokens:`"
            )
    for node, inner in flow.resources.subflows.items():
        check_bounded(inner, f"{prefix}{node}/")
