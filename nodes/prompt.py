"""`prompt`: text and messages from a template; with `role: answer` a canned reply."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from pydantic import Field

from dynflow.language.source import did_you_mean
from dynflow.language.types import PortType
from dynflow.language.types import string as string_type
from dynflow.node import AnswerType, BuildScope, Call, Finding, Node, NodeOptions, Output

_TEMPLATES = ("template", "system", "user")


class Prompt(Node):
    """Fill a template."""

    type = "prompt"
    summary = "fills a template with values of other nodes; with `role: answer` its text is a canned reply"
    instant: ClassVar[bool] = True

    class Options(NodeOptions):
        """`template`, or `system` and `user`; `{name}` is a value of `with`, `{input}` the last user turn."""

        static: ClassVar[frozenset[str]] = frozenset(_TEMPLATES)

        template: str | None = Field(
            default=None, description="the text, with {name} placeholders; {{ and }} are braces"
        )
        system: str | None = Field(default=None, description="a system message, with {name} placeholders")
        user: str | None = Field(default=None, description="a user message, with {name} placeholders")
        values: dict[str, Any] = Field(
            default_factory=dict, alias="with", description="placeholder: reference or literal"
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        "text": string_type("the filled template; the user message where there are two"),
        "messages": PortType("messages", "the same as messages"),
    }

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        if options.template is not None and (options.system is not None or options.user is not None):
            yield Finding("exclusive_options", "give `template`, or `system` and `user`", ("template",))
        if options.template is None and options.user is None:
            yield Finding("missing_key", "a prompt needs `template:` or `user:`")
        used: set[str] = set()
        for option in _TEMPLATES:
            text = getattr(options, option)
            if text is None:
                continue
            try:
                names = _placeholders(text)
            except ValueError as error:
                yield Finding("bad_template", f"{error}; write {{{{ and }}}} for braces", (option,))
                continue
            used |= names
            for name in sorted(names - options.values.keys() - {"input"}):
                hint = did_you_mean(name, [*options.values, "input"])
                yield Finding("unknown_placeholder", f"{{{name}}} is not given in `with`{hint}", (option,))
        for name in options.values.keys() - used:
            yield Finding(
                "unused", f"no template uses {{{name}}}: remove it", ("with", name), severity="warning", key=True
            )

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        return AIMessage

    def run(self, call: Call) -> Output:
        options = call.options
        values = {name: _text(value) for name, value in options.values.items()}
        values.setdefault("input", call.request.text)
        messages: list[BaseMessage] = []
        if options.system is not None:
            messages.append(SystemMessage(options.system.format_map(values)))
        text = (options.template if options.template is not None else options.user).format_map(values)
        messages.append(HumanMessage(text))
        return Output({"text": text, "messages": messages}, AIMessage(text))

    async def arun(self, call: Call) -> Output:
        return self.run(call)


def _placeholders(text: str) -> set[str]:
    """Names in braces. Raises `ValueError` for anything but plain names."""
    names: set[str] = set()
    for _, name, form, conversion in string.Formatter().parse(text):
        if name is None:
            continue
        if form or conversion or not name.isidentifier():
            raise ValueError(f"{{{name}}} is no placeholder: a plain name stands in braces")
        names.add(name)
    return names


def _text(value: Any) -> str:
    if isinstance(value, BaseMessage):
        return str(value.text)
    if isinstance(value, list) and all(isinstance(item, BaseMessage) for item in value):
        return "\n".join(f"{item.type}: {item.text}" for item in value)
    return "" if value is None else str(value)
