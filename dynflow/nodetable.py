"""The nodes of a graph under check: their types, options, roles and ports, as conditions and references see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_args, get_origin

from dynflow.errors import GraphError
from dynflow.graph import CheckedGraph, NodePlan
from dynflow.language.expression import ExpressionError, Port
from dynflow.language.parse import drop_references, validated
from dynflow.language.references import Reference
from dynflow.language.source import Source, did_you_mean
from dynflow.language.spec import CommonOptions, GraphSpec, Role
from dynflow.language.typecheck import resolve_port
from dynflow.language.types import (
    BUDGET_TYPES,
    COMMON_PORTS,
    DECLARABLE,
    INPUT_TYPES,
    PortType,
    any_type,
    enum,
    type_of_value,
)
from dynflow.node import NamesModel, NamesNodes, Node, NodeOptions, node_type, node_types

OUTSIDE = ("params", "input", "budget")
"""Owners of ports that are no nodes."""


class _Anything(Mapping[str, PortType]):
    """Ports of a node that is faulty itself: whatever they are called, they are no further fault."""

    def __getitem__(self, name: str) -> PortType:
        return any_type()

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Known(dict[str, PortType]):
    """Declared params or request keys; those that were declared wrongly count as known, with any type."""

    def __init__(self, ports: Mapping[str, PortType], faulty: set[str]) -> None:
        super().__init__({**dict.fromkeys(faulty, any_type()), **ports})


class NodeTable:
    """Looks up each node's type and checks its options; answers what is known of a node, and tolerates faulty ones."""

    def __init__(
        self,
        source: Source,
        spec: GraphSpec,
        file: Path | None,
        base: Path | None,
        runnables: Mapping[str, Any] | None,
        subgraph: Callable[[str], CheckedGraph],
    ) -> None:
        self.source = source
        self.spec = spec
        self.file = file
        self.base = base
        self.runnables = runnables
        self.classes: dict[str, type[Node]] = {}
        self.options: dict[str, Any] = {}
        self._ports: dict[str, Mapping[str, PortType]] = {}
        self._subgraph = subgraph
        self._broken: set[str] = set()
        """Nodes whose sub-graph is faulty."""
        for name in spec.nodes:
            self._check_node(name)

    def declared(self, section: str, name: str) -> bool:
        """Whether the text has the entry, faulty or not."""
        return name in getattr(self.spec, section) or (section, name) in self.source.keys

    def _check_node(self, name: str) -> None:
        common = self.spec.nodes[name].common
        at = ("nodes", name)
        if common.type not in node_types():
            hint = did_you_mean(common.type, node_types())
            text = f"there is no node type {common.type!r}{hint}; `dynflow nodes` lists the installed ones"
            self.source.report("unknown_type", text, (*at, "type"))
            return
        try:
            cls = node_type(common.type)
        except ImportError as error:
            text = f"the node type {common.type!r} cannot be loaded: {error}; install what its package needs"
            self.source.report("broken_type", text, (*at, "type"))
            return
        raw = dict(self.spec.nodes[name].options)
        drop_references(
            raw,
            cls.Options.static | marked(cls.Options, NamesModel).keys() | marked(cls.Options, NamesNodes).keys(),
            at,
            self.source,
        )
        for option, info in cls.Options.model_fields.items():
            written = info.alias or option
            if isinstance(raw.get(written), Reference) and get_origin(info.annotation) is dict:
                text = f"`{written}` takes a mapping, whose values may be references"
                self.source.report("static_option", text, (*at, written))
                del raw[written]
        before = len(self.source.problems)
        options = validated(cls.Options, raw, at, self.source)
        self._name_the_type(before, cls, at)
        if options is None:
            return
        self.classes[name] = cls
        self.options[name] = options
        self._check_models(name, cls, options)
        if common.role == "answer" and not cls.can_answer:
            text = f"a {cls.type} has no value that could be the result: remove `role: answer`"
            self.source.report("wrong_role", text, (*at, "role"))

    def _name_the_type(self, before: int, cls: type[Node], at: tuple[str, str]) -> None:
        """An unknown option might be a common one misspelt: the choices are those of both. Keys inside options are no
        options."""
        fields = {**cls.Options.model_fields, **CommonOptions.model_fields}
        known = [info.alias or option for option, info in fields.items()]
        for index, problem in enumerate(self.source.problems[before:], before):
            word = problem.text.split("'")[1] if problem.code == "unknown_key" else ""
            if word and self.source.keys.get((*at, word)) == problem.place:
                text = f"{word!r} is no option of {cls.type}{did_you_mean(word, known)}"
                self.source.problems[index] = self.source.problem("unknown_option", text, problem.place)

    def _check_models(self, name: str, cls: type[Node], options: Any) -> None:
        for option in marked(cls.Options, NamesModel):
            model = getattr(options, option)
            if isinstance(model, str) and not self.declared("models", model):
                hint = did_you_mean(model, self.spec.models) if self.spec.models else "; declare it under `models:`"
                self.source.report("unknown_model", f"there is no model {model!r}{hint}", ("nodes", name, option))

    # What is known of a node

    def doubtful(self, name: str) -> bool:
        """Whether the node's ports cannot be known: it, a member or its sub-graph is faulty."""
        if name not in self.classes or name in self._broken:
            return True
        return any(member not in self.classes or member in self._broken for member in self.members(name))

    def role(self, name: str) -> Role:
        """The role given, or the type's own."""
        given = self.spec.nodes[name].common.role
        return given or (self.classes[name].role if name in self.classes else "signal")

    def members(self, name: str) -> tuple[str, ...]:
        """The members of a group; none of any other node."""
        cls = self.classes[name]
        if not cls.group:
            return ()
        return tuple(other for option in marked(cls.Options, NamesNodes) for other in self.named(name, option))

    def named(self, name: str, option: str) -> list[str]:
        """The node ids in an option that names nodes."""
        value = getattr(self.options[name], option)
        return [value] if isinstance(value, str) else list(value or ())

    def own_ports(self, name: str) -> Mapping[str, PortType]:
        """The ports of a node but those that every node has; none while they are being worked out."""
        if name not in self._ports:
            self._ports[name] = {}
            if name in self.classes:
                self._ports[name] = dict(self.classes[name].output_ports(self.options[name], self.scope(name)))
        return self._ports[name]

    @cached_property
    def owners(self) -> dict[str, Mapping[str, PortType]]:
        """Ports by owner, as conditions and references see them."""
        faulty = {
            section: {str(path[1]) for path in self.source.dropped if len(path) == 2 and path[0] == section}
            for section in ("nodes", "params", "inputs")
        }
        nodes: dict[str, Mapping[str, PortType]] = {name: _Anything() for name in (*faulty["nodes"], *self.spec.nodes)}
        for name in self.classes:
            ports = {**self.own_ports(name), **COMMON_PORTS}
            if not self.doubtful(name):
                nodes[name] = ports
        params = {name: type_of_value(body.default) for name, body in self.spec.params.items()}
        inputs = {name: DECLARABLE[body.type] for name, body in self.spec.inputs.items()}
        return {
            **nodes,
            "params": _Known(params, faulty["params"]),
            "input": _Known({**INPUT_TYPES, **inputs}, faulty["inputs"]),
            "budget": BUDGET_TYPES,
        }

    def plan(self, name: str) -> NodePlan:
        """The node as the graph has it."""
        cls, options, common = self.classes[name], self.options[name], self.spec.nodes[name].common
        role = self.role(name)
        models = [getattr(options, option) for option in marked(cls.Options, NamesModel)]
        return NodePlan(
            name,
            cls,
            common,
            options,
            role,
            self.own_ports(name),
            next((model for model in models if isinstance(model, str)), None),
            self.members(name),
            bool(options.references()),
            cls.can_fail(options, self.scope(name)),
            cls.answer_type(options, self.scope(name)) if role == "answer" else object,
        )

    def scope(self, name: str) -> Scope:
        """What the type of a node sees of the graph."""
        return Scope(self, name)

    def subgraph(self, name: str, uses: str) -> CheckedGraph:
        """The sub-graph of a node. Raises `GraphError`."""
        try:
            return self._subgraph(uses)
        except GraphError:
            self._broken.add(name)
            raise


_calibrating: ContextVar[bool] = ContextVar("calibrating", default=False)


@contextmanager
def calibrating() -> Iterator[None]:
    """Graphs that are loaded inside may state promises that are not calibrated."""
    token = _calibrating.set(True)
    try:
        yield
    finally:
        _calibrating.reset(token)


class Scope:
    """What one node's type sees of the graph under check (`BuildScope`)."""

    def __init__(self, table: NodeTable, node_id: str) -> None:
        self.node_id = node_id
        self.spec = table.spec
        self.file = table.file
        self.base = table.base
        self.runnables = table.runnables
        self.calibrating = _calibrating.get()
        self._table = table

    def ports_of(self, node_id: str) -> Mapping[str, PortType]:
        return self._table.own_ports(node_id)

    def type_of(self, reference: Reference) -> PortType:
        """The type that all targets share; of enums, every value of each."""
        try:
            found = [
                resolve_port(Port(0, 1, owner, tuple(port.split("."))), self._table.owners)
                for owner, port in reference.targets
            ]
        except ExpressionError:
            return any_type()  # reported where references are checked
        kinds = {port.kind for port in found}
        if len(kinds) != 1:
            return any_type()
        if all(port.values is not None for port in found):
            return enum(tuple(dict.fromkeys(value for port in found for value in port.values or ())))
        return found[0] if len(found) == 1 else PortType(kinds.pop())

    def subgraph(self, uses: str) -> CheckedGraph:
        return self._table.subgraph(self.node_id, uses)


@cache
def marked(options: type[NodeOptions], marker: type[Any]) -> Mapping[str, Any]:
    """Options that carry a marker, with it; also inside a union or list."""
    found: dict[str, Any] = {}
    for name, info in options.model_fields.items():
        for item in (*info.metadata, *metadata_inside(info.annotation)):
            if isinstance(item, marker):
                found[name] = item
    return found


def metadata_inside(annotation: Any) -> Iterator[Any]:
    """What an annotation and its parts are annotated with."""
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from metadata_inside(part)
