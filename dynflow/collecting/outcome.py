"""What an outcome file says of a row: its input, and what a node gave for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynflow.answers import finite

if TYPE_CHECKING:
    from dynflow.engine import NodeResult
    from dynflow.flow import Flow


def outcome_of(flow: Flow, name: str, result: NodeResult) -> dict[str, Any]:
    """A node's outcome without its quality: cost, time, ports, and how it failed, as replay reads them."""
    plan = flow.checked.nodes[name]
    state = result.states[name]
    visited = next(visited for visited in result.trace.visits if visited.node == name)
    entry = next((entry for entry in result.ledger.entries if entry.node == name), None)
    outcome: dict[str, Any] = {}
    if visited.error is not None:
        outcome |= {"error": visited.error, "message": visited.message}
        if plan.role == "answer":
            outcome = {"quality": 0.0, **outcome}
    if state.usd is not None:
        outcome["usd"] = state.usd
    outcome["seconds"] = round(visited.seconds, 6)
    if plan.model is not None:
        outcome["model"] = flow.resources.model_settings(plan.model).model or plan.model
    if entry is not None and entry.usage is not None:
        outcome["tokens"] = {"input": entry.usage.input_tokens, "output": entry.usage.output_tokens}
    if visited.error is None:
        plain = (bool, int, float, str, dict, type(None))
        ports = {port: value for port, value in state.ports.items() if port != "text" and isinstance(value, plain)}
        if ports:
            outcome["ports"] = finite(ports)
        if plan.role != "answer" and isinstance(state.ports.get("text"), str):
            outcome["response"] = state.ports["text"]
    return outcome


def input_keys(input: Any) -> dict[str, Any]:
    """A batch row's input in the keys of an outcome file."""
    if isinstance(input, str):
        return {"prompt": input}
    if isinstance(input, list):
        return {"messages": input}
    found = {}
    if "input" in input:
        found = input_keys(input["input"])
    elif "messages" in input:
        found = {"messages": input["messages"]}
    more = {name: value for name, value in input.items() if name not in ("input", "messages")}
    return {**found, **({"inputs": more} if more else {})}
