"""GraphSpec → CheckedGraph: node types, their options and ports, conditions and references; every fault at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from dynflow.certainty import Certainty
from dynflow.errors import GraphError
from dynflow.graph import CheckedGraph, NodePlan, Way, check_ends, check_shape, to_digraph
from dynflow.groups import check_named_nodes, check_on_failure
from dynflow.language.parse import parse
from dynflow.language.reader import MAX_BYTES
from dynflow.language.references import EnvironmentReference, Reference
from dynflow.language.sealing import literal_secrets
from dynflow.language.source import Source, did_you_mean
from dynflow.language.spec import GraphSpec
from dynflow.models.known import known
from dynflow.models.settings import Price
from dynflow.node import NamesModel
from dynflow.nodetable import NodeTable, marked
from dynflow.subgraphs import locate_subgraph
from dynflow.wiring import check_baseline, check_certain, check_edges, check_references

_Loaded = dict[Path, "CheckedGraph | GraphError"]
"""Sub-graphs checked so far in one go, so that a file that many use is read once."""


def check_text(
    data: bytes | str,
    file: str = "<string>",
    *,
    path: Path | None = None,
    base: Path | None = None,
    runnables: Mapping[str, Any] | None = None,
) -> tuple[Source, CheckedGraph | None]:
    """The source with all its problems, and the graph where there is no error among them.

    `path` is the graph's file and `base` the folder that its sub-graphs must stay below; `runnables` are the host's,
    None where the graph is checked without the host.
    """
    return _check(data, file, path, base or (path.parent if path else None), runnables, (), {})


def compile_text(data: bytes | str, file: str = "<string>", **options: Any) -> CheckedGraph:
    """The checked graph; options as of `check_text`. Raises `GraphError` with every fault."""
    return _sound(check_text(data, file, **options))


def read_graph_file(path: Path) -> bytes:
    """A graph file's bytes, or so many that it is seen to be too large. Raises `GraphError` where it cannot be read."""
    source = Source("", str(path))
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        siblings = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        source.report("no_file", f"there is no file {path}{did_you_mean(path.name, siblings)}")
    except (OSError, ValueError) as error:
        source.report("no_file", f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
    raise GraphError(source.problems)


def _sound(result: tuple[Source, CheckedGraph | None]) -> CheckedGraph:
    source, graph = result
    if graph is None:
        raise GraphError(source.errors())
    return graph


def _check(
    data: bytes | str,
    file: str,
    path: Path | None,
    base: Path | None,
    runnables: Mapping[str, Any] | None,
    chain: tuple[Path, ...],
    loaded: _Loaded,
) -> tuple[Source, CheckedGraph | None]:
    source, spec = parse(data, file)
    if spec is None:
        return source, None
    inside = (*chain, path.resolve()) if path else chain

    def subgraph(uses: str) -> CheckedGraph:
        where = locate_subgraph(uses, path, base, inside)
        if where not in loaded:
            try:
                loaded[where] = _sound(
                    _check(read_graph_file(where), str(where), where, base, runnables, inside, loaded)
                )
            except GraphError as error:
                loaded[where] = error
        found = loaded[where]
        if isinstance(found, GraphError):
            raise found
        return found

    graph = _compile(NodeTable(source, spec, path, base, runnables, subgraph))
    return source, None if source.errors() else graph


def _compile(table: NodeTable) -> CheckedGraph:
    source = table.source
    before = len(source.problems)
    group_of = check_named_nodes(table)
    grouped = len(source.problems) == before
    for name in table.classes:
        check_on_failure(table, name)
        table.own_ports(name)  # a faulty sub-graph shows here, before anything reads its ports
    ways, whole = check_edges(table, group_of)
    check_references(table, group_of)
    check_baseline(table)
    _check_prices(source, table.spec)
    _check_options(table)
    nodes = {name: table.plan(name) for name in table.classes}
    shaped = (
        whole
        and grouped
        and len(nodes) == len(table.spec.nodes)
        and not any(path[0] == "nodes" for path in source.dropped)
    )
    # What follows from the shape is worth saying only of a shape that is known, and of conditions that are sound.
    if shaped and check_shape(source, nodes, ways) and not source.errors():
        certainty = Certainty(nodes, ways, to_digraph(nodes, ways))
        check_ends(source, nodes, ways, certainty)
        check_certain(source, nodes, certainty, group_of)
    if not source.errors():
        _warn(source, table.spec, nodes, ways)
    return CheckedGraph(table.spec, source, nodes, ways)


def _check_prices(source: Source, spec: GraphSpec) -> None:
    """Report prices of which a side is missing: it must not count as free."""
    for model, settings in spec.models.items():
        if isinstance(settings.price, Price) and known(settings).price is None:
            text = (
                "a price needs both `input` and `output`, in its tiers too, for nothing else says what the model "
                "costs: give both; 0 where it is free"
            )
            source.report("bad_value", text, ("models", model, "price"), key=True)


def _check_options(table: NodeTable) -> None:
    """What the node types themselves have to say of their options."""
    partly = {path[1] for path in table.source.dropped if len(path) > 2 and path[0] == "nodes"}
    for name, cls in table.classes.items():
        if name in partly or (cls.group and table.doubtful(name)):
            continue  # what it lacks, or its members do, is reported already
        scope = table.scope(name)
        for finding in cls.check(table.options[name], scope):
            path = ("nodes", name, *finding.path)
            severity: Any = finding.severity
            key = finding.key or not finding.path
            table.source.report(finding.code, finding.text, path, severity=severity, key=key)


def _warn(source: Source, spec: GraphSpec, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
    """Report what may be meant, and yet is worth a look."""
    named = {
        getattr(plan.options, option) for plan in nodes.values() for option in marked(plan.cls.Options, NamesModel)
    }
    source.secrets.extend(literal_secrets(spec.models))
    limited = spec.limits.usd_per_request is not None or spec.limits.usd_per_day is not None
    for model, settings in spec.models.items():
        if model not in named:
            text = f"no node uses the model {model!r}: remove it, or name it in a node"
            source.report("unused", text, ("models", model), key=True, severity="warning")
            continue
        if limited and isinstance(settings.model, str) and settings.price is None and known(settings).price is None:
            text = (
                f"the price of {model!r} is not known, and a limit in USD is set: every call of it will be refused; "
                "give it a `price:`"
            )
            source.report("unknown_price", text, ("models", model), key=True, severity="warning")
        for option in ("api_key", "api_base"):  # an address is a secret where it holds a password or a query
            if isinstance(getattr(settings, option), SecretStr):
                text = f"a key of the model {model!r} stands in the file: write ${{env:NAME}}, to keep it out of copies"
                source.report("literal_secret", text, ("models", model, option), severity="warning")
        for path, reference in settings.references().items():
            if (
                isinstance(reference, EnvironmentReference)
                and reference.default is None
                and not os.environ.get(reference.name)
            ):
                text = f"{reference.name} is not set; the model {model!r} fails until it is: export {reference.name}=…"
                source.report("missing_environment", text, ("models", model, *path), severity="warning")
    read = {
        port.path[0] for outgoing in ways.values() for way in outgoing for port in way.reads if port.owner == "params"
    }
    for plan in nodes.values():
        for reference in plan.options.references().values():
            if isinstance(reference, Reference):
                read |= {port for owner, port in reference.targets if owner == "params"}
    for param in (name for name in spec.params if name not in read):
        text = f"nothing reads the param {param!r}: remove it, or read params.{param} in an edge or option"
        source.report("unused", text, ("params", param), key=True, severity="warning")
    kinds = {plan.answer_type for plan in nodes.values() if plan.role == "answer"} - {object}
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        text = f"the answers are of different types ({names}): fine for a runnable, not for use as a chat model"
        source.report("mixed_answers", text, ("nodes",), key=True, severity="warning")
