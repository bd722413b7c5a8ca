"""Chat with a model that Hugging Face transformers runs in this process (packages `transformers`, `torch`).

Our own adapter: ChatHuggingFace has no async and no usage, echoes the prompt, and hangs for a minute on an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError
from langchain_core.messages import BaseMessage

from dynflow.errors import ArtefactError, MissingDependency, MissingModel
from dynflow.models.cores import physical_cores
from dynflow.models.dequantised import load_kept
from dynflow.models.embedded import PREFIX, resolve_model_file
from dynflow.models.engine import Engine, Job, shared
from dynflow.models.hub import must_fetch
from dynflow.models.libraries import library
from dynflow.models.local import LocalChat
from dynflow.models.stop_texts import StopTexts
from dynflow.speculation.asked import Asked
from dynflow.speculation.statistics import ACCEPTED_KEY, SPECULATION_KEY, Exactness, Speculation

if TYPE_CHECKING:
    from dynflow.speculation.decoding import SpeculativeDecoding
    from dynflow.speculation.speculator import Speculator

_MAX_TOKENS = 1024  # of an answer, unless set
_DRAFT = "draft"  # in a request: the source of the draft model that it asks for


class TransformersChat(LocalChat):
    """A causal language model as chat model, in float32 unless `settings.dtype` says otherwise.

    `settings.model` is a hub id (with `revision`), a folder, a `.gguf` file, or `embedded/<name>`; a GGUF file is
    widened to float32 when it is first loaded, which takes half a minute for 135M weights, and then kept in the cache
    folder (`$DYNFLOW_CACHE`), where it takes four bytes a weight. Weights are read as safetensors or GGUF only, and no
    code from a model repository is run. `max_tokens` is 1024 unless set. Text only, no tools.

    Raises MissingModel, MissingDependency, ArtefactError (loading), Overloaded, ContextOverflowError, and the
    ModelError family.
    """

    provider: ClassVar[str] = "transformers"

    def warm_up_speculation(self, asked: Asked) -> None:
        """Load and measure what speculation needs. Raises ArtefactError, with the reason, where it cannot be."""
        engine = self._loaded()
        assert isinstance(engine, TransformersEngine)
        engine.prepare_speculation(self._draft(asked))

    def _load(self) -> Engine:
        return self._source(self.settings.model, self.settings.revision).engine()

    def _request(self, messages: list[BaseMessage], options: dict[str, Any]) -> dict[str, Any]:
        request = super()._request(messages, options)
        if SPECULATION_KEY in options:
            request[_DRAFT] = self._draft(Asked.from_dict(options[SPECULATION_KEY]))
        return request

    def _draft(self, asked: Asked) -> _Source | None:
        return self._source(asked.draft, asked.revision) if asked.draft is not None else None

    def _source(self, name: str, revision: str | None) -> _Source:
        """Where the model of this name, or a draft model for it, comes from. Raises MissingModel."""
        folder = (self.base or Path()) / name
        if name.startswith(PREFIX) or name.endswith(".gguf"):
            arguments: dict[str, Any] = {"gguf": resolve_model_file(name, self.base)}
        elif folder.is_dir():
            if not (folder / "config.json").is_file():
                raise MissingModel(f"{folder} holds no model: it has no config.json")
            arguments = {"pretrained_model_name_or_path": str(folder)}
        else:
            arguments = {"pretrained_model_name_or_path": name, "revision": revision or "main"}
        return _Source(name, arguments, self.settings.threads or physical_cores(), self.settings.dtype or "float32")


@dataclass(frozen=True)
class _Source:
    """What a model is loaded from, and how."""

    name: str
    arguments: dict[str, Any]
    threads: int
    dtype: str

    @property
    def key(self) -> Hashable:
        """What tells one engine from another."""
        return ("transformers", *self.arguments.values(), self.threads, self.dtype)

    def engine(self) -> TransformersEngine:
        """Loaded, or shared with others who name it alike."""
        engine = shared(self.key, lambda: TransformersEngine(self.name, self.arguments, self.threads, self.dtype))
        assert isinstance(engine, TransformersEngine)
        return engine


class TransformersEngine(Engine):
    """Tokenizer and weights, and the generation of one answer after another."""

    def __init__(self, name: str, source: dict[str, Any], threads: int, dtype: str = "float32") -> None:
        """Load. Raises MissingDependency, MissingModel, ArtefactError."""
        super().__init__(name)
        self._dtype = dtype
        self._drafts: dict[Hashable, TransformersEngine | str] = {}  # or why it cannot draft
        self._torch, self._transformers = library("torch", "transformers"), library("transformers", "transformers")
        self._torch.set_num_threads(threads)
        if "revision" in source:
            source = {
                **source,
                "local_files_only": not must_fetch(name, source["revision"], "config.json", embedded=True),
            }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                gguf = source.get("gguf")
                self._tokenizer, self._model = (
                    self._read(source) if gguf is None else load_kept(gguf, self._read, dtype)
                )
        except ImportError as error:
            raise MissingDependency(f"a package that transformers needs ({error})", "pip install gguf") from error
        except OSError as error:
            raise MissingModel(f"transformers finds no model {name}: {error}") from error
        except (ValueError, RuntimeError, KeyError) as error:
            raise ArtefactError(f"transformers cannot load {name}: {error}") from error
        if not self._tokenizer.chat_template:
            raise ArtefactError(f"{name} has no chat template: it is no chat model")
        self._model.eval()

    def _read(self, source: dict[str, Any]) -> tuple[Any, Any]:
        """Tokenizer and model."""
        tokenizer = self._transformers.AutoTokenizer.from_pretrained(**source)
        safetensors = None if "gguf_file" in source else True
        model = self._transformers.AutoModelForCausalLM.from_pretrained(
            **source, dtype=getattr(self._torch, self._dtype), use_safetensors=safetensors
        )
        return tokenizer, model

    def prepare_speculation(self, draft: _Source | None) -> TransformersEngine | None:
        """Load the draft model, if any, and time passes. Raises ArtefactError where this model or pair cannot."""
        from dynflow.speculation.draft_model import cache_fault, pair_fault

        if (fault := cache_fault(self._model)) is not None:
            raise ArtefactError(f"{self.name} cannot speculate: {fault}")
        self._speculator.measure()
        if draft is None:
            return None
        if draft.key not in self._drafts:
            drafting = draft.engine()
            fault = pair_fault(self._model, drafting._model, self._tokenizer, drafting._tokenizer)
            self._drafts[draft.key] = fault or drafting
        found = self._drafts[draft.key]
        if isinstance(found, str):
            raise ArtefactError(f"{draft.name} cannot draft for {self.name}: {found}")
        return found

    @cached_property
    def _speculator(self) -> Speculator:
        from dynflow.speculation.speculator import Speculator

        return Speculator(self._model)

    def serve(self, job: Job) -> None:
        """Generate token by token, delivering text as soon as it is whole and cannot be part of a stop text."""
        request = job.request
        prompt = self._prompt(request["messages"])
        room = self._model.config.max_position_embeddings - prompt["input_ids"].shape[1]
        if not prompt["input_ids"].shape[1]:
            raise ModelInvalidRequestError(f"{self.name}: the prompt is empty, and the chat template adds nothing")
        if room <= 0:
            raise ContextOverflowError(f"{self.name}: the prompt is {1 - room} tokens too long")
        writer = _Writer(self._tokenizer, StopTexts(request.get("stop") or ()), job)
        sampling: dict[str, Any] = {"do_sample": request.get("temperature") != 0}
        if sampling["do_sample"]:
            sampling |= {key: request[key] for key in ("temperature", "top_p") if key in request}
        decoding, fallback = self._decoding(job, writer) if SPECULATION_KEY in request else (None, None)
        # The seed is the process's: requests run one at a time, so nothing of ours draws in between.
        if "seed" in request:
            self._torch.manual_seed(request["seed"])
        self._model.generate(
            **prompt,
            **sampling,
            max_new_tokens=min(request.get("max_tokens", _MAX_TOKENS), room),
            pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            stopping_criteria=[writer.stopping],
            # Whatever the model's own generation settings say: one answer, written once, with a cache.
            num_beams=1,
            num_return_sequences=1,
            use_cache=True,
            **({"streamer": _Streamer(writer)} if decoding is None else {"custom_generate": decoding}),
        )
        writer.finish(int(prompt["input_ids"].shape[1]), self._told(request, decoding, fallback, writer.tokens))

    def _decoding(self, job: Job, writer: _Writer) -> tuple[SpeculativeDecoding | None, str | None]:
        """How to decode with drafts, or why not."""
        try:
            drafting = self.prepare_speculation(job.request.get(_DRAFT))
        except ArtefactError as error:
            return None, f"{error}; decoded plainly"
        temperature = job.request.get("temperature", self._model.generation_config.temperature or 1.0)
        # A seed shall give the same text again: so drafts, of which there are more or fewer as time goes, draw nothing.
        drawn_at = None if "seed" in job.request or temperature == 0 else temperature
        asked = Asked.from_dict(job.request[SPECULATION_KEY])
        draft = None if drafting is None else drafting._model
        return self._speculator.decoding(asked, writer, lambda: job.wanted, draft, drawn_at), None

    def _told(
        self, request: Mapping[str, Any], decoding: SpeculativeDecoding | None, fallback: str | None, answer: list[int]
    ) -> dict[str, Any]:
        """What is told of speculation where it was asked for; what there is to learn from the answer is learnt."""
        if decoding is not None:
            self._speculator.learn(Asked.from_dict(request[SPECULATION_KEY]), answer)
            statistics = decoding.statistics()
        elif fallback is not None:
            exactness: Exactness = "exact_greedy" if request.get("temperature") == 0 else "exact_distribution"
            passes = max(len(answer) - 1, 0)
            statistics = Speculation(len(answer), passes, exactness=exactness, dtype=self._dtype, fallback=fallback)
        else:
            return {}
        return {SPECULATION_KEY: statistics.as_dict()}

    def _prompt(self, messages: list[dict[str, Any]]) -> Any:
        try:
            return self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self._model.device)
        except Exception as error:  # templates raise what they like
            raise ModelInvalidRequestError(f"{self.name}'s chat template refuses the messages: {error}") from error


class _Writer:
    """Takes token by token, delivers text run by run."""

    def __init__(self, tokenizer: Any, stop: StopTexts, job: Job) -> None:
        self._tokenizer, self._stop, self._job = tokenizer, stop, job
        self.tokens: list[int] = []
        self._done = 0  # characters already passed on
        self._ready = ""
        self._unwanted = False
        self._ended = False

    def put(self, ids: Any) -> None:
        """One more token."""
        self.tokens.extend(ids.flatten().tolist())
        self._ended = self.tokens[-1] in self._tokenizer.all_special_ids
        text = self._tokenizer.decode(self.tokens, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character whose last bytes are still to come
            self._ready += self._stop.feed(text[self._done :])
            self._done = len(text)

    def flush(self, accepted: bool) -> None:
        """Deliver the text of the tokens since the last time; `accepted`: they had been drafted."""
        if self._ready:
            marked = {ACCEPTED_KEY: True} if accepted else {}
            self._unwanted = self._job.deliver({"choices": [{"delta": {"content": self._ready}}], **marked})
            self._ready = ""
        self._unwanted = self._unwanted or not self._job.wanted

    def stopping(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        """A stopping criterion: a stop text has come, or nobody wants the answer any more."""
        return ids.new_full((ids.shape[0],), int(self._unwanted or self._stop.found)).bool()

    def finish(self, prompt_tokens: int, told: dict[str, Any]) -> None:
        self._ready += self._stop.rest()
        self.flush(accepted=False)
        reason = "stop" if self._ended or self._stop.found else "length"
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": len(self.tokens)}
        self._job.deliver({"choices": [{"delta": {}, "finish_reason": reason}], "usage": counts, **told})


class _Streamer:
    """transformers' streamer interface to a writer: is given the prompt, then each token."""

    def __init__(self, writer: _Writer) -> None:
        self._writer, self._prompt_seen = writer, False

    def put(self, ids: Any) -> None:
        if self._prompt_seen:
            self._writer.put(ids)
            self._writer.flush(accepted=False)
        self._prompt_seen = True

    def end(self) -> None:
        """Called when the generation is over."""
