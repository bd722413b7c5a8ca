"""The language's words as pydantic models. What a graph says, before anything is known of node types or the graph."""

from __future__ import annotations

import keyword
import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from dynflow.language.expression import CONSTANTS, FUNCTIONS
from dynflow.language.options import Options, TimeLimit
from dynflow.language.references import IDENTIFIER
from dynflow.language.types import DECLARABLE, INPUT_TYPES, type_of_value
from dynflow.models.settings import ModelSettings

RESERVED = frozenset({"start", "end", "input", "params", "budget", "env"} | {*FUNCTIONS, *CONSTANTS})
START = "start"
END = "end"


def identifier(value: str) -> str:
    """An id or param name. Raises `ValueError` that says which names there are."""
    if not IDENTIFIER.fullmatch(value):
        raise ValueError(f"{value!r} is no name: begin with a small letter, then small letters, digits and _")
    if value in RESERVED or keyword.iskeyword(value):
        raise ValueError(f"{value!r} is a reserved word; choose another name")
    return value


def input_key(value: str) -> str:
    """A further request key. Raises `ValueError` where every request has it already."""
    if value in INPUT_TYPES:
        raise ValueError(f"every request has {value!r} already; choose another name")
    return identifier(value)


Identifier = Annotated[str, AfterValidator(identifier)]
InputKey = Annotated[str, AfterValidator(input_key)]


def _scalar(value: Any) -> Any:
    if not isinstance(value, (bool, int, float, str)):
        raise ValueError("takes a number, true or false, or text")
    return value


# Checked as a whole first: a union would report one fault for each of its members.
Scalar = Annotated[StrictBool | StrictInt | StrictFloat | StrictStr, BeforeValidator(_scalar)]
Role = Literal["signal", "answer"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _default_form(value: Any) -> Any:
    """A param may be given as its default alone."""
    return value if isinstance(value, dict) else {"default": value}


class ParamBody(_Closed):
    """A knob: its default gives its type; `tune: true` (with min and max) lets calibration set it."""

    default: Scalar = Field(description="the value until something sets another")
    min: float | None = Field(default=None, description="least value", allow_inf_nan=False)
    max: float | None = Field(default=None, description="greatest value", allow_inf_nan=False)
    help: str | None = Field(default=None, description="what the knob does")
    tune: bool = Field(default=False, description="calibration may set it; needs min and max")

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        bounded = self.min is not None or self.max is not None
        number = isinstance(self.default, (int, float)) and not isinstance(self.default, bool)
        if isinstance(self.default, float) and not math.isfinite(self.default):
            raise ValueError("a default must be a finite number")
        if bounded and not number:
            raise ValueError("min and max are for numbers")
        if self.tune and (self.min is None or self.max is None):
            raise ValueError("tune: true needs min and max")
        self.check(self.default)
        return self

    def check(self, value: Any) -> Scalar:
        """The value, of the default's type and within the bounds. Raises `ValueError`."""
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"{value!r} is no {_KIND_NAMES[kind]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value!r} is no finite number")
        if self.min is not None and isinstance(value, (int, float)) and value < self.min:
            raise ValueError(f"{value} is below its least value {self.min:g}")
        if self.max is not None and isinstance(value, (int, float)) and value > self.max:
            raise ValueError(f"{value} is above its greatest value {self.max:g}")
        return value


_KIND_NAMES: dict[type, str] = {bool: "true or false", int: "whole number", float: "number", str: "text"}
ParamSpec = Annotated[ParamBody, BeforeValidator(_default_form, json_schema_input_type=ParamBody | Scalar)]


def _input_form(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _declarable(value: str) -> str:
    if value not in DECLARABLE:
        raise ValueError(f"{value!r} is no type; there are {', '.join(DECLARABLE)}")
    return value


TypeName = Annotated[str, AfterValidator(_declarable), Field(json_schema_extra={"enum": list(DECLARABLE)})]


class InputBody(_Closed):
    """A further key of the request; without a default it must be given."""

    type: TypeName = Field(description="what the key holds")
    default: Scalar | None = Field(default=None, description="the value where a request does not give the key")
    help: str | None = Field(default=None, description="what the key is for")

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.default is not None and not DECLARABLE[self.type].accepts(type_of_value(self.default)):
            raise ValueError(f"the default must be {self.type}, {self.default!r} is not")
        return self


InputSpec = Annotated[InputBody, BeforeValidator(_input_form, json_schema_input_type=InputBody | TypeName)]


class CommonOptions(Options):
    """Options of every node, whatever its type. The walk itself reads them, so none may be a reference."""

    static: ClassVar[frozenset[str]] = frozenset({"type", "timeout", "buffer", "on_failure", "role"})

    type: str = Field(description="a registered node type; `dynflow nodes` lists them")
    timeout: TimeLimit | None = Field(
        default=None, description="the node fails (`timeout`) after this long, such as 30s"
    )
    buffer: bool = Field(
        default=False, description="collect the answer first: keeps failure edges after the first token"
    )
    on_failure: dict[str, Any] | None = Field(
        default=None, description="a signal's port values when it fails: the walk goes on as if it had succeeded"
    )
    role: Role | None = Field(default=None, description="`signal`: a step; `answer`: its output can be the result")


class NodeSpec(_Closed):
    """One node: the common options, and those of its type, which the node type checks."""

    common: CommonOptions
    options: dict[str, Any]


def _split_options(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    common = {name: item for name, item in value.items() if name in CommonOptions.model_fields}
    return {"common": common, "options": {name: item for name, item in value.items() if name not in common}}


class EdgeSpec(_Closed):
    """A way out of a node; the first whose `when` is true is taken."""

    source: str = Field(alias="from", description="a node id, or start")
    target: str = Field(alias="to", description="a node id, or end")
    when: str | None = Field(
        default=None, description="a condition; the edge without one is the default and comes last"
    )


class Limits(_Closed):
    """What one request, and one day, may cost and take."""

    usd_per_request: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="USD one request may cost"
    )
    usd_per_day: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="USD all requests of a UTC day may cost, in all processes"
    )
    baseline_share: float | None = Field(
        default=None, ge=0, le=1, description="share of one caller's requests of a day that may take the baseline"
    )
    timeout: TimeLimit | None = Field(default=None, description="time one request may take, such as 60s")
    max_input_tokens: int | None = Field(default=None, gt=0, description="a longer request is refused")
    max_tokens: int | None = Field(
        default=None, gt=0, description="most tokens of one answer, whatever its model allows"
    )


class GraphSpec(_Closed):
    """A whole graph, version 1 of the language."""

    version: Literal[1] = Field(description="version of the language")
    name: str | None = Field(default=None, description="its name in traces and drawings")
    description: str | None = Field(default=None, description="what it is for")
    inputs: dict[InputKey, InputSpec] = Field(default_factory=dict, description="further request keys")
    params: dict[Identifier, ParamSpec] = Field(default_factory=dict, description="the knobs")
    models: dict[Identifier, ModelSettings] = Field(default_factory=dict, description="declared once, used by name")
    nodes: dict[Identifier, Annotated[NodeSpec, BeforeValidator(_split_options)]] = Field(
        min_length=1, description="the steps, by id"
    )
    edges: list[EdgeSpec] = Field(
        min_length=1, description="the ways between them; out of one node the first true one is taken"
    )
    limits: Limits = Field(default=Limits(), description="what a request and a day may cost and take")
    baseline: str | None = Field(default=None, description="the answer that savings are compared with")
