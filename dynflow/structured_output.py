"""Answers that fit a schema: the chat face's `with_structured_output`."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import BaseOutputParser, JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from dynflow.call_options import read_call_options

Method = Literal["json_schema", "function_calling", "json_mode"]


def structured_output(
    model: BaseChatModel,
    schema: dict[str, Any] | type,
    method: Method,
    strict: bool | None,
    include_raw: bool,
    options: Mapping[str, Any],
) -> Runnable[Any, Any]:
    """The model with a parser after it, as LangChain's `with_structured_output` says. `options` go with each call."""
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    told = {"ls_structured_output_format": {"kwargs": {"method": method, "strict": strict}, "schema": schema}}
    parser: BaseOutputParser[Any]
    if method == "function_calling":
        tool = convert_to_openai_tool(schema, strict=strict)
        name = tool["function"]["name"]
        asking = model.bind_tools([tool], tool_choice=name, **told, **options)
        parser = JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        if is_class:
            parser = PydanticToolsParser(tools=[schema], first_tool_only=True)
    else:
        form: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            described = convert_to_json_schema(schema, strict=strict)
            named = {"name": described["title"], "schema": described}
            form = {"type": method, method: named if strict is None else {**named, "strict": strict}}
        asking = model.bind(response_format=form, **told, **read_call_options(options))
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    if not include_raw:
        return asking | parser
    parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | parser, parsing_error=lambda _: None)
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=asking) | parsed.with_fallbacks([failed], exception_key="parsing_error")
