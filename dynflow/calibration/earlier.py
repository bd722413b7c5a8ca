"""What becomes of the calibration that a graph already has, where another one takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynflow.flow import Flow


def earlier_params(flow: Flow) -> dict[str, Any]:
    """The params that the earlier one set."""
    return dict(flow.calibration.params) if flow.calibration is not None else {}


def replaced(flow: Flow, params: Mapping[str, Any]) -> list[str]:
    """A note on the earlier promise, where params keep what it set; `params` are those of the new one."""
    kept = [name for name, value in earlier_params(flow).items() if params.get(name) == value]
    if flow.calibration is None or not kept:
        return []
    keep = "keeps" if len(kept) == 1 else "keep"
    return [
        f"{', '.join(kept)} {keep} what an earlier calibration set, whose promise no longer stands in the file: "
        f"{flow.calibration.statement}"
    ]


def kept_audit(flow: Flow, params: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the earlier one holds audits against, where its node still stops early by the same value; else None."""
    audit = flow.calibration.audit if flow.calibration is not None else None
    if audit is None:
        return None
    values = {name: body.default for name, body in flow.params.items()}
    rule = flow.resources.cold_node(audit["node"]).stop_rule(values)
    return audit if rule is not None and params.get(rule.param) == values[rule.param] else None
