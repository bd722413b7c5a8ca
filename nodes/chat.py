"""`chat`: a chat model answers; with `labels` it classifies, with `output` it fills a JSON schema."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable
from pydantic import Field

from dynflow.answers import Classification
from dynflow.call_options import SAMPLING, sampling, with_tools
from dynflow.errors import NodeFailed, RefusedByModel
from dynflow.json_schema import read_json, schema_fault, schema_validator
from dynflow.language.references import Reference
from dynflow.language.source import did_you_mean
from dynflow.language.spec import Role
from dynflow.language.types import PortType, any_type, enum, integer, number, string
from dynflow.ledger import COMPUTE_KEY, Compute, Usage
from dynflow.models.settings import ModelSettings
from dynflow.node import AnswerType, BuildScope, Call, Finding, ModelName, NodeOptions, Output, Takes
from dynflow.prompt_size import PromptSize
from dynflow.request import estimate_tokens
from dynflow.runnable_node import RunnableNode
from dynflow.speculation.statistics import SPECULATION_KEY, Speculation

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_MOST_SCHEMA_VALUES = 1_000
_REFUSED = frozenset({"content_filter", "refusal", "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST"})
"""Finish reasons of an answer that was withheld, or broken off, for what it said."""
_NEGATION = re.compile(r"\b(not|no|never|neither|nor|cannot)\b|n['\u2019]t\b")
_NOT_CHAT = ("encoder", "diffusers")
_TAKES_RESPONSE_FORMAT = frozenset({"llama_cpp", "litellm"})


class Chat(RunnableNode):
    """Ask a chat model."""

    type = "chat"
    role: ClassVar[Role] = "answer"
    summary = "asks a chat model; with `labels` it classifies, with `output` it fills a JSON schema"

    class Options(NodeOptions):
        """What to ask, of which model."""

        static: ClassVar[frozenset[str]] = frozenset({"labels", "output"})

        model: ModelName = Field(description="an entry of `models:`")
        messages: Annotated[Reference | None, Takes(("messages", "message", "string"))] = Field(
            default=None, description="what to answer; default: the request's conversation"
        )
        system: str | None = Field(default=None, description="a system message put first")
        temperature: float | None = Field(default=None, ge=0, le=2)
        top_p: float | None = Field(default=None, gt=0, le=1)
        max_tokens: int | None = Field(default=None, gt=0)
        stop: list[str] | None = None
        seed: int | None = Field(default=None, ge=0, lt=2**31)
        logprobs: bool = Field(default=False, description="ask for token log-probabilities: they give `confidence`")
        labels: list[str] | None = Field(default=None, min_length=2, description="answer with one of these")
        output: dict[str, Any] | None = Field(default=None, description="a JSON schema that the answer must fit")

    ports: ClassVar[Mapping[str, PortType]] = {
        "answer": PortType("message", "the model's message; with labels the Classification, with output the object"),
        "text": string("the answer's text"),
        "confidence": number("geometric mean of the token probabilities, 0…1; null where the model gives none"),
        "tokens": integer("prompt and completion tokens together"),
    }

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        if options.labels:
            return {
                **cls.ports,
                "answer": any_type("the Classification"),
                "label": enum(options.labels, "the label given"),
            }
        if options.output:
            return {**cls.ports, "answer": any_type("the object that fits the schema")}
        return cls.ports

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        settings = scope.spec.models.get(options.model)
        if settings is not None and settings.provider in _NOT_CHAT:
            text = f"the model {options.model!r} does not chat: its provider is {settings.provider}"
            yield Finding("bad_value", text, ("model",))
        elif settings is not None and isinstance(settings.model, str) and settings.model.startswith("embedded/"):
            from dynflow.models.embedded import MODELS

            if settings.model not in MODELS:
                hint = did_you_mean(settings.model, MODELS)
                text = f"the model {options.model!r} names {settings.model!r}, and there is none such{hint}"
                yield Finding("unknown_model", text, ("model",))
        if options.labels and options.output:
            yield Finding("exclusive_options", "give `labels` or `output`, not both", ("output",))
        if options.labels and len({label.strip().lower() for label in options.labels}) < len(options.labels):
            yield Finding("named_twice", "two labels are the same but for case: rename one", ("labels",))
        fault = _schema_fault(options.output) if options.output else None
        if fault is not None:
            yield Finding("bad_schema", f"`output` is no JSON schema to answer with: {fault}", ("output",))

    @classmethod
    def streams(cls, options: Any) -> bool:
        return not (options.labels or options.output)

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        return Classification if options.labels else dict if options.output else AIMessage

    def warm_up(self) -> None:
        importlib.import_module("dynflow.models.attempts")  # not at the first request's expense
        settings: ModelSettings = self.resources.model_settings(self.options.model)
        if settings.provider in ("llama_cpp", "transformers") and not settings.references():
            load = getattr(self.resources.chat_model(self.options.model), "warm_up", None)
            if callable(load):
                load()

    def prepare(self, call: Call) -> tuple[Runnable[Any, Any], Any]:
        from dynflow.models.attempts import Attempts  # it brings tenacity, which a graph that only loads does not need

        options = call.options
        asked = {} if options.labels or options.output else call.call_options
        settings = self.resources.model_settings(options.model)
        given = {name: getattr(options, name) for name in SAMPLING if getattr(options, name) is not None}
        given = sampling(given, asked, settings.max_tokens if isinstance(settings.max_tokens, int) else None)
        if options.logprobs:
            given["logprobs"] = True
        given.update(self.call_options())
        format, instruction = self._format(settings.provider, asked.get("response_format"))
        given.update(format)
        system = "\n\n".join(part for part in (options.system, instruction) if part)
        messages = _with_system(system, _messages(call))
        model = self.resources.chat_model(options.model)
        bound = with_tools(model, asked)
        if bound is None and "ls_structured_output_format" in asked:
            given["ls_structured_output_format"] = asked["ls_structured_output_format"]
        prompt = PromptSize(messages, {**asked, **given})
        return Attempts(call, options.model, model, settings, prompt, given, bound), messages

    def call_options(self) -> Mapping[str, Any]:
        """What a node type that is a chat asks of the model beyond this one's options."""
        return {}

    def finish(self, call: Call, result: Any) -> Output:
        options = call.options
        message = _whole(result)
        text = str(message.text)
        usage = _usage(options.model, message)
        if (refusal := _refusal(message)) is not None:
            raise RefusedByModel(f"the model {options.model!r} declined to answer: {refusal}", usage=usage)
        ports: dict[str, Any] = {
            "answer": message,
            "text": text,
            "confidence": _confidence(message),
            "tokens": usage.input_tokens + usage.output_tokens,
        }
        value: Any = message
        if options.labels:
            label = _match(text, self._labels, usage)
            value = Classification(label=label, confidence=ports["confidence"])
            ports.update(answer=value, label=label)
        elif options.output:
            value = _validated(text, self._validator, usage)
            ports.update(answer=value)
        cut = message.response_metadata.get("finish_reason") == "length"
        return Output(ports, value, usage, notes=("the answer ends at max_tokens",) if cut else ())

    # Where nothing goes out before the end, an answer that broke off may be tried again: no stream, then.

    def run(self, call: Call) -> Output:
        attempts, messages = self.prepare(call)
        return self.finish(call, attempts.invoke(messages, call.config))

    async def arun(self, call: Call) -> Output:
        attempts, messages = self.prepare(call)
        return self.finish(call, await attempts.ainvoke(messages, call.config))

    def _format(self, provider: str, asked: Mapping[str, Any] | None) -> tuple[dict[str, Any], str | None]:
        """How the model is told which form the answer has: call options where its server binds it to one, and words.

        `asked` is the caller's `response_format`, in the OpenAI protocol's words.
        """
        options = self.options
        if options.labels:
            return {}, f"Answer with exactly one of these labels and nothing else: {', '.join(options.labels)}."
        if options.output:
            asked = {"type": "json_schema", "json_schema": {"name": "answer", "schema": options.output}}
        if asked is None:
            return {}, None
        schema = (asked.get("json_schema") or {}).get("schema")
        words = self._output_words if options.output else _words(schema)
        if provider == "ollama":
            return {"format": schema or "json"}, words
        return {"response_format": asked} if provider in _TAKES_RESPONSE_FORMAT else {}, words

    # What follows from `labels` and `output`, which no request changes, is made once.

    @cached_property
    def _labels(self) -> Mapping[str, re.Pattern[str]]:
        """The labels, and what finds each as a word of its own."""
        return {
            label: re.compile(rf"(?<!\w){re.escape(label.strip().casefold())}(?!\w)") for label in self.options.labels
        }

    @cached_property
    def _validator(self) -> Validator:
        return schema_validator(self.options.output)

    @cached_property
    def _output_words(self) -> str:
        return _words(self.options.output)


def _messages(call: Call) -> list[BaseMessage]:
    given = call.options.messages
    if given is None:
        return list(call.request.messages)
    if isinstance(given, str):
        return [HumanMessage(given)]
    return [given] if isinstance(given, BaseMessage) else list(given)


def _schema_fault(schema: Mapping[str, Any]) -> str | None:
    """What is wrong with a JSON schema, if anything."""
    size = sum(1 for _ in _values(schema))
    if size > _MOST_SCHEMA_VALUES:
        return f"it has {size:,} values; split it, a model follows at most {_MOST_SCHEMA_VALUES:,}"
    return schema_fault(schema)


def _values(value: Any) -> Iterator[Any]:
    yield value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        yield from _values(item)


def _with_system(system: str, messages: list[BaseMessage]) -> list[BaseMessage]:
    """The messages after a system message; one that stands first already is joined, for many models take but one."""
    if not system:
        return messages
    if messages and isinstance(messages[0], SystemMessage) and isinstance(messages[0].content, str):
        return [SystemMessage(f"{system}\n\n{messages[0].content}"), *messages[1:]]
    return [SystemMessage(system), *messages]


def _words(schema: Mapping[str, Any] | None) -> str:
    """What the model is told of the JSON that it shall answer with."""
    if schema is None:
        return "Answer with one JSON object and nothing else."
    return f"Answer with one JSON object that fits this JSON schema and nothing else: {json.dumps(schema)}"


def _whole(result: Any) -> AIMessage:
    """A plain message, also where the result was added up from chunks."""
    if not isinstance(result, AIMessage):
        raise NodeFailed(f"the model gave {type(result).__name__}, no message")
    if type(result) is AIMessage:
        return result
    from langchain_core.messages import message_chunk_to_message

    message = message_chunk_to_message(result)
    assert isinstance(message, AIMessage)
    return message


def _refusal(message: AIMessage) -> str | None:
    """Why the model did not answer, where it did not: in the words of OpenAI, Anthropic or Gemini."""
    if said := message.additional_kwargs.get("refusal"):
        return str(said)
    about = message.response_metadata
    reason = about.get("finish_reason") or about.get("stop_reason")
    return f"its answer ended with {reason!r}" if reason in _REFUSED else None


def _usage(model: str, message: AIMessage) -> Usage:
    """Tokens as the model counts them, or an estimate where it does not."""
    used = message.usage_metadata
    if used is None:
        return Usage(model, output_tokens=estimate_tokens(str(message.text)), estimated=True)
    prompt, answer = used.get("input_token_details") or {}, used.get("output_token_details") or {}
    compute, told = message.response_metadata.get(COMPUTE_KEY), message.response_metadata.get(SPECULATION_KEY)
    return Usage(
        model,
        used["input_tokens"],
        used["output_tokens"],
        prompt.get("cache_read") or 0,
        answer.get("reasoning") or 0,
        cache_write_tokens=prompt.get("cache_creation") or 0,
        compute=None if compute is None else Compute(**compute),
        speculation=None if told is None else Speculation.from_dict(told),
    )


def _confidence(message: AIMessage) -> float | None:
    """Geometric mean of the token probabilities, where the response carries OpenAI-style log-probabilities."""
    logprobs = message.response_metadata.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, Sequence) or not content:
        return None
    values = [item["logprob"] for item in content if isinstance(item, Mapping) and "logprob" in item]
    return math.exp(math.fsum(values) / len(values)) if values else None


def _match(text: str, labels: Mapping[str, re.Pattern[str]], usage: Usage) -> str:
    """The label that the text is, or the only one that it names as a word of its own. Raises `NodeFailed`.

    A text that negates ("not safe") is none: what it means is not for a search of words to say.
    """
    plain = text.strip().strip(".\"'`*").casefold()
    for label in labels:
        if plain == label.strip().casefold():
            return label
    named = [label for label, pattern in labels.items() if pattern.search(plain)]
    # A label inside a longer one that is named too ("good", "very good") does not count.
    named = [
        label for label in named if not any(label.casefold() in other.casefold() for other in named if other != label)
    ]
    negated = _NEGATION.search(plain) is not None and not any(_NEGATION.search(label.casefold()) for label in named)
    if len(named) != 1 or negated:
        raise NodeFailed(f"the model's answer ({len(text.strip())} characters) is none of the labels", usage=usage)
    return named[0]


def _validated(text: str, validator: Validator, usage: Usage) -> Any:
    """The JSON in the text, if it fits. Raises `NodeFailed`."""
    from jsonschema.exceptions import ValidationError

    try:
        value = read_json(text)
        validator.validate(value)
    except ValueError as error:
        raise NodeFailed(f"the model's answer is no JSON: {error}", usage=usage) from None
    except ValidationError as error:
        raise NodeFailed(f"the model's answer does not fit the schema: {error.message}", usage=usage) from None
    return value
