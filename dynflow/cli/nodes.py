"""`dynflow nodes`: the installed node types, and one type's options, ports and example."""

from __future__ import annotations

import types
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from dynflow.cli.terminal import table

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from dynflow.language.types import PortType
    from dynflow.node import Node


def complete_type(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of registered types, found as dynflow.node does, which loads too much for a completion."""
    names = sorted(point.name for point in entry_points(group="dynflow.nodes"))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("nodes")
@click.argument("type", required=False, shell_complete=complete_type)
def command(type: str | None) -> None:
    """List the installed node types, or describe one.

    \b
    Examples:
      dynflow nodes
      dynflow nodes router
    """
    from dynflow.language.source import did_you_mean
    from dynflow.node import node_type, node_types

    if type is None:
        rows = [("TYPE", "ROLE", "NEEDS", "WHAT IT DOES")]
        rows += [_row(name) for name in node_types()]
        click.echo(table(rows))
        click.echo("\n`dynflow nodes TYPE` shows a type's options and ports.")
        return
    if type not in node_types():
        raise click.BadParameter(f"there is no node type {type!r}{did_you_mean(type, node_types())}", param_hint="TYPE")
    try:
        cls = node_type(type)
    except ImportError as error:
        text = f"the node type {type!r} cannot be loaded: {error}; install what its package needs"
        raise click.ClickException(text) from error
    for line in describe(cls):
        click.echo(line)


def _row(name: str) -> tuple[str, str, str, str]:
    from dynflow.node import node_type

    try:
        cls = node_type(name)
    except ImportError as error:
        return name, "?", "", f"cannot be loaded: {error}"
    return name, cls.role, f"dynflow[{cls.extra}]" if cls.extra else "", cls.summary


def describe(cls: type[Node]) -> Iterator[str]:
    """A type's reference: what it does, options, ports, an example."""
    from dynflow.cli.examples import example_of
    from dynflow.language.spec import CommonOptions
    from dynflow.language.types import COMMON_PORTS

    yield f"{click.style(cls.type, bold=True)} ({cls.role}): {cls.summary}"
    if cls.extra:
        yield f'needs: pip install "dynflow[{cls.extra}]"'
    yield from _section("options", [_option(name, field) for name, field in cls.Options.model_fields.items()])
    common = CommonOptions.model_fields.items()
    yield from _section("options of every node", [_option(name, field) for name, field in common if name != "type"])
    yield from _section("ports", [_port(f"{cls.type}.{name}", port) for name, port in cls.ports.items()])
    yield from _section("ports of every node", [_port(name, port) for name, port in COMMON_PORTS.items()])
    yield "\n" + click.style("example", bold=True)
    yield from (f"  {line}" for line in example_of(cls).splitlines())


def _section(title: str, rows: list[tuple[str, str, str]]) -> Iterator[str]:
    if rows:
        yield "\n" + click.style(title, bold=True)
        yield table(rows, "  ")


def _port(name: str, port: PortType) -> tuple[str, str, str]:
    values = f" ({', '.join(port.values)})" if port.values else ""
    return name, port.kind, port.doc + values


def _option(name: str, field: FieldInfo) -> tuple[str, str, str]:
    if field.is_required():
        default = "required"
    elif field.default is None:
        default = ""
    else:
        value = field.get_default(call_default_factory=True)
        default = "" if value in ({}, []) else f"default: {str(value).lower() if isinstance(value, bool) else value}"
    text = "; ".join(part for part in (field.description or "", default) if part)
    return field.alias or name, words_for(field.annotation, field.metadata), text


def words_for(annotation: Any, metadata: Any = ()) -> str:
    """A Python annotation as a graph's author would say it: `number`, `list of text`, `reference`."""
    from pydantic import BeforeValidator

    from dynflow.language.options import parse_duration
    from dynflow.language.references import AnyReference
    from dynflow.node import NamesModel, NamesNodes

    for mark in metadata:
        if isinstance(mark, NamesModel):
            return "model"
        if isinstance(mark, NamesNodes):
            return "list of nodes" if get_origin(annotation) is list else "node"
        if isinstance(mark, BeforeValidator) and mark.func is parse_duration:
            return "duration"
    if hasattr(annotation, "__metadata__"):
        return words_for(annotation.__origin__, annotation.__metadata__)
    origin, parts = get_origin(annotation), [part for part in get_args(annotation) if part is not types.NoneType]
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(words_for(part) for part in parts))
    if origin is Literal:
        return " | ".join(map(str, parts))
    if origin is list:
        return f"list of {words_for(parts[0])}" if parts else "list"
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, dict)):
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, AnyReference):
        return "reference"
    return {str: "text", float: "number", int: "integer", bool: "true or false"}.get(annotation, "any")
