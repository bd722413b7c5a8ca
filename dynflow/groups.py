"""Checks of options that name nodes: the members of groups, the routes of a router, and `on_failure`."""

from __future__ import annotations

from dynflow.language.source import did_you_mean
from dynflow.language.spec import Role
from dynflow.language.types import type_of_value
from dynflow.node import NamesNodes
from dynflow.nodetable import NodeTable, marked

Path = tuple[str | int, ...]


def check_named_nodes(table: NodeTable) -> dict[str, str]:
    """Report faults of every option that names nodes; the group of each member."""
    group_of: dict[str, str] = {}
    for name, cls in table.classes.items():
        for option, marker in marked(cls.Options, NamesNodes).items():
            single = isinstance(getattr(table.options[name], option), str)
            seen: set[str] = set()
            for index, other in enumerate(table.named(name, option)):
                path: Path = ("nodes", name, option) if single else ("nodes", name, option, index)
                if other in seen:
                    table.source.report("named_twice", f"{other!r} stands here twice: remove one", path)
                    continue
                seen.add(other)
                _check_named(table, name, other, marker.role, path)
                if cls.group:
                    _check_member(table, name, other, group_of, path)
    return group_of


def _check_named(table: NodeTable, name: str, other: str, role: Role | None, path: Path) -> None:
    if not table.declared("nodes", other):
        table.source.report("unknown_node", f"there is no node {other!r}{did_you_mean(other, table.spec.nodes)}", path)
    elif role is not None and other in table.classes and other != name and table.role(other) != role:
        text = f"{name!r} takes {role}s here, which {other!r} is not: name another, or give it `role: {role}`"
        table.source.report("wrong_role", text, path)


def _check_member(table: NodeTable, name: str, other: str, group_of: dict[str, str], path: Path) -> None:
    if other == name:
        table.source.report("nested_group", f"{name!r} holds itself: name other nodes", path)
    elif other in group_of:
        text = f"{other!r} is a member of {group_of[other]!r} already: a node belongs to one group"
        table.source.report("two_groups", text, path)
    elif other in table.classes and table.classes[other].group:
        text = f"{other!r} is a group itself: name its members here, or put one group after the other"
        table.source.report("nested_group", text, path)
    else:
        group_of[other] = name


def check_on_failure(table: NodeTable, name: str) -> None:
    """Report faults of a node's `on_failure`: it is for signals, and gives ports values of their types."""
    values = table.spec.nodes[name].common.on_failure
    source, at = table.source, ("nodes", name, "on_failure")
    if values is None:
        return
    if table.role(name) == "answer":
        text = f"`on_failure` is for signals; {name!r} is an answer: add an edge with `when: {name}.failed`"
        source.report("on_failure", text, at, key=True)
        return
    if table.doubtful(name):
        return
    ports = table.own_ports(name)
    for port, value in values.items():
        if port not in ports:
            source.report(
                "unknown_port", f"{port!r} is no port of {name!r}{did_you_mean(port, ports)}", (*at, port), key=True
            )
        elif not ports[port].accepts(type_of_value(value)):
            source.report(
                "type_mismatch", f"{name}.{port} takes {ports[port]}; this is {type_of_value(value)}", (*at, port)
            )
        elif ports[port].values is not None and value not in (ports[port].values or ()):
            hint = did_you_mean(str(value), ports[port].values or ())
            source.report("not_in_enum", f"{value!r} is none of the values of {name}.{port}{hint}", (*at, port))
