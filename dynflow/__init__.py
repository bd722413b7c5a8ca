"""dynflow: declare in YAML which requests need the big model; get a LangChain runnable that keeps to it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynflow.answers import Classification
    from dynflow.errors import (
        ArtefactError,
        BudgetExceeded,
        DeadlineExceeded,
        DynflowError,
        GraphError,
        InputError,
        MissingDependency,
        MissingEnvironment,
        MissingModel,
        NodeFailed,
        NodeTimeout,
        NoEligibleAnswer,
        Overloaded,
        ParamError,
        RefusedByModel,
        StreamInterrupted,
    )
    from dynflow.flow import Flow
    from dynflow.loading import load, loads
    from dynflow.node import Call, Node, NodeOptions, Output
    from dynflow.trace import FlowResult

_HOMES = {
    "answers": ("Classification",),
    "errors": (
        "ArtefactError",
        "BudgetExceeded",
        "DeadlineExceeded",
        "DynflowError",
        "GraphError",
        "InputError",
        "MissingDependency",
        "MissingEnvironment",
        "MissingModel",
        "NoEligibleAnswer",
        "NodeFailed",
        "NodeTimeout",
        "Overloaded",
        "ParamError",
        "RefusedByModel",
        "StreamInterrupted",
    ),
    "flow": ("Flow",),
    "loading": ("load", "loads"),
    "node": ("Call", "Node", "NodeOptions", "Output"),
    "trace": ("FlowResult",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ArtefactError",
    "BudgetExceeded",
    "Call",
    "Classification",
    "DeadlineExceeded",
    "DynflowError",
    "Flow",
    "FlowResult",
    "GraphError",
    "InputError",
    "MissingDependency",
    "MissingEnvironment",
    "MissingModel",
    "NoEligibleAnswer",
    "Node",
    "NodeFailed",
    "NodeOptions",
    "NodeTimeout",
    "Output",
    "Overloaded",
    "ParamError",
    "RefusedByModel",
    "StreamInterrupted",
    "load",
    "loads",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'dynflow' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dynflow.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
