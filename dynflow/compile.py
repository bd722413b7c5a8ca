"""GraphSpec → CheckedGraph: node types, their options and ports, conditions and references; every fault at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin

from dynflow.errors import GraphError
from dynflow.graph import CheckedGraph, NodePlan, Way, certain_success, check_structure
from dynflow.language.evaluate import compile_expression
from dynflow.language.expression import ExpressionError, Port, parse_expression, ports_of
from dynflow.language.parse import parse, validated
from dynflow.language.references import EnvironmentReference, Reference, find_references
from dynflow.language.source import Source, did_you_mean
from dynflow.language.spec import END, START, CommonOptions, GraphSpec, Role
from dynflow.language.typecheck import check_condition, resolve_port
from dynflow.language.types import BUDGET_TYPES, COMMON_PORTS, DECLARABLE, INPUT_TYPES, PortType, type_of_value
from dynflow.node import NamesModel, NamesNodes, Node, NodeOptions, Takes, node_type, node_types

_FIELD_KINDS: dict[Any, str] = {str: "string", float: "number", int: "integer", bool: "boolean"}
_OWNERS = ("params", "input", "budget")


def check_text(
    data: bytes | str,
    file: str = "<string>",
    *,
    path: Path | None = None,
    base: Path | None = None,
    runnables: Mapping[str, Any] | None = None,
    chain: tuple[Path, ...] = (),
) -> tuple[Source, CheckedGraph | None]:
    """The source with all its problems, and the graph where there is no error among them."""
    source, spec = parse(data, file)
    if spec is None:
        return source, None
    checked = _Compiler(source, spec, path, base, runnables, chain).compile()
    return source, None if source.errors() else checked


def compile_text(data: bytes | str, file: str = "<string>", **options: Any) -> CheckedGraph:
    """The checked graph. Raises `GraphError` with every fault."""
    source, graph = check_text(data, file, **options)
    if graph is None:
        raise GraphError(source.errors())
    return graph


def read_graph_file(path: Path) -> bytes:
    """A graph file's bytes. Raises `GraphError` where it cannot be read."""
    source = Source("", str(path))
    try:
        return path.read_bytes()
    except FileNotFoundError:
        siblings = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        source.report("no_file", f"there is no file {path}{did_you_mean(path.name, siblings)}")
    except OSError as error:
        source.report("no_file", f"{path} cannot be read: {error.strerror or error}")
    raise GraphError(source.problems)


class _Scope:
    """What one node type sees of the graph under check (`BuildScope`)."""

    def __init__(self, compiler: _Compiler, node_id: str) -> None:
        self.node_id = node_id
        self._compiler = compiler
        self.spec = compiler.spec
        self.file = compiler.path
        self.base = compiler.base
        self.runnables = compiler.runnables

    def ports_of(self, node_id: str) -> Mapping[str, PortType]:
        return self._compiler.own_ports(node_id)

    def role_of(self, node_id: str) -> Role:
        return self._compiler.role(node_id)

    def type_of(self, reference: Reference) -> PortType:
        owner, _, rest = reference.targets[0][0], "", reference.targets[0][1].split(".")
        try:
            return resolve_port(Port(0, 1, owner, tuple(rest)), self._compiler.owners)
        except ExpressionError:
            return DECLARABLE["any"]  # reported where references are checked

    def subgraph(self, uses: str) -> CheckedGraph:
        return self._compiler.subgraph(self.node_id, uses)


class _Compiler:
    def __init__(
        self,
        source: Source,
        spec: GraphSpec,
        path: Path | None,
        base: Path | None,
        runnables: Mapping[str, Any] | None,
        chain: tuple[Path, ...],
    ) -> None:
        self.source = source
        self.spec = spec
        self.path = path
        self.base = base or (path.parent if path else None)
        self.runnables = runnables
        self.chain = chain
        self.classes: dict[str, type[Node]] = {}
        self.options: dict[str, Any] = {}
        self._ports: dict[str, Mapping[str, PortType]] = {}
        self._subgraphs: dict[str, CheckedGraph] = {}
        # What stands in the text but was dropped as faulty: naming it again is no second fault.
        self.declared = {
            section: {str(keys[1]) for keys in source.keys if len(keys) == 2 and keys[0] == section}
            for section in ("nodes", "models", "params")
        }

    def compile(self) -> CheckedGraph:
        for name in self.spec.nodes:
            self._check_node(name)
        members = self._check_members()
        ways = self._check_edges(members)
        nodes = {name: self._plan(name) for name in self.classes}
        if not self.source.errors():
            check_structure(self.source, nodes, ways)
        if not self.source.errors():
            self._check_references(nodes, ways)
            self._check_baseline(nodes)
        for name, cls in self.classes.items():
            for finding in cls.check(self.options[name], _Scope(self, name)):
                path = ("nodes", name, *finding.path)
                severity: Any = finding.severity
                self.source.report(finding.code, finding.text, path, severity=severity, key=not finding.path)
        self._warn(nodes, ways)
        return CheckedGraph(self.spec, self.source, nodes, ways)

    # Nodes

    def _check_node(self, name: str) -> None:
        spec = self.spec.nodes[name]
        at = ("nodes", name, "type")
        if spec.common.type not in node_types():
            hint = did_you_mean(spec.common.type, node_types())
            text = f"there is no node type {spec.common.type!r}{hint}; `dynflow nodes` lists the installed ones"
            self.source.report("unknown_type", text, at)
            return
        try:
            cls = node_type(spec.common.type)
        except ImportError as error:
            self.source.report("broken_type", f"the node type {spec.common.type!r} cannot be loaded: {error}", at)
            return
        raw = dict(spec.options)
        static = cls.Options.static | set(_marked(cls.Options, NamesModel)) | set(_marked(cls.Options, NamesNodes))
        for option in static & raw.keys():
            for path, reference in find_references(raw[option], (option,)):
                text = f"`{option}` shapes the graph: it takes a literal, not {reference}"
                self.source.report("static_option", text, ("nodes", name, *path))
                raw.pop(option, None)
        for option, info in cls.Options.model_fields.items():
            written = info.alias or option
            if isinstance(raw.get(written), Reference) and get_origin(info.annotation) is dict:
                text = f"`{written}` is a mapping whose values may be references"
                self.source.report("static_option", text, ("nodes", name, written))
                del raw[written]
        before = len(self.source.problems)
        options = validated(cls.Options, raw, ("nodes", name), self.source)
        if len(self.source.problems) > before:
            self._point_at_type(before, name, cls)
        if options is None:
            return
        self.classes[name] = cls
        self.options[name] = options
        self._check_models(name, cls, options)

    def _point_at_type(self, before: int, name: str, cls: type[Node]) -> None:
        """An unknown option might be a common one misspelt: the choices are those of both."""
        fields = {**cls.Options.model_fields, **CommonOptions.model_fields}
        known = [info.alias or option for option, info in fields.items()]
        for index, problem in enumerate(self.source.problems[before:], before):
            if problem.code == "unknown_key":
                word = problem.text.split("'")[1]
                text = f"{word!r} is no option of {cls.type}{did_you_mean(word, known)}"
                self.source.problems[index] = self.source.problem("unknown_option", text, problem.place)

    def _check_models(self, name: str, cls: type[Node], options: Any) -> None:
        for option in _marked(cls.Options, NamesModel):
            model = getattr(options, option)
            if isinstance(model, str) and model not in self.spec.models and model not in self.declared["models"]:
                hint = did_you_mean(model, self.spec.models) if self.spec.models else "; declare it under `models:`"
                self.source.report("unknown_model", f"there is no model {model!r}{hint}", ("nodes", name, option))

    def role(self, name: str) -> Role:
        """The role given, or the type's own."""
        given = self.spec.nodes[name].common.role
        return given or (self.classes[name].role if name in self.classes else "signal")

    def own_ports(self, name: str) -> Mapping[str, PortType]:
        """The ports of a node but those that every node has; none while they are being worked out."""
        if name not in self._ports:
            self._ports[name] = {}
            if name in self.classes:
                self._ports[name] = dict(self.classes[name].output_ports(self.options[name], _Scope(self, name)))
        return self._ports[name]

    @cached_property
    def owners(self) -> dict[str, Mapping[str, PortType]]:
        """Ports by owner, as conditions and references see them."""
        nodes = {name: {**self.own_ports(name), **COMMON_PORTS} for name in self.classes}
        declared = {name: DECLARABLE[body.type] for name, body in self.spec.inputs.items()}
        params = {name: type_of_value(body.default) for name, body in self.spec.params.items()}
        return {"params": params, "input": {**INPUT_TYPES, **declared}, "budget": BUDGET_TYPES, **nodes}

    def _plan(self, name: str) -> NodePlan:
        cls, options, common = self.classes[name], self.options[name], self.spec.nodes[name].common
        role = self.role(name)
        if common.on_failure is not None:
            self._check_on_failure(name, role)
        models = [getattr(options, option) for option in _marked(cls.Options, NamesModel)]
        answer_type = cls.answer_type(options, _Scope(self, name)) if role == "answer" else object
        model = next((model for model in models if isinstance(model, str)), None)
        return NodePlan(
            name,
            cls,
            common,
            options,
            role,
            self.own_ports(name),
            model,
            self._members(name),
            bool(options.references()),
            answer_type,
        )

    def _check_on_failure(self, name: str, role: Role) -> None:
        at = ("nodes", name, "on_failure")
        if role == "answer":
            text = f"`on_failure` is for signals; {name!r} is an answer: add an edge with `when: {name}.failed`"
            self.source.report("on_failure", text, at, key=True)
            return
        ports = self.own_ports(name)
        for port, value in (self.spec.nodes[name].common.on_failure or {}).items():
            if port not in ports:
                self.source.report("unknown_port", f"{port!r} is no port of {name!r}{did_you_mean(port, ports)}", (*at, port), key=True)
            elif not ports[port].accepts(type_of_value(value)):
                self.source.report("type_mismatch", f"{name}.{port} is {ports[port]}", (*at, port))
            elif ports[port].values is not None and value not in (ports[port].values or ()):
                hint = did_you_mean(str(value), ports[port].values or ())
                self.source.report("not_in_enum", f"{value!r} is none of the values of {name}.{port}{hint}", (*at, port))

    # Groups

    def _members(self, name: str) -> tuple[str, ...]:
        cls = self.classes[name]
        if not cls.group:
            return ()
        found: list[str] = []
        for option in _marked(cls.Options, NamesNodes):
            value = getattr(self.options[name], option)
            found += [value] if isinstance(value, str) else list(value or ())
        return tuple(found)

    def _check_members(self) -> dict[str, str]:
        """The group of each member; also every other option that names nodes."""
        group_of: dict[str, str] = {}
        for name, cls in self.classes.items():
            for option, marker in _marked(cls.Options, NamesNodes).items():
                value = getattr(self.options[name], option)
                listed = [value] if isinstance(value, str) else list(value or ())
                for index, other in enumerate(listed):
                    path = ("nodes", name, option) if isinstance(value, str) else ("nodes", name, option, index)
                    self._check_named_node(name, other, marker.role, path)
                    if cls.group and listed.index(other) == index:
                        self._check_one_group(name, other, group_of, path)
                    elif listed.index(other) != index:
                        self.source.report("named_twice", f"{other!r} stands here twice", path)
        return group_of

    def _check_named_node(self, name: str, other: str, role: Role | None, path: tuple[str | int, ...]) -> None:
        if other not in self.spec.nodes:
            if other not in self.declared["nodes"]:
                hint = did_you_mean(other, self.spec.nodes)
                self.source.report("unknown_node", f"there is no node {other!r}{hint}", path)
        elif role is not None and other in self.classes and self.role(other) != role:
            self.source.report("wrong_role", f"{name!r} takes {role}s here; {other!r} is a {self.role(other)}", path)

    def _check_one_group(self, name: str, other: str, group_of: dict[str, str], path: tuple[str | int, ...]) -> None:
        if other in group_of:
            self.source.report("two_groups", f"{other!r} is a member of {group_of[other]!r} already", path)
        elif other in self.classes and self.classes[other].group:
            self.source.report("nested_group", f"{other!r} is a group itself; groups hold ordinary nodes", path)
        elif other == name:
            self.source.report("nested_group", f"{name!r} holds itself", path)
        else:
            group_of[other] = name

    # Edges

    def _check_edges(self, members: Mapping[str, str]) -> dict[str, tuple[Way, ...]]:
        ways: dict[str, list[Way]] = {}
        for index, edge in enumerate(self.spec.edges):
            if not edge.source:
                continue  # reported while parsing
            fine = self._check_edge_end(index, "from", edge.source, START, members)
            fine = self._check_edge_end(index, "to", edge.target, END, members) and fine
            term = None
            if edge.when is not None:
                try:
                    term = parse_expression(edge.when)
                    self._check_ports_known(term)
                    check_condition(term, self.owners)
                except ExpressionError as error:
                    if error.code != "dropped":
                        path = ("edges", index, "when")
                        self.source.report(error.code, str(error), path, offset=error.offset, length=error.length)
                    continue
            if fine:
                evaluate = compile_expression(term) if term is not None else None
                reads = tuple(dict.fromkeys(ports_of(term))) if term is not None else ()
                ways.setdefault(edge.source, []).append(Way(index, edge.source, edge.target, edge.when, term, evaluate, reads))
        return {name: tuple(found) for name, found in ways.items()}

    def _check_ports_known(self, term: Any) -> None:
        """A condition on a node whose own faults are already reported is not a fault of its own."""
        for port in ports_of(term):
            if port.owner in _OWNERS:
                missing = port.owner == "params" and port.path[0] not in self.spec.params
                if missing and port.path[0] in self.declared["params"]:
                    raise ExpressionError("dropped", "")
            elif port.owner not in self.classes and port.owner in self.declared["nodes"]:
                raise ExpressionError("dropped", "")

    def _check_edge_end(self, index: int, side: str, name: str, terminal: str, members: Mapping[str, str]) -> bool:
        path = ("edges", index, side)
        if name == terminal:
            return True
        if name in (START, END):
            text = "no edge leads to `start`" if name == START else "no edge leaves `end`"
            self.source.report("edge_direction", text, path)
        elif name in members:
            text = f"{name!r} is a member of {members[name]!r}: edges go to and from the group"
            self.source.report("member_edge", text, path)
        elif name not in self.spec.nodes:
            if name not in self.declared["nodes"]:
                hint = did_you_mean(name, [*self.spec.nodes, terminal])
                self.source.report("unknown_node", f"there is no node {name!r}{hint}", path)
        else:
            return name in self.classes
        return False

    # References

    def _check_references(self, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
        certain, _ = certain_success(nodes, ways)
        group_of = {member: plan.id for plan in nodes.values() for member in plan.members}
        for name, plan in nodes.items():
            before = certain.get(group_of.get(name, name), frozenset())
            for path, reference in plan.options.references().items():
                if isinstance(reference, Reference):
                    self._check_reference(name, path, reference, before, group_of)

    def _check_reference(
        self,
        name: str,
        path: tuple[str | int, ...],
        reference: Reference,
        before: frozenset[str],
        group_of: Mapping[str, str],
    ) -> None:
        at = ("nodes", name, *path)
        found: PortType | None = None
        for owner, port in reference.targets:
            try:
                found = resolve_port(Port(0, 1, owner, tuple(port.split("."))), self.owners)
            except ExpressionError as error:
                self.source.report(error.code, str(error), at)
                return
            wanted = _wanted_kinds(type(self.options[name]), path)
            if wanted and not any(PortType(kind).accepts(found) for kind in wanted):
                text = f"`{path[0]}` takes a {' or '.join(wanted)}; {owner}.{port} is {found}"
                self.source.report("type_mismatch", text, at)
                return
            if owner == name or (owner in group_of and group_of[owner] == group_of.get(name)):
                text = f"{name!r} cannot read {owner!r}: " + ("it is itself" if owner == name else "they run side by side")
                self.source.report("reads_fellow", text, at)
                return
        owner, port = reference.targets[-1]
        always = port in ("ok", "failed")
        if owner not in _OWNERS and owner not in before and not always:
            text = (
                f"{owner!r} need not have succeeded on every path to {name!r}: route so that it has, "
                f"or name a last resort, such as ${{{owner}.{port} ?? input.text}}"
            )
            self.source.report("not_certain", text, at)

    def _check_baseline(self, nodes: Mapping[str, NodePlan]) -> None:
        name = self.spec.baseline
        if name is None:
            return
        if name not in nodes:
            self.source.report("unknown_node", f"there is no node {name!r}{did_you_mean(name, nodes)}", ("baseline",))
        elif nodes[name].role != "answer":
            answers = [other for other, plan in nodes.items() if plan.role == "answer"]
            text = f"the baseline is an answer, {name!r} is a signal{did_you_mean(name, answers)}"
            self.source.report("baseline", text, ("baseline",))

    # Sub-graphs

    def subgraph(self, node_id: str, uses: str) -> CheckedGraph:
        """Another graph file, checked. Raises `GraphError`."""
        if uses not in self._subgraphs:
            path = locate_subgraph(uses, self.path, self.base, self.chain)
            chain = (*self.chain, *((self.path.resolve(),) if self.path else ()))
            self._subgraphs[uses] = compile_text(
                read_graph_file(path), str(path), path=path, base=self.base, runnables=self.runnables, chain=chain
            )
        return self._subgraphs[uses]

    # Warnings

    def _warn(self, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]]) -> None:
        named = {plan.model for plan in nodes.values()}
        named |= {getattr(plan.options, option) for plan in nodes.values() for option in _marked(plan.cls.Options, NamesModel)}
        for model, settings in self.spec.models.items():
            if model not in named:
                self.source.report("unused", f"no node uses the model {model!r}", ("models", model), key=True, severity="warning")
                continue
            for path, reference in settings.references().items():
                if isinstance(reference, EnvironmentReference) and reference.default is None and reference.name not in os.environ:
                    text = f"{reference.name} is not set; the model {model!r} fails until it is: export {reference.name}=…"
                    self.source.report("missing_environment", text, ("models", model, *path), severity="warning")
        read = {port.path[0] for found in ways.values() for way in found if way.term for port in ports_of(way.term) if port.owner == "params"}
        read |= {port for plan in nodes.values() for _, reference in plan.options.references().items()
                 if isinstance(reference, Reference) for owner, port in reference.targets if owner == "params"}
        for param in self.spec.params.keys() - read:
            self.source.report("unused", f"nothing reads the param {param!r}", ("params", param), key=True, severity="warning")
        kinds = {plan.answer_type for plan in nodes.values() if plan.role == "answer"} - {object}
        if len(kinds) > 1:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            text = f"the answers are of different types ({names}): fine for a runnable, not for a chat model"
            self.source.report("mixed_answers", text, ("nodes",), key=True, severity="warning")


def locate_subgraph(uses: str, file: Path | None, base: Path | None, chain: tuple[Path, ...]) -> Path:
    """The path of a sub-graph: relative to its file, below the top file's folder, not among its callers.

    Raises `GraphError`.
    """
    source = Source("", str(file or "<string>"))
    if file is None and base is None:
        source.report("subgraph", f"a graph given as text has no folder: load it with base=… to use {uses!r}")
        raise GraphError(source.problems)
    folder = file.parent if file is not None else base
    assert folder is not None
    path = (folder / uses).resolve()
    if not path.is_relative_to((base or folder).resolve()):
        source.report("subgraph", f"{uses!r} lies outside the top graph's folder")
        raise GraphError(source.problems)
    if path in chain or (file is not None and path == file.resolve()):
        source.report("subgraph", f"{uses!r} uses itself: {' → '.join(item.name for item in (*chain, path))}")
        raise GraphError(source.problems)
    return path


def _marked(options: type[NodeOptions], marker: type[Any]) -> dict[str, Any]:
    """Options that carry a marker, with it; also one level inside a union or list."""
    found: dict[str, Any] = {}
    for name, info in options.model_fields.items():
        for item in (*info.metadata, *_metadata_inside(info.annotation)):
            if isinstance(item, marker):
                found[name] = item
    return found


def _metadata_inside(annotation: Any) -> Iterator[Any]:
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from _metadata_inside(part)


def _wanted_kinds(options: type[NodeOptions], path: tuple[str | int, ...]) -> tuple[str, ...]:
    """Kinds of port that a reference in this option may point to; none where anything goes."""
    if len(path) != 1:
        return ()
    info = options.model_fields.get(str(path[0]))
    if info is None:
        return ()
    for item in (*info.metadata, *_metadata_inside(info.annotation)):
        if isinstance(item, Takes):
            return item.kinds
    parts = [part for part in (get_args(info.annotation) or (info.annotation,)) if part is not type(None)]
    kinds = tuple(_FIELD_KINDS[part] for part in parts if part in _FIELD_KINDS)
    return kinds if len(kinds) == len(parts) else ()
