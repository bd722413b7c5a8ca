"""The public face: its names, what importing it loads, and its errors."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import pytest
from langchain_core import exceptions as langchain_errors

import dynflow
from dynflow import errors
from dynflow.errors import FAILURE_KINDS, DynflowError, failure_kind
from dynflow.ledger import Usage

HEAVY = [
    *("torch", "litellm", "transformers", "diffusers", "ollama"),
    *("onnxruntime", "xllamacpp", "numpy", "tokenizers", "sklearn"),
]


def test_the_public_names_are_pinned() -> None:
    assert dynflow.__all__ == [
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
    for name in dynflow.__all__:
        assert getattr(dynflow, name).__name__ == name
    with pytest.raises(AttributeError, match="Flwo"):
        dynflow.Flwo  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import dynflow",
        "import dynflow.flow",
        "import dynflow.models.base, dynflow.models.settings, dynflow.models.known, dynflow.models.store",
        "from dynflow.node import node_type, node_types; [node_type(name) for name in node_types()]",
        "import dynflow.testing",
        "import dynflow; dynflow.loads('version: 1\\nmodels: {m: {provider: litellm, model: openai/x}}\\n"
        "nodes: {a: {type: chat, model: m}}\\nedges: [{from: start, to: a}, {from: a, to: end}]')",
    ],
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def every(base: type[BaseException]) -> list[type[BaseException]]:
    below = [each for cls in base.__subclasses__() for each in every(cls)]
    return [base, *below]


def make(cls: type[BaseException]) -> BaseException:
    """An instance of one of our errors."""
    with pytest.raises(errors.GraphError) as faulty:
        dynflow.loads("version: 2")
    special = {
        errors.GraphError: lambda: faulty.value,
        errors.MissingEnvironment: lambda: errors.MissingEnvironment("KEY", "model 'm'"),
        errors.MissingDependency: lambda: errors.MissingDependency("x", "pip install x"),
        errors.StreamInterrupted: lambda: errors.StreamInterrupted("half", "broke off"),
        errors.NodeFailed: lambda: errors.NodeFailed("no", usage=Usage("m", 1, 2)),
    }
    return special[cls]() if cls in special else cls("text")


OURS = [cls for cls in every(DynflowError) if cls.__module__ == "dynflow.errors"]


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_our_errors_are_pickled_whole_and_have_a_kind(cls: type[BaseException]) -> None:
    error = make(cls)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert again.__dict__.keys() == error.__dict__.keys()
    assert failure_kind(error) in FAILURE_KINDS
    assert f" {cls.__name__}" in (errors.__doc__ or "") or cls is DynflowError


EXPECTED = {
    "ModelError": "unavailable",
    "ModelAuthenticationError": "auth",
    "ModelPermissionDeniedError": "auth",
    "ModelInvalidRequestError": "invalid",
    "ModelNotFoundError": "unavailable",
    "ModelRateLimitError": "rate_limit",
    "ModelAPIError": "unavailable",
    "ModelConnectionError": "unavailable",
    "ModelTimeoutError": "timeout",
    "ContextOverflowError": "invalid",
}


def test_every_langchain_model_error_is_mapped() -> None:
    found = {
        name: cls
        for name, cls in vars(langchain_errors).items()
        if inspect.isclass(cls) and issubclass(cls, langchain_errors.ModelError)
    }
    found["ContextOverflowError"] = langchain_errors.ContextOverflowError
    assert {name: failure_kind(cls("text")) for name, cls in found.items()} == EXPECTED


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionResetError(), "unavailable"),
        (ValueError(), "internal"),
        (errors.NodeTimeout(), "timeout"),
        (errors.DeadlineExceeded(), "deadline"),
        (errors.BudgetExceeded(), "budget"),
        (errors.RefusedByModel("no"), "refused"),
        (errors.MissingEnvironment("A", "b"), "auth"),
    ],
)
def test_kinds_of_other_failures(error: Exception, kind: str) -> None:
    assert failure_kind(error) == kind
