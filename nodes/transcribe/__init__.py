"""`transcribe`: writes down what is said in a recording, with Whisper, in fewer passes of its decoder."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from pydantic import Field

from dynflow.closing import closing
from dynflow.errors import ArtefactError, DynflowError
from dynflow.language.references import Reference
from dynflow.language.spec import Role
from dynflow.language.types import PortType, integer, number, string
from dynflow.ledger import Compute, Usage
from dynflow.models.engine import Event, Job
from dynflow.node import (
    AnswerType,
    BuildScope,
    Call,
    Cancelled,
    Finding,
    ModelName,
    NamesModel,
    Node,
    NodeOptions,
    Output,
    Takes,
)
from dynflow.nodes.transcribe.audio import Recording, recording
from dynflow.speculation.asked import Asked
from dynflow.speculation.statistics import SPECULATION_KEY, Speculation

if TYPE_CHECKING:
    from dynflow.models.settings import ModelSettings
    from dynflow.nodes.transcribe.source import Source
    from dynflow.nodes.transcribe.whisper import WhisperEngine
    from dynflow.nodes.transcribe.writing import Transcript

_LOOK = 0.05
"""Seconds between looks at whether anybody still waits."""


class Transcribe(Node):
    """Write down what is said in a recording."""

    type = "transcribe"
    role: ClassVar[Role] = "answer"
    summary = "writes down what is said in a recording, with Whisper and drafts that it checks: the same text, sooner"
    extra = "transcribe"
    batches: ClassVar[bool] = True
    hears: ClassVar[bool] = True

    class Options(NodeOptions):
        """Which model, which sound, and what may draft."""

        static: ClassVar[frozenset[str]] = frozenset({"drafters", "max_draft", "timestamps", "task", "batch"})

        model: ModelName = Field(
            description="an entry of `models:` whose provider is `transformers`: a Whisper model, as a folder or hub id"
        )
        audio: Annotated[Reference | str | None, Takes(("audio", "string", "message", "messages", "record"))] = Field(
            default=None, description="the recording: sound, or a file's path; default: that in the last user turn"
        )
        language: str | None = Field(
            default=None, min_length=2, description="what is spoken, such as `de`; default: as the model tells"
        )
        task: Literal["transcribe", "translate"] = Field(
            default="transcribe", description="`translate`: into English, whatever is spoken"
        )
        timestamps: bool = Field(
            default=True, description="segments with their times; without, at most one window (30 s) is taken"
        )
        draft: Annotated[str | None, NamesModel()] = Field(
            default=None, description="an entry of `models:`, a smaller Whisper model that drafts"
        )
        drafters: list[Literal["prompt_lookup", "ngram_cache", "draft_model"]] | None = Field(
            default=None,
            min_length=1,
            description="what may draft; default: lookup, and the draft model if one is given",
        )
        max_draft: int | None = Field(
            default=None, gt=0, le=64, description="most tokens of one draft; default: the engine's own choice"
        )
        batch: int = Field(
            default=8, ge=1, le=64, description="recordings of at most one window that are decoded together, undrafted"
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        "answer": PortType("message", "the message with the text"),
        "text": string("all that was said"),
        "segments": PortType("list", "records of `start`, `end` (seconds of the recording) and `text`"),
        "language": string("what is spoken, such as `en`; null where the model is for English alone"),
        "duration": number("length of the recording, s"),
        "tokens": integer("tokens that the model wrote, timestamps among them"),
        "drafted": integer("tokens that were drafted"),
        "accepted": integer("drafted tokens that the model accepted"),
        "passes": integer("forward passes of the decoder, without those over a window's prompt"),
    }

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        from dynflow.nodes.transcribe.checks import findings

        return findings(options, scope)

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        return AIMessage

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._flow = f"{node_id} {uuid4().hex}"  # nobody else's recordings teach this node, or have its n-grams
        self._engine: WhisperEngine | None = None

    def warm_up(self) -> None:
        engine = self._loaded()
        asked = self.options.draft is not None or self.options.drafters is not None
        with nullcontext() if asked else suppress(ArtefactError):  # then it goes without, and each trace says why
            engine.prepare(self._draft())
        if not isinstance(self.options.language, Reference):
            engine.check_language(self.options.language, self.options.task)

    def close(self) -> None:
        self._engine = None

    def run(self, call: Call) -> Output:
        return list(self.stream(call))[-1]  # type: ignore[no-any-return]

    async def arun(self, call: Call) -> Output:
        return [item async for item in self.astream(call)][-1]  # type: ignore[no-any-return]

    def stream(self, call: Call) -> Iterator[Any]:
        heard = recording(call.options.audio, call.request)
        with closing(self._served([heard], call.options, call.check)) as items:
            for item in items:
                yield AIMessageChunk(content=item) if isinstance(item, str) else item[0]

    async def astream(self, call: Call) -> AsyncIterator[Any]:
        heard = await asyncio.to_thread(recording, call.options.audio, call.request)
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Event]()
        engine = await asyncio.to_thread(self._loaded)
        job = Job(
            self._request([heard], call.options), lambda event: loop.call_soon_threadsafe(inbox.put_nowait, event)
        )
        engine.submit(job, self._settings.queue)
        told: Sequence[Transcript] = ()
        try:
            while (event := await inbox.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                if "text" in event:
                    yield AIMessageChunk(content=event["text"])
                else:
                    told = event["transcripts"]
            yield self._output(told[0], heard, job.compute)
        finally:
            engine.cancel(job)

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        results: list[Output | Exception] = [Cancelled()] * len(calls)
        groups: list[list[tuple[int, Recording]]] = []
        open_groups: dict[str | None, list[tuple[int, Recording]]] = {}
        window = self._loaded().window
        for place, call in enumerate(calls):
            try:
                heard = recording(call.options.audio, call.request)
            except DynflowError as error:
                results[place] = error
                continue
            language = call.options.language
            if heard.seconds > window or len(open_groups.get(language, ())) in (0, self.options.batch):
                groups.append([])
                if heard.seconds <= window:
                    open_groups[language] = groups[-1]
            (groups[-1] if heard.seconds > window else open_groups[language]).append((place, heard))

        def check() -> None:
            if all(call.called_off() for call in calls):
                raise Cancelled

        for group in groups:
            options = calls[group[0][0]].options
            outputs: list[Any]
            try:
                *_, outputs = self._served([heard for _, heard in group], options, check)  # type: ignore[assignment]
            except Exception as error:
                outputs = [error] * len(group)
            for (place, _), output in zip(group, outputs, strict=True):
                results[place] = output
        return results

    def _served(
        self, heard: Sequence[Recording], options: Any, check: Callable[[], None]
    ) -> Iterator[str | list[Output]]:
        """Text as it comes, where one recording is transcribed; at last what each of them gives."""
        engine, inbox = self._loaded(), queue.SimpleQueue[Event]()
        job = Job(self._request(heard, options), inbox.put)
        engine.submit(job, self._settings.queue)
        told: Sequence[Transcript] = ()
        try:
            while (event := _next(inbox, check)) is not None:
                if isinstance(event, Exception):
                    raise event
                if "text" in event:
                    yield str(event["text"])
                else:
                    told = event["transcripts"]
            share = job.compute and replace(job.compute, seconds=job.compute.seconds / len(heard))
            yield [self._output(each, one, share) for each, one in zip(told, heard, strict=True)]
        finally:
            engine.cancel(job)

    @property
    def _settings(self) -> ModelSettings:
        return self.resources.model_settings(self.options.model)

    def _source(self, name: str) -> Source:
        from dynflow.nodes.transcribe.source import source_of

        return source_of(self.resources.model_settings(name), self.resources.folder)

    def _loaded(self) -> WhisperEngine:
        if self._engine is None or self._engine.abandoned:
            from dynflow.nodes.transcribe.whisper import engine_of

            self._engine = engine_of(self._source(self.options.model))
        return self._engine

    def _draft(self) -> Source | None:
        return None if self.options.draft is None else self._source(self.options.draft)

    def _request(self, heard: Sequence[Recording], options: Any) -> Mapping[str, Any]:
        from dynflow.nodes.transcribe.whisper import Order

        drafters = None if options.drafters is None else tuple(options.drafters)
        asked = Asked(drafters, options.max_draft, options.draft, flow=self._flow)
        return {
            "recordings": heard,
            "order": Order(options.timestamps, options.language, options.task, asked, self._draft()),
        }

    def _output(self, told: Transcript, heard: Recording, compute: Compute | None) -> Output:
        speculation = told.speculation
        segments = [segment.as_dict() for segment in told.segments]
        about = {
            "model_name": self._settings.model,
            "language": told.language,
            "duration": round(heard.seconds, 3),
            "segments": segments,
            SPECULATION_KEY: speculation.as_dict(),
        }
        used = UsageMetadata(input_tokens=0, output_tokens=speculation.tokens, total_tokens=speculation.tokens)
        message = AIMessage(told.text, response_metadata=about, usage_metadata=used)
        ports = {
            "answer": message,
            "text": told.text,
            "segments": segments,
            "language": told.language,
            "duration": heard.seconds,
            "tokens": speculation.tokens,
            "drafted": speculation.drafted,
            "accepted": speculation.accepted,
            "passes": speculation.passes,
        }
        usage = Usage(self.options.model, output_tokens=speculation.tokens, compute=compute, speculation=speculation)
        return Output(ports, message, usage, tuple(_notes(speculation)))


def _next(inbox: queue.SimpleQueue[Event], check: Callable[[], None]) -> Event:
    """The next event. Raises what `check` raises."""
    while True:
        check()
        try:
            return inbox.get(timeout=_LOOK)
        except queue.Empty:
            continue


def _notes(told: Speculation) -> Iterator[str]:
    """What a trace says of drafting."""
    sped = told.speed_up if told.drafted else None
    yield told.phrase() + ("" if sped is None else f", about {sped:.1f} times as fast as without")
    if told.fallback is not None:
        yield told.fallback
