"""A loaded Whisper model, and the transcription of one recording after another (packages `transformers`, `torch`)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError, InputError, MissingDependency, MissingModel
from dynflow.models.engine import Engine, Job, shared
from dynflow.models.hub import must_fetch
from dynflow.models.libraries import in_short, library
from dynflow.nodes.transcribe.audio import RATE, Recording
from dynflow.nodes.transcribe.source import CONFIG, Source, only_whisper
from dynflow.nodes.transcribe.windows import Draft, Ear, Progress, Unwanted, Windows
from dynflow.nodes.transcribe.writing import Transcript, Writer, joined, transcript
from dynflow.speculation.asked import Asked
from dynflow.speculation.statistics import Speculation

if TYPE_CHECKING:
    from dynflow.speculation.speculator import Speculator

_SAID_BY_ITSELF = "Passing `generation_config` together with"  # transformers' Whisper warns of its own call


@dataclass(frozen=True, slots=True)
class Order:
    """How recordings are to be transcribed."""

    timestamps: bool
    language: str | None
    task: str
    asked: Asked
    draft: Source | None


def engine_of(source: Source) -> WhisperEngine:
    """Loaded, or shared with others who name it alike. Raises MissingDependency, MissingModel, ArtefactError."""
    engine = shared(source.key, lambda: WhisperEngine(source))
    assert isinstance(engine, WhisperEngine)
    return engine


class WhisperEngine(Engine):
    """Feature extractor, tokenizer and weights. A job's request has `recordings` and `order`.

    One recording is written with drafts, and delivered as `{"text": …}` segment by segment; several, each no longer
    than a window, are written plainly in one batch. At last comes `{"transcripts": […]}`.
    """

    def __init__(self, source: Source) -> None:
        """Load. Raises MissingDependency, MissingModel, ArtefactError."""
        super().__init__(source.name)
        self._threads, self._dtype = source.threads, source.dtype
        self._drafts: dict[Source, Draft | str] = {}  # or why it cannot draft
        self._torch, self._transformers = library("torch", "transcribe"), library("transformers", "transcribe")
        self._use_threads()
        logging.getLogger("transformers.generation.utils").addFilter(_worth_saying)
        name = str(source.folder or source.name)
        where: dict[str, Any] = {}
        if source.folder is None:
            where = {
                "revision": source.revision,
                "local_files_only": not must_fetch(source.name, source.revision, CONFIG),
            }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._read(name, where)
        except ImportError as error:
            raise MissingDependency(
                f"a package that {self.name} needs ({in_short(error)})", 'pip install "dynflow[transcribe]"'
            ) from error
        except OSError as error:
            kind = MissingModel if source.folder is None else ArtefactError
            raise kind(f"transformers finds no whole Whisper model in {self.name}: {in_short(error)}") from error
        except ArtefactError as error:
            raise ArtefactError(f"{self.name}: {error}") from None
        except Exception as error:  # a damaged file raises whatever the library that reads it likes
            raise ArtefactError(f"transformers cannot load {self.name}: {in_short(error)}") from error
        self._generation = self._model.generation_config
        if getattr(self._generation, "no_timestamps_token_id", None) is None:
            raise ArtefactError(
                f"{self.name} has an outdated generation_config.json, without `no_timestamps_token_id`: "
                "take that of the openai/whisper model that it was made from"
            )

    def _read(self, name: str, where: Mapping[str, Any]) -> None:
        only_whisper(self._transformers.AutoConfig.from_pretrained(name, **where).model_type)
        self._extractor = self._transformers.WhisperFeatureExtractor.from_pretrained(name, **where)
        self._tokenizer = self._transformers.WhisperTokenizer.from_pretrained(name, **where)
        self._model: Any = self._transformers.WhisperForConditionalGeneration.from_pretrained(
            name, dtype=getattr(self._torch, self._dtype), use_safetensors=True, **where
        ).eval()
        if self._extractor.sampling_rate != RATE:
            raise ArtefactError(f"it hears {self._extractor.sampling_rate} samples a second, and Whisper {RATE}")

        self._ear = Ear(self._model.get_encoder())

    @property
    def window(self) -> float:
        """Seconds that the model hears at a time."""
        return float(self._extractor.n_samples) / RATE

    @cached_property
    def _languages(self) -> Mapping[int, str]:
        """Codes by token; none of a model for English alone."""
        known: Mapping[str, int] = getattr(self._generation, "lang_to_id", None) or {}
        return {token: name.strip("<|>") for name, token in known.items()}

    @property
    def _multilingual(self) -> bool:
        return bool(self._languages) and getattr(self._generation, "is_multilingual", True)

    def check_language(self, language: str | None, task: str) -> None:
        """Raises InputError for a language or a task that the model does not know."""
        if not self._multilingual:
            if task != "transcribe" or (language or "en").lower() not in ("en", "english"):
                raise InputError(f"{self.name} is for English alone: it neither hears another language nor translates")
        elif language is not None and self._code(language) not in self._languages.values():
            known = sorted(self._languages.values())
            shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
            raise InputError(f"{self.name} knows no language {language!r}; it knows {shown}")

    def _code(self, language: str) -> str:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        plain = language.lower().strip("<|>")
        return str(TO_LANGUAGE_CODE.get(plain, plain))

    def prepare(self, draft: Source | None) -> Draft | None:
        """Load the draft model, if any, and time passes. Raises ArtefactError where this model or pair cannot."""
        if (fault := self._fault) is not None:
            raise ArtefactError(f"{self.name} cannot speculate: {fault}")
        self._speculator.measure()
        if draft is None:
            return None
        if draft not in self._drafts:
            self._drafts[draft] = self._paired(engine_of(draft))
        found = self._drafts[draft]
        if isinstance(found, str):
            raise ArtefactError(f"{draft.name} cannot draft for {self.name}: {found}")
        return found

    def _paired(self, other: WhisperEngine) -> Draft | str:
        from dynflow.nodes.transcribe.hearing import pair_fault, same_encoder

        fault = pair_fault(self._model, other._model, self._tokenizer, other._tokenizer)
        if fault is not None:
            return fault
        hears_alike = same_encoder(self._model, other._model)
        if hears_alike:  # the larger half of both models: once in memory is enough
            other._model.model.encoder, other._ear = self._model.get_encoder(), self._ear
        return Draft(other, other._model, other._ear, hears_alike)

    @cached_property
    def _fault(self) -> str | None:
        """Why drafts would change this model's text, if so: its own settings ask for what the decoding lacks."""
        own = self._generation
        if (own.num_beams or 1) > 1 or own.do_sample:
            return "its generation_config.json asks for beams or sampling"
        if getattr(own, "logprob_threshold", None) is not None or getattr(own, "no_speech_threshold", None) is not None:
            return "its generation_config.json weighs log-probabilities"
        return None

    @cached_property
    def _speculator(self) -> Speculator:
        """What is kept between requests; passes are timed on silence."""
        from dynflow.nodes.transcribe.hearing import Listener
        from dynflow.speculation.speculator import Speculator

        config = self._model.config
        silence = self._torch.zeros((1, config.max_source_positions, config.d_model), dtype=self._model.dtype)
        return Speculator(Listener(self._model, lambda: (silence,)))

    def serve(self, job: Job) -> None:
        """Transcribe what a job brings."""
        self._use_threads()
        recordings: Sequence[Recording] = job.request["recordings"]
        order: Order = job.request["order"]
        self.check_language(order.language, order.task)
        if not order.timestamps and max(recording.seconds for recording in recordings) > self.window:
            raise InputError(
                f"without timestamps a recording of at most {self.window:g} s can be transcribed: "
                "leave `timestamps` out of the node's options, or cut the recording"
            )
        try:
            found = self._alone(recordings[0], order, job) if len(recordings) == 1 else None
            job.deliver({"transcripts": found or self._plainly(recordings, order, job, None)})
        except Unwanted:
            return
        finally:
            self._ear.forget()

    def _alone(self, recording: Recording, order: Order, job: Job) -> list[Transcript]:
        """One recording, with drafts; plainly, and the transcript says why, where it cannot be drafted for."""
        try:
            draft = self.prepare(order.draft)
        except ArtefactError as error:
            return self._plainly([recording], order, job, f"{error}; decoded plainly")
        end, first = self._generation.eos_token_id, self._generation.no_timestamps_token_id + 1
        writer = Writer(
            self._text,
            lambda text: job.deliver({"text": text}),
            end=end[0] if isinstance(end, list) else end,
            first=first,
        )
        decoding = Windows(self._speculator, order.asked, writer, lambda: job.wanted, self._ear, draft)
        try:
            [found] = self._generate([recording], order, job, custom_generate=decoding)
        finally:
            if draft is not None:
                draft.forget()
        return [transcript(found, self._text, recording.seconds, self._languages, joined(decoding.statistics))]

    def _plainly(
        self, recordings: Sequence[Recording], order: Order, job: Job, fallback: str | None
    ) -> list[Transcript]:
        """By transformers' own loop."""

        def unwanted(ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG001
            if not job.wanted:
                raise Unwanted
            return ids.new_zeros((ids.shape[0],)).bool()

        found = self._generate(recordings, order, job, stopping_criteria=[unwanted])
        made = []
        for recording, segments in zip(recordings, found, strict=True):
            tokens = sum(len(segment["tokens"]) for segment in segments)
            told = Speculation(tokens, tokens, dtype=self._dtype, fallback=fallback)
            made.append(transcript(segments, self._text, recording.seconds, self._languages, told))
        return made

    def _generate(self, recordings: Sequence[Recording], order: Order, job: Job, **how: Any) -> list[Any]:
        """The segments of each recording, by transformers' `generate`, which goes from window to window."""
        longest = max(recording.seconds for recording in recordings)
        whole = {"truncation": False, "padding": "longest"} if longest > self.window else {}
        heard = self._extractor(
            [recording.samples for recording in recordings],
            sampling_rate=RATE,
            return_tensors="pt",
            return_attention_mask=True,
            **whole,
        )
        language = {"language": order.language, "task": order.task} if self._multilingual else {}
        found = self._model.generate(
            heard.input_features.to(self._model.device, self._model.dtype),
            attention_mask=heard.attention_mask.to(self._model.device),
            return_timestamps=order.timestamps,
            return_segments=True,
            monitor_progress=Progress(job),
            **language,
            **how,
        )
        return list(found["segments"])

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _use_threads(self) -> None:
        """PyTorch keeps the number by thread, and each run of jobs has its own."""
        if self._torch.get_num_threads() != self._threads:
            self._torch.set_num_threads(self._threads)


def _worth_saying(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_SAID_BY_ITSELF)
