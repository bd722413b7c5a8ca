"""Chat with a model that Hugging Face transformers runs in this process (packages `transformers`, `torch`).

Our own adapter: ChatHuggingFace has no async and no usage, echoes the prompt, and hangs for a minute on an error.
"""

from __future__ import annotations

import logging
import threading
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
from dynflow.models.transformers_writer import Streamer, Writer
from dynflow.speculation.asked import Asked
from dynflow.speculation.statistics import SPECULATION_KEY, Exactness, Speculation

if TYPE_CHECKING:
    from dynflow.speculation.decoding import SpeculativeDecoding
    from dynflow.speculation.draft_head.drafter import LoadedHead
    from dynflow.speculation.drafters import Drafter
    from dynflow.speculation.speculator import Speculator

_logger = logging.getLogger(__name__)
_MAX_TOKENS = 1024  # of an answer, unless set
_ONE_ANSWER = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True}
"""Whatever the model's own generation settings say: one answer, written once, with a cache."""
_DRAFT = "draft"  # in a request: the source of the draft model that it asks for
_HEAD = "draft_head"  # the same: the draft head's name or folder
_REQUESTS = (
    "Write a few lines about the sea.",
    "Explain in simple words how a clock works.",
    "Write a Python function that counts the words of a text.",
)
"""What a model is asked to write for its first layers to be measured on, and so many tokens of each answer."""
_WRITTEN = 24


def in_software(dtype: str) -> bool:
    """Whether this processor lacks these numbers, so that products of matrices crawl."""
    known = library("torch", "transformers").ops.mkldnn
    quick = {"bfloat16": known._is_mkldnn_bf16_supported, "float16": known._is_mkldnn_fp16_supported}
    return dtype in quick and not quick[dtype]()


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
        engine.prepare(self._draft(asked), self._head(asked), asked.allows("early_exit"))

    def loaded(self) -> tuple[Any, Any]:
        """Tokenizer and model, for whoever trains with them."""
        engine = self._loaded()
        assert isinstance(engine, TransformersEngine)
        return engine._tokenizer, engine._model

    def _load(self) -> Engine:
        return self._source(self.settings.model, self.settings.revision).engine()

    def _request(self, messages: list[BaseMessage], options: dict[str, Any]) -> dict[str, Any]:
        request = super()._request(messages, options)
        if SPECULATION_KEY in options:
            asked = Asked.from_dict(options[SPECULATION_KEY])
            request |= {_DRAFT: self._draft(asked), _HEAD: self._head(asked)}
        return request

    def _draft(self, asked: Asked) -> _Source | None:
        return self._source(asked.draft, asked.revision) if asked.draft is not None else None

    def _head(self, asked: Asked) -> str | None:
        """The draft head, its folder counted from `base`."""
        if asked.head is None or asked.head.startswith(PREFIX):
            return asked.head
        return str((self.base or Path()) / Path(asked.head).expanduser())

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
        self._drafts: dict[Hashable, _Drafting | str] = {}  # or why it cannot draft
        self._heads: dict[str, LoadedHead] = {}
        self._preparing = threading.RLock()  # nodes warm up in threads of their own, and requests prepare what is not
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
        if in_software(dtype):
            _logger.warning("%s: this processor has no %s, and computes it many times slower than float32", name, dtype)

    def _read(self, source: dict[str, Any]) -> tuple[Any, Any]:
        """Tokenizer and model."""
        tokenizer = self._transformers.AutoTokenizer.from_pretrained(**source)
        safetensors = None if "gguf_file" in source else True
        model = self._transformers.AutoModelForCausalLM.from_pretrained(
            **source, dtype=getattr(self._torch, self._dtype), use_safetensors=safetensors
        )
        return tokenizer, model

    def prepare(self, draft: _Source | None, head: str | None, early_exit: bool) -> _Prepared:
        """Time passes, and load or measure what is to draft. Raises ArtefactError, with the reason, where it cannot."""
        from dynflow.speculation.draft_model import cache_fault

        if (fault := cache_fault(self._model)) is not None:
            raise ArtefactError(f"{self.name} cannot speculate: {fault}")
        with self._preparing:
            self._speculator.measure()
            return _Prepared(
                None if draft is None else self._drafting(draft),
                None if head is None else self._head(head),
                self._first_layers() if early_exit else None,
            )

    def _drafting(self, draft: _Source) -> _Drafting:
        from dynflow.speculation.draft_model import pair_fault, same_tokens

        if draft.key not in self._drafts:
            other = draft.engine()
            fault = pair_fault(self._model, other._model, self._tokenizer, other._tokenizer)
            alike = same_tokens(self._tokenizer, other._tokenizer)
            self._drafts[draft.key] = fault or _Drafting(other, alike)
        found = self._drafts[draft.key]
        if isinstance(found, str):
            raise ArtefactError(f"{draft.name} cannot draft for {self.name}: {found}")
        return found

    def _head(self, name: str) -> LoadedHead:
        if name not in self._heads:
            from dynflow.speculation.draft_head.artefact import load

            self._heads[name] = load(name, self._model)
        return self._heads[name]

    def _first_layers(self) -> Any:
        try:
            return self._speculator.first_layers(self._own_texts)
        except ValueError as error:
            raise ArtefactError(f"{self.name} cannot draft by its first layers: {error}") from None

    def _own_texts(self) -> list[tuple[Any, int]]:
        """Answers of this model to some requests, each with its prompt, (1, length), and that one's length."""
        texts = []
        for request in _REQUESTS:
            prompt = self._prompt([{"role": "user", "content": request}])
            begin = prompt["input_ids"].shape[1]
            text = self._model.generate(
                **prompt,
                max_new_tokens=_WRITTEN,
                pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
                do_sample=False,
                **_ONE_ANSWER,
            )
            texts.append((text, begin))
        return texts

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
        writer = Writer(self._tokenizer, StopTexts(request.get("stop") or ()), job)
        sampling: dict[str, Any] = {"do_sample": request.get("temperature") != 0}
        if sampling["do_sample"]:
            sampling |= {key: request[key] for key in ("temperature", "top_p") if key in request}
        decoding, fallback = self._decoding(job, writer, prompt) if SPECULATION_KEY in request else (None, None)
        # The seed is the process's: requests run one at a time, so nothing of ours draws in between.
        if "seed" in request:
            self._torch.manual_seed(request["seed"])
        self._model.generate(
            **prompt,
            **sampling,
            max_new_tokens=min(request.get("max_tokens", _MAX_TOKENS), room),
            pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            stopping_criteria=[writer.stopping],
            **_ONE_ANSWER,
            **({"streamer": Streamer(writer)} if decoding is None else {"custom_generate": decoding}),
        )
        writer.finish(int(prompt["input_ids"].shape[1]), self._told(request, decoding, fallback, writer.tokens))

    def _decoding(
        self, job: Job, writer: Writer, prompt: Mapping[str, Any]
    ) -> tuple[SpeculativeDecoding | None, str | None]:
        """How to decode with drafts, or why not."""
        asked = Asked.from_dict(job.request[SPECULATION_KEY])
        try:
            prepared = self.prepare(job.request.get(_DRAFT), job.request.get(_HEAD), asked.allows("early_exit"))
        except ArtefactError as error:
            return None, f"{error}; decoded plainly"
        temperature = job.request.get("temperature", self._model.generation_config.temperature or 1.0)
        # A seed shall give the same text again: so drafts, of which there are more or fewer as time goes, draw nothing.
        drawn_at = None if "seed" in job.request or temperature == 0 else temperature
        further: list[Drafter] = []
        if prepared.draft is not None:
            further.append(self._drafter(prepared.draft, job, prompt["input_ids"][0].tolist(), drawn_at))
        if prepared.head is not None:
            from dynflow.speculation.draft_head.drafter import DraftHead

            further.append(DraftHead(prepared.head, self._model.config.vocab_size, drawn_at, lambda: job.wanted))
        if prepared.first_layers is not None:
            from dynflow.speculation.early_exit import EarlyExit

            further.append(EarlyExit(prepared.first_layers, drawn_at, lambda: job.wanted))
        return self._speculator.decoding(asked, writer, lambda: job.wanted, further), None

    def _drafter(self, drafting: _Drafting, job: Job, prompt: list[int], drawn_at: float | None) -> Drafter:
        """What lets a draft model draft for one request."""
        from dynflow.speculation.draft_model import DraftModel
        from dynflow.speculation.token_text import TokenText
        from dynflow.speculation.translated_draft import TranslatedDraft

        engine = drafting.engine
        if drafting.same_tokens:
            return DraftModel(engine._model, self._model.config.vocab_size, drawn_at, lambda: job.wanted)
        try:
            theirs = engine._prompt(job.request["messages"])["input_ids"][0].tolist()
        except ModelInvalidRequestError:  # its chat template knows fewer roles, say
            text = self._tokenizer.decode(prompt, skip_special_tokens=True)
            theirs = engine._tokenizer(text)["input_ids"]
        return TranslatedDraft(
            DraftModel(engine._model, engine._model.config.vocab_size, None, lambda: job.wanted, engine._ends),
            TokenText(self._tokenizer, prompt),
            TokenText(engine._tokenizer, theirs),
            engine._ends,
            next(iter(self._ends), None),
        )

    @property
    def _ends(self) -> tuple[int, ...]:
        """The tokens that end an answer, the tokenizer's own first."""
        ends = self._model.generation_config.eos_token_id
        listed = tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)
        return tuple(sorted(listed, key=lambda token: token != self._tokenizer.eos_token_id))

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


@dataclass(frozen=True)
class _Drafting:
    """A draft model, and whether its tokens are the target's."""

    engine: TransformersEngine
    same_tokens: bool


@dataclass(frozen=True)
class _Prepared:
    """What may draft besides lookups."""

    draft: _Drafting | None
    head: LoadedHead | None
    first_layers: Any
