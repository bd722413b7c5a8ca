"""The language as a JSON Schema (draft 2020-12), made of the models that check a graph, so that editors complete it.

`python -m dynflow.language.schema` prints the one that is shipped as `dynflow/schema/v1.json`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_origin

from pydantic import BaseModel

from dynflow.language.references import IDENTIFIER
from dynflow.language.spec import RESERVED, CommonOptions, GraphSpec
from dynflow.models.settings import ModelSettings
from dynflow.node import ENTRY_POINT_GROUP, NamesModel, NamesNodes, Node, node_type, node_types
from dynflow.nodetable import marked

_REFERENCE = {
    "type": "string",
    "pattern": r"^\s*\$\{.+\}\s*$",
    "description": "a reference: ${params.x}, ${input.key}, ${node.port}, ${a.port ?? b.port}",
}
_ENVIRONMENT = {
    "type": "string",
    "pattern": r"^\s*\$\{env:.+\}\s*$",
    "description": "a value of the environment, read when used: ${env:NAME}, ${env:NAME:-default}",
}


def json_schema(types: Iterable[str] | None = None) -> dict[str, Any]:
    """The JSON Schema of graph files, with the options of these node types (default: all that are installed)."""
    schema = _tidy(GraphSpec.model_json_schema(by_alias=True))
    definitions = schema.pop("$defs")
    for name in ("NodeSpec", "CommonOptions"):
        definitions.pop(name, None)
    definitions["Reference"] = _REFERENCE
    definitions["EnvironmentReference"] = _ENVIRONMENT
    _open(definitions["ModelSettings"], ModelSettings, ModelSettings.static, "EnvironmentReference")
    chosen = sorted(node_types() if types is None else types)
    common = _tidy(CommonOptions.model_json_schema(by_alias=True))
    common["properties"]["type"]["enum"] = chosen
    definitions["CommonOptions"] = common
    for name in chosen:
        definitions[f"node.{name}"] = _node(node_type(name), name, definitions)
    definitions["node"] = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"$ref": "#/$defs/CommonOptions/properties/type"}},
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                "then": {"$ref": f"#/$defs/node.{name}"},
            }
            for name in chosen
        ],
    }
    schema["properties"]["nodes"]["additionalProperties"] = {"$ref": "#/$defs/node"}
    for section in ("inputs", "params", "models", "nodes"):
        schema["properties"][section]["propertyNames"] = {
            "pattern": f"^{IDENTIFIER.pattern}$",
            "not": {"enum": sorted(RESERVED)},
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dynflow graph, version 1",
        **schema,
        "patternProperties": {"^x-": {"description": "your own: ignored, for anchors and notes"}},
        "$defs": dict(sorted(definitions.items())),
    }


def built_in_types() -> list[str]:
    """Names of the node types that come with dynflow itself."""
    from importlib.metadata import distribution

    points = distribution("dynflow").entry_points
    return sorted(point.name for point in points if point.group == ENTRY_POINT_GROUP)


def _node(cls: type[Node], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """One node type: the common options and its own, and nothing else."""
    own = _tidy(cls.Options.model_json_schema(by_alias=True, ref_template=f"#/$defs/{name}.{{model}}"))
    own = json.loads(json.dumps(own).replace(f"#/$defs/{name}.Reference", "#/$defs/Reference"))
    for inner, definition in own.pop("$defs", {}).items():
        if inner != "Reference":
            definitions[f"{name}.{inner}"] = definition
    static = cls.Options.static | marked(cls.Options, NamesModel).keys() | marked(cls.Options, NamesNodes).keys()
    _open(own, cls.Options, static, "Reference")
    common = {option: {"$ref": f"#/$defs/CommonOptions/properties/{option}"} for option in CommonOptions.model_fields}
    return {
        "type": "object",
        "description": cls.summary,
        "properties": {**common, **own.get("properties", {})},
        "required": ["type", *own.get("required", ())],
        "additionalProperties": False,
    }


def _open(schema: dict[str, Any], options: type[BaseModel], static: Collection[str], reference: str) -> None:
    """Allow a reference in every option, but for those that shape the graph and for mappings."""
    for option, info in options.model_fields.items():
        written = info.alias or option
        if option in static or get_origin(info.annotation) is dict:
            continue
        value = schema["properties"][written]
        outer = {key: value.pop(key) for key in ("description", "default") if key in value}
        choices = value["anyOf"] if value.keys() == {"anyOf"} else [value]
        link = {"$ref": f"#/$defs/{reference}"}
        schema["properties"][written] = {**outer, "anyOf": choices if link in choices else [*choices, link]}


def _tidy(schema: Any, *, names: bool = False) -> Any:
    """Without titles and null defaults, which only repeat what is there; `names`: the keys are names, not keywords."""
    if isinstance(schema, Mapping):
        return {
            key: _tidy(value, names=key in ("properties", "$defs") and not names)
            for key, value in schema.items()
            if names or not (key == "title" or (key == "default" and value is None))
        }
    return [_tidy(item) for item in schema] if isinstance(schema, list) else schema


if __name__ == "__main__":
    print(json.dumps(json_schema(built_in_types()), indent=2, ensure_ascii=False))
