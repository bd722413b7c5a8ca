"""What a graph and an input are known by: hashes that say whether two runs would have done the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from langchain_core.messages import BaseMessage
from pydantic import BaseModel, SecretStr

from dynflow.language.references import AnyReference

if TYPE_CHECKING:
    from dynflow.engine import Engine
    from dynflow.flow import Flow

_FOR_PEOPLE = frozenset({"name", "description"})
_ALLOWANCES = frozenset({"usd_per_request", "usd_per_day", "baseline_share", "timeout"})
"""Limits that say how much a graph may do, not what: who raises a budget wants to go on."""
_OF_ONE_RUN = frozenset({"id", "response_metadata", "usage_metadata"})
"""What a message says of how it came about."""


def graph_hash(flow: Flow | Engine) -> str:
    """SHA-256 (hex) of what a graph does, its sub-graphs with it: the same however its text is laid out.

    Left out are secrets, the graph's name and description, and its limits in USD, share and time. What is outside the
    text is not seen: values of the environment, artefacts and models in files, the host's runnables and models.
    """
    spec = flow.checked.spec
    whole = {name: value for name, value in _plain(spec).items() if name not in _FOR_PEOPLE}
    whole["limits"] = {name: value for name, value in _plain(spec.limits).items() if name not in _ALLOWANCES}
    whole["nodes"] = {
        name: [_plain(plan.common), _plain(plan.options)]  # validated: here a secret is known as one
        for name, plan in flow.checked.nodes.items()
    }
    inner = {name: graph_hash(subflow) for name, subflow in flow.resources.subflows.items()}
    return content_hash({"graph": whole, "inner": inner})


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of plain values, messages among them; the order of a mapping's keys does not count."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: Any) -> Any:
    """Values as JSON has them; of models what was given, without secrets."""
    if isinstance(value, BaseMessage):
        given = {name: getattr(value, name) for name in value.model_fields_set - _OF_ONE_RUN}
        return _plain({**given, "type": value.type})
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {name: _plain(getattr(value, name)) for name in value.model_fields_set if not _is_secret(fields[name])}
    if isinstance(value, AnyReference):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_secret(field: Any) -> bool:
    return SecretStr in (field.annotation, *get_args(field.annotation))
