"""A request's record in words: its path with the numbers that decided, what failed, and the bill."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from dynflow.cli.terminal import table
from dynflow.money import dollars

Record = Mapping[str, Any]
"""What `FlowResult.metadata()` gives, and `response_metadata["dynflow"]` holds."""


def render_record(record: Record) -> str:
    """The record for a terminal, a few lines."""
    return "\n".join([*_walk_lines(record), bill(record["ledger"], record["degraded"])])


def _walk_lines(record: Record, indent: str = "") -> Iterator[str]:
    yield indent + click.style(f"{record['graph']}: {' → '.join(record['path'])}", bold=True)
    yield from decision_lines(record["decisions"], f"{indent}  ")
    yield from (f"{indent}{line}" for line in _degraded_lines(record))
    for node in record["nodes"]:
        if winner := node["values"].get("winner"):
            yield f"{indent}  {node['node']}: {winner} won"
        for note in node.get("notes", ()):
            yield f"{indent}  {node['node']}: {note}"
    for name, inner in record.get("inner", {}).items():
        yield from _walk_lines({**inner, "graph": f"{name}/ {inner['graph']}"}, f"{indent}  ")


def decision_lines(decisions: Sequence[Mapping[str, Any]], indent: str = "  ") -> list[str]:
    """The edges taken where there was a choice: the edge, its condition, and the values that conditions read."""
    rows = [_cells(decision) for decision in decisions if decision["when"] or decision["values"]]
    return [table(rows, indent)] if rows else []


def _cells(decision: Mapping[str, Any]) -> tuple[str, str, str]:
    # That nothing failed is the rule, and no news.
    told = {port: value for port, value in decision["values"].items() if not (port.endswith(".failed") and not value)}
    values = ", ".join(f"{port} = {_number(value)}" for port, value in told.items())
    edge = f"{decision['from']} → {decision['to']}"
    return edge, decision["when"] or "otherwise", f"({values})" if values else ""


def _number(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _degraded_lines(record: Record) -> Iterator[str]:
    failed = [node for node in record["nodes"] if not node["ok"]]
    if record["degraded"]:
        names = " and ".join(node["node"] for node in failed) or "a node of a sub-graph"
        answer = f"; {record['answer']} answered" if record["answer"] else ""
        yield click.style(f"degraded: {names} failed{answer}", fg="yellow", bold=True)
    for node in failed:
        yield f"  {node['node']} ({node['error']}): {node['message']}"


def bill(ledger: Mapping[str, Any], degraded: bool = False) -> str:
    """Tokens, time, cost, and what always taking the baseline would have cost.

    A degraded answer is cheap because it is not what was wanted: no saving is claimed for it.
    """
    tokens = ledger["tokens"]
    parts = [f"{tokens['input']:,} tokens in, {tokens['output']:,} out", f"{ledger['seconds']:.1f} s"]
    usd = ledger["usd"]
    if usd is None:
        unknown = [node["model"] for node in ledger["nodes"] if node["usd"] is None and "model" in node]
        names = ", ".join(dict.fromkeys(unknown))
        parts.append(f"cost unknown (no price is known for {names or 'some model'}: give it a `price:`)")
    else:
        parts.append(f"cost {dollars(usd)}")
    if ledger["baseline"] is not None:
        parts.append(_saving(ledger, degraded))
    return " · ".join(parts)


def _saving(ledger: Mapping[str, Any], degraded: bool) -> str:
    usd, baseline, baseline_usd = ledger["usd"], ledger["baseline"], ledger["baseline_usd"]
    if baseline_usd is None:
        return f"cost of {baseline} alone unknown"
    # A sub-graph has a line for each of its nodes, none of its own.
    costs = [node["usd"] for node in ledger["nodes"] if node["node"].partition("/")[0] == baseline]
    ran = bool(costs) and None not in costs and math.isclose(math.fsum(costs), baseline_usd, abs_tol=1e-12)
    alone = f"{baseline} alone {'cost' if ran else 'would cost about'} {dollars(baseline_usd)}"
    if usd is None or baseline_usd == 0:
        return alone
    percent = 100 * (baseline_usd - usd) / baseline_usd
    if abs(percent) < 0.05:
        return f"{alone}: nothing saved"
    if percent > 0 and degraded:
        return f"{alone}, for an answer that is not degraded"
    return f"{alone}: {percent:.3g} % saved" if percent > 0 else f"{alone}: {-percent:.3g} % more spent"
