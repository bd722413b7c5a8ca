"""A flow as a tool for agents: text for the agent, the decision record as artifact."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import patch_config
from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, Field, create_model
from typing_extensions import override

from dynflow.answers import Classification
from dynflow.engine import CALLER_KEY, ENCLOSING_KEY
from dynflow.errors import DynflowError, InputError, failure_kind
from dynflow.flow import Flow
from dynflow.trace import FlowResult

if TYPE_CHECKING:
    from dynflow.language.spec import InputBody

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TYPES: dict[str, Any] = {
    "number": float,
    "integer": int,
    "string": str,
    "boolean": bool,
    "list": list[Any],
    "record": dict[str, Any],
    "messages": list[dict[str, Any]],
    "message": dict[str, Any],
    "image": str,
    "audio": str,
}
"""What a model writes for each type of `inputs:`; an image or audio is a path, URL or data URL."""


class FlowTool(BaseTool):
    """A flow that an agent calls; `Flow.to_tool` makes it.

    Its arguments are the question and the keys that the graph declares under `inputs:`. Its content is the answer: a
    message's text, or its blocks where it holds more than text; a label with its confidence; JSON. Its artifact is
    `FlowResult.metadata()`. Inside a node of another flow it draws on that flow's budget, deadline and record.

    A failure (a limit, a model, the input) raises ToolException, whose text the agent reads; set `handle_tool_error`
    to False to have it raised. What is no such failure, a fault of the host's own code say, is raised in any case.
    """

    flow: Flow
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True

    @override
    def _run(
        self, *, config: RunnableConfig, run_manager: CallbackManagerForToolRun | None = None, **arguments: Any
    ) -> tuple[Any, dict[str, Any]]:
        try:
            return _told(self.flow.run(self._request(arguments), _inner(config, run_manager)))
        except Exception as error:
            raise self._failure(error) from error

    @override
    async def _arun(
        self, *, config: RunnableConfig, run_manager: AsyncCallbackManagerForToolRun | None = None, **arguments: Any
    ) -> tuple[Any, dict[str, Any]]:
        try:
            return _told(await self.flow.arun(self._request(arguments), _inner(config, run_manager)))
        except Exception as error:
            raise self._failure(error) from error

    def _request(self, arguments: dict[str, Any]) -> Any:
        """The flow's input: text alone where the graph declares no inputs."""
        declared = self.flow.checked.spec.inputs
        given = {name: value for name, value in arguments.items() if name in declared and value is not None}
        question = arguments.get(_question(declared)) or ""
        return {"input": question, **given} if declared else question

    def _failure(self, error: Exception) -> Exception:
        """What is raised for an error of the flow: words for the agent, without content that a provider sent."""
        kind = failure_kind(error)
        if isinstance(error, DynflowError):
            words = (str(error).splitlines() or [kind])[0]
        elif kind == "internal":
            return error
        else:
            words = f"the model failed ({kind})"
        return ToolException(f"{self.name} failed: {words}")


def make_tool(flow: Flow, name: str | None, description: str | None) -> FlowTool:
    """A flow's tool. Raises `InputError` without a usable name or a description."""
    spec = flow.checked.spec
    name = name or spec.name
    description = description or spec.description
    if name is None or not _NAME.fullmatch(name):
        raise InputError(f"a tool needs a name of letters, digits, _ and - (at most 64), not {name!r}: to_tool(name=…)")
    if not description:
        raise InputError("a tool needs a description, by which an agent chooses it: to_tool(description=…)")
    return FlowTool(flow=flow, name=name, description=description, args_schema=_arguments(name, spec.inputs))


def _arguments(tool: str, declared: dict[str, InputBody]) -> type[BaseModel]:
    """The tool's arguments: the question, and each declared input with its type, default and help."""
    required = [body for body in declared.values() if body.default is None]
    asked: Any = Field(default="" if required else ..., description="what to ask, in full: no more context is seen")
    fields: dict[str, Any] = {_question(declared): (str, asked)}
    for name, body in declared.items():
        default = ... if body.default is None else body.default
        fields[name] = (_TYPES.get(body.type, Any), Field(default=default, description=body.help))
    return create_model(f"{tool}_arguments", **fields)


def _question(declared: dict[str, InputBody]) -> str:
    """The argument that holds the question; no input can be named `input`."""
    return "input" if "question" in declared else "question"


def _inner(
    config: RunnableConfig, run_manager: CallbackManagerForToolRun | AsyncCallbackManagerForToolRun | None
) -> RunnableConfig:
    """The config of the flow's run: below the tool's, and sharing the request of the node that the tool runs in."""
    configurable = dict(config.get("configurable") or {})
    nest = configurable.pop(CALLER_KEY, None)
    if nest is not None:
        configurable[ENCLOSING_KEY] = nest()
    inner: RunnableConfig = {**config, "configurable": configurable}
    return inner if run_manager is None else patch_config(inner, callbacks=run_manager.get_child())


def _told(result: FlowResult[Any]) -> tuple[Any, dict[str, Any]]:
    """What the agent reads, and the artifact."""
    return _content(result.value), result.metadata()


def _content(value: Any) -> str | list[Any]:
    if isinstance(value, BaseMessage):
        only_text = isinstance(value.content, str) or all(
            isinstance(block, str) or block.get("type") == "text" for block in value.content
        )
        return str(value.text) if only_text else value.content
    if isinstance(value, Classification):
        sure = "" if value.confidence is None else f" (confidence {value.confidence:.2f})"
        return f"{value.label}{sure}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
