"""Checks of what joins nodes: edges with their conditions, and references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from dynflow.certainty import Certainty
from dynflow.graph import NodePlan, Way
from dynflow.language.evaluate import compile_expression
from dynflow.language.expression import ExpressionError, Port, Term, parse_expression, ports_of
from dynflow.language.references import Reference
from dynflow.language.source import Source, did_you_mean
from dynflow.language.spec import END, START
from dynflow.language.typecheck import check_condition, resolve_port
from dynflow.language.types import COMMON_PORTS, PortType
from dynflow.node import NodeOptions, Takes
from dynflow.nodetable import OUTSIDE, NodeTable, metadata_inside

_FIELD_KINDS: dict[Any, str] = {str: "string", float: "number", int: "integer", bool: "boolean"}


def check_edges(table: NodeTable, group_of: Mapping[str, str]) -> tuple[dict[str, tuple[Way, ...]], bool]:
    """The ways out of each node, and whether all edges join known nodes, so that the graph's shape is known."""
    ways: dict[str, list[Way]] = {}
    whole = True
    for index, edge in enumerate(table.spec.edges):
        if ("edges", index) in table.source.dropped:
            whole = False
            continue
        term = _condition(table, index, edge.when)
        ends = [
            _check_end(table, index, "from", edge.source, START, group_of),
            _check_end(table, index, "to", edge.target, END, group_of),
        ]
        if not all(ends):
            whole = False
            continue
        evaluate = compile_expression(term) if term is not None else None
        reads = tuple(dict.fromkeys(ports_of(term))) if term is not None else ()
        ways.setdefault(edge.source, []).append(Way(index, edge.source, edge.target, edge.when, term, evaluate, reads))
    return {name: tuple(found) for name, found in ways.items()}, whole


def _condition(table: NodeTable, index: int, when: str | None) -> Term | None:
    if when is None:
        return None
    try:
        term = parse_expression(when)
        check_condition(term, table.owners)
    except ExpressionError as error:
        path = ("edges", index, "when")
        table.source.report(error.code, str(error), path, offset=error.offset, length=error.length)
        return None
    return term


def _check_end(table: NodeTable, index: int, side: str, name: str, terminal: str, group_of: Mapping[str, str]) -> bool:
    path = ("edges", index, side)
    if name == terminal:
        return True
    if name in (START, END):
        text = "no edge leads to `start`: name a node" if name == START else "no edge leaves `end`: name a node"
        table.source.report("edge_direction", text, path)
    elif name in group_of:
        group = group_of[name]
        text = f"{name!r} is a member of {group!r}: edges go to and from the group, so write {group!r}"
        table.source.report("member_edge", text, path)
    elif not table.declared("nodes", name):
        hint = did_you_mean(name, [*table.spec.nodes, terminal])
        table.source.report("unknown_node", f"there is no node {name!r}{hint}", path)
    else:
        return name in table.classes
    return False


def check_references(table: NodeTable, group_of: Mapping[str, str]) -> None:
    """Report references to what does not exist, is of another type, or cannot be read from there."""
    for name in table.classes:
        for path, reference in table.options[name].references().items():
            if isinstance(reference, Reference):
                _check_targets(table, name, path, reference, group_of)


def _check_targets(
    table: NodeTable, name: str, path: tuple[str | int, ...], reference: Reference, group_of: Mapping[str, str]
) -> None:
    source, at = table.source, ("nodes", name, *path)
    wanted = _wanted_kinds(type(table.options[name]), path)
    for owner, port in reference.targets:
        if owner == "budget":
            source.report("unknown_name", "`budget` is for conditions only: options read nodes, params and input", at)
            return
        try:
            found = resolve_port(Port(0, 1, owner, tuple(port.split("."))), table.owners)
        except ExpressionError as error:
            source.report(error.code, str(error), at)
            return
        if wanted and not any(PortType(kind).accepts(found) for kind in wanted):
            text = f"`{path[0]}` takes {' or '.join(wanted)}; {owner}.{port} is {found}"
            source.report("type_mismatch", text, at)
            return
        if owner == name or (owner in group_of and group_of[owner] == group_of.get(name)):
            why = "it is itself" if owner == name else f"they run side by side in {group_of[name]!r}"
            source.report("reads_fellow", f"{name!r} cannot read {owner!r}: {why}; read a node before it", at)
            return


def check_certain(
    source: Source, nodes: Mapping[str, NodePlan], certainty: Certainty, group_of: Mapping[str, str]
) -> None:
    """Report references to a node that need not have succeeded by then, or whose `on_failure` lacks the port."""
    for name, plan in nodes.items():
        for path, reference in plan.options.references().items():
            if not isinstance(reference, Reference):
                continue
            owner, port = reference.targets[-1]
            if owner in OUTSIDE or port in ("ok", "failed"):
                continue
            at = ("nodes", name, *path)
            resort = f"name a last resort, such as ${{{owner}.{port} ?? input.text}}"
            if not certainty.succeeded(owner, group_of.get(name, name)):
                text = f"{owner!r} need not have succeeded on every path to {name!r}: route so that it has, or {resort}"
                source.report("not_certain", text, at)
            elif _lacks_stand_in(nodes[owner], port.partition(".")[0]):
                text = f"where {owner!r} fails, its `on_failure` gives no {port!r}: add it there, or {resort}"
                source.report("not_certain", text, at)


def _lacks_stand_in(plan: NodePlan, port: str) -> bool:
    values = plan.common.on_failure
    return values is not None and port not in values and port not in COMMON_PORTS


def check_baseline(table: NodeTable) -> None:
    """Report a baseline that is no answer of the graph."""
    name = table.spec.baseline
    if ("baseline",) in table.source.dropped:
        return
    if name is None:
        if table.spec.limits.baseline_share is not None:
            text = "`baseline_share` limits visits of the baseline, and the graph names none: add `baseline: <answer>`"
            table.source.report("no_baseline", text, ("limits", "baseline_share"), key=True)
        return
    if not table.declared("nodes", name):
        hint = did_you_mean(name, table.spec.nodes)
        table.source.report("unknown_node", f"there is no node {name!r}{hint}", ("baseline",))
    elif name in table.classes and table.role(name) != "answer":
        answers = [other for other in table.classes if table.role(other) == "answer"]
        text = f"the baseline is an answer, {name!r} is a signal{did_you_mean(name, answers)}"
        table.source.report("baseline", text, ("baseline",))


def _wanted_kinds(options: type[NodeOptions], path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Kinds of port that a reference in this option may point to; none where anything goes."""
    info = options.model_fields.get(str(path[0])) if len(path) == 1 else None
    if info is None:
        return ()
    for item in (*info.metadata, *metadata_inside(info.annotation)):
        if isinstance(item, Takes):
            return item.kinds
    parts = [part for part in (get_args(info.annotation) or (info.annotation,)) if part is not type(None)]
    kinds = tuple(_FIELD_KINDS[part] for part in parts if part in _FIELD_KINDS)
    return kinds if len(kinds) == len(parts) else ()
