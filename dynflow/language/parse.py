"""Text → GraphSpec, with every fault of the text found at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dynflow.language.keys import known_keys
from dynflow.language.options import FROM_TEXT
from dynflow.language.reader import decode, read
from dynflow.language.references import (
    EnvironmentReference,
    Reference,
    ReferenceSyntaxError,
    find_references,
    parse_reference,
)
from dynflow.language.source import Source, did_you_mean
from dynflow.language.spec import END, START, CommonOptions, GraphSpec
from dynflow.models.settings import PROVIDERS, ModelSettings

M = TypeVar("M", bound=BaseModel)
_NO_REFERENCE = "dataclass_exact_type"
"""Pydantic's fault of a value that is no `Reference`."""


def parse(data: bytes | str, file: str = "<string>") -> tuple[Source, GraphSpec | None]:
    """The source with its problems, and the spec where the text holds one.

    A spec can come with problems: its edges and options are then still worth checking, but it must not run.
    """
    source = decode(data, file)
    raw = read(source)
    if source.problems and raw is None:
        return source, None
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"is {_kind(raw)}"
        source.report("not_a_graph", f"a graph must be a mapping with version, nodes and edges; this {what}")
        return source, None
    if not isinstance(raw.get("version"), int) or raw.get("version") != 1 or isinstance(raw.get("version"), bool):
        if "version" in raw:
            source.report("version", f"version {raw['version']!r} is not known here; write `version: 1`", ("version",))
        else:
            source.report("missing_key", "`version: 1` is missing at the top")
        raw["version"] = 1
    known = {name: value for name, value in raw.items() if not name.startswith("x-")}
    for section in ("nodes", "models"):
        if isinstance(known.get(section), dict):
            known[section] = {
                name: _with_references(value, (section, name), source) for name, value in known[section].items()
            }
    for section in ("params", "inputs", "limits", "baseline"):
        _refuse_references(known.get(section), (section,), source)
    _check_nodes_are_mappings(known, source)
    for section, options in (("nodes", CommonOptions), ("models", ModelSettings)):
        for name, value in known[section].items() if isinstance(known.get(section), dict) else ():
            drop_references(value, options.static, (section, name), source)
    return source, validated(GraphSpec, known, (), source)


def _with_references(value: Any, path: tuple[str | int, ...], source: Source) -> Any:
    """The value with each `${…}` scalar parsed."""
    if isinstance(value, dict):
        return {key: _with_references(item, (*path, key), source) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_references(item, (*path, index), source) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        reference = parse_reference(value)
    except ReferenceSyntaxError as error:
        source.report("reference_syntax", str(error), path)
        source.dropped.add(path)
        return Reference(())
    if isinstance(reference, EnvironmentReference) and path[0] != "models":
        source.report("environment_reference", "${env:…} belongs under models, where secrets and addresses sit", path)
        source.dropped.add(path)
    elif isinstance(reference, Reference) and path[0] == "models":
        text = "a model is made once, for all requests: under models use ${env:NAME}, or write the value"
        source.report("reference_place", text, path)
        source.dropped.add(path)
    return value if reference is None else reference


def drop_references(options: Any, static: Collection[str], at: tuple[str | int, ...], source: Source) -> None:
    """Report references in options that take literals only, and remove these options."""
    for option in static & options.keys() if isinstance(options, dict) else ():
        for path, reference in list(find_references(options[option], (*at, option))):
            if path not in source.dropped:
                text = f"`{option}` shapes the graph: it takes a literal, not {reference}"
                source.report("static_option", text, path)
            source.dropped.add((*at, option))
            options.pop(option, None)


def _refuse_references(value: Any, path: tuple[str | int, ...], source: Source) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "help":
                _refuse_references(item, (*path, key), source)
    elif isinstance(value, str) and "${" in value:
        source.report("reference_place", "references belong in options of nodes and models: write the value here", path)


def _check_nodes_are_mappings(raw: dict[str, Any], source: Source) -> None:
    """A node that is no mapping would be reported in words of our own internals."""
    nodes = raw.get("nodes")
    if isinstance(nodes, dict):
        for name in [name for name, value in nodes.items() if not isinstance(value, dict)]:
            source.report(
                "wrong_type",
                f"node {name!r} must be a mapping with `type:`; this is {_kind(nodes[name])}",
                ("nodes", name),
            )
            del nodes[name]
            source.dropped.add(("nodes", name))


def validated(model: type[M], raw: Any, base: tuple[str | int, ...], source: Source) -> M | None:
    """The model made of `raw`, whose root stands at `base`; faults are reported there and the rest kept if it can be.

    Each round drops the faulty entries and tries again, so that one fault does not hide those the graph would show.
    """
    for _ in range(4):
        try:
            return model.model_validate(raw, context=FROM_TEXT)
        except ValidationError as error:
            faults = _of_the_text(error.errors(include_url=False), raw)
        for fault, path in faults:
            # What is missing because it was dropped, or faulty in another way too, is reported already.
            full = (*base, *path)
            emptied = fault["type"] == "too_short" and any(left[: len(full)] == full for left in source.dropped)
            if full not in source.dropped and not emptied:
                _report(fault, path, model, base, source)
        kept = [_drop(raw, path, base, source) for _, path in faults]
        if not all(kept):
            return None
    return None


def _of_the_text(faults: Iterable[Any], raw: Any) -> list[tuple[Any, tuple[str | int, ...]]]:
    """Pydantic's faults with their paths in the text; of a value that no branch of a union takes, one for all.

    Its `kinds` are of all branches, but of the one that takes a reference only where it is alone: any option takes one.
    """
    found: dict[tuple[str | int, ...], Any] = {}
    for fault in sorted(faults, key=lambda fault: bool(fault["type"] == _NO_REFERENCE)):
        first = found.setdefault(_raw_path(fault, raw), {**fault, "kinds": []})
        if fault["type"] != _NO_REFERENCE or not first["kinds"]:
            first["kinds"].append(fault["type"])
    return [(fault, path) for path, fault in found.items()]


def _raw_path(fault: Any, raw: Any) -> tuple[str | int, ...]:
    """A fault's location as a path in the text: without steps of our models alone, such as the branch of a union."""
    path: list[str | int] = []
    at = raw
    for step in fault["loc"]:
        if step == "[key]":
            break
        if step in at if isinstance(at, dict) else isinstance(at, list) and isinstance(step, int):
            path.append(step)
            at = at[step]
    if fault["type"] == "missing":
        path.append(fault["loc"][-1])
    return tuple(path)


def _drop(raw: Any, path: tuple[str | int, ...], base: tuple[str | int, ...], source: Source) -> bool:
    """Remove the smallest part of the text that holds the fault and may be missing; False where there is none."""
    deep = not base and path[:1] and path[0] in ("params", "inputs", "models", "nodes", "edges")
    target = path[: 2 if deep else 1]
    if not target:
        return False
    source.dropped.add((*base, *target))
    parent = raw[target[0]] if len(target) > 1 else raw
    if isinstance(parent, list) and isinstance(target[-1], int) and target[-1] < len(parent):
        parent[target[-1]] = {"from": START, "to": END}  # keeps the places of the edges behind it
        return True
    if not isinstance(parent, dict):
        return False
    # What is missing altogether cannot be left out.
    return parent.pop(target[-1], None) is not None or target[-1] in ("params", "inputs", "models", "limits")


def _report(
    fault: Any, path: tuple[str | int, ...], model: type[BaseModel], base: tuple[str | int, ...], source: Source
) -> None:
    loc, kind, context = fault["loc"], fault["type"], fault.get("ctx", {})
    full = (*base, *path)
    name = str(path[-1]) if path else ""
    block = isinstance(fault["input"], (dict, list))  # its key is a better target for a caret
    if "[key]" in loc:
        source.report("bad_name", _message(fault), full, key=True)
    elif kind == "extra_forbidden":
        hint = "" if source.is_full else did_you_mean(name, known_keys(model, path[:-1]))
        if path[:1] == ("edges",):
            hint += "; a `when` with , [ ] { } # or ': ' must be quoted"
        source.report("unknown_key", f"{name!r} is not known here{hint or ': remove it'}", full, key=True)
    elif kind == "missing":
        source.report("missing_key", f"`{name}:` is missing", full[:-1], key=True)
    elif kind == "literal_error" and name == "provider":
        hint = did_you_mean(str(fault["input"]), PROVIDERS)
        source.report("unknown_provider", f"{fault['input']!r} is no provider{hint}", full)
    elif kind == "too_short":
        least, given = context.get("min_length", 1), context.get("actual_length", 0)
        entries = "entry" if least == 1 else "entries"
        source.report("too_few", f"{_what(path)} takes at least {least} {entries}, this has {given}", full, key=True)
    elif kind == "literal_error":
        source.report("bad_value", f"{fault['input']!r} is none of {context.get('expected')}", full)
    elif kind.endswith("_type") or kind in ("int_from_float", "bool_parsing", "int_parsing", "float_parsing"):
        source.report(
            "wrong_type", f"{_what(path)} {_wanted(fault['kinds'])}, this is {_kind(fault['input'])}", full, key=block
        )
    else:
        source.report("bad_value", f"{_what(path)}: {_message(fault)}", full, key=block)


def _message(fault: Mapping[str, Any]) -> str:
    text = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:]


def _what(path: tuple[str | int, ...]) -> str:
    names = [str(step) for step in path if not isinstance(step, int)]
    if not names:
        return "this"
    return f"an entry of `{names[-1]}`" if isinstance(path[-1], int) else f"`{names[-1]}`"


def _wanted(kinds: Iterable[str]) -> str:
    words = {
        "string": "text",
        "int": "a whole number",
        "float": "a number",
        "finite": "a finite number",
        "bool": "true or false",
        "dict": "a mapping",
        "model": "a mapping",
        "list": "a list",
        "tuple": "a list",
        "dataclass": "a reference such as ${node.port}",
    }
    return "takes " + " or ".join(dict.fromkeys(words.get(kind.split("_")[0], "another type") for kind in kinds))


def _kind(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {value[:40]!r}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"the reference {value}"
