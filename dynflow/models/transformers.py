"""Chat with a model that Hugging Face transformers runs in this process (packages `transformers`, `torch`).

Our own adapter: ChatHuggingFace has no async and no usage, echoes the prompt, and hangs for a minute on an error.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError

from dynflow.errors import ArtefactError, MissingDependency, MissingModel
from dynflow.models.cores import physical_cores
from dynflow.models.dequantised import load_kept
from dynflow.models.embedded import PREFIX, resolve_model_file
from dynflow.models.engine import Engine, Job, shared
from dynflow.models.local import LocalChat
from dynflow.models.stop_texts import StopTexts

_MAX_TOKENS = 1024  # of an answer, unless set
_HUB_SECONDS = 10.0  # how long the hub may take to say whether it has a model


class TransformersChat(LocalChat):
    """A causal language model as chat model, in float32.

    `settings.model` is a hub id (with `revision`), a folder, a `.gguf` file, or `embedded/<name>`; a GGUF file is
    widened to float32 when it is first loaded, which takes half a minute for 135M weights, and then kept in the cache
    folder (`$DYNFLOW_CACHE`), where it takes four bytes a weight. Weights are read as safetensors or GGUF only, and no
    code from a model repository is run. `max_tokens` is 1024 unless set. Text only, no tools.

    Raises MissingModel, MissingDependency, ArtefactError (loading), Overloaded, ContextOverflowError, and the
    ModelError family.
    """

    provider: ClassVar[str] = "transformers"

    def _load(self) -> Engine:
        settings, threads = self.settings, self.settings.threads or physical_cores()
        folder = (self.base or Path()) / settings.model
        if settings.model.startswith(PREFIX) or settings.model.endswith(".gguf"):
            source: dict[str, Any] = {"gguf": resolve_model_file(settings.model, self.base)}
        elif folder.is_dir():
            if not (folder / "config.json").is_file():
                raise MissingModel(f"{folder} holds no model: it has no config.json")
            source = {"pretrained_model_name_or_path": str(folder)}
        else:
            source = {"pretrained_model_name_or_path": settings.model, "revision": settings.revision or "main"}
        key = ("transformers", *source.values(), threads)
        return shared(key, lambda: TransformersEngine(settings.model, source, threads))


class TransformersEngine(Engine):
    """Tokenizer and weights, and the generation of one answer after another."""

    def __init__(self, name: str, source: dict[str, Any], threads: int) -> None:
        """Load. Raises MissingDependency, MissingModel, ArtefactError."""
        super().__init__(name)
        self._torch, self._transformers = _library("torch"), _library("transformers")
        self._torch.set_num_threads(threads)
        if "revision" in source:
            source = {**source, "local_files_only": not _hub_has(name, source["revision"])}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                gguf = source.get("gguf")
                self._tokenizer, self._model = self._read(source) if gguf is None else load_kept(gguf, self._read)
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
            **source, dtype=self._torch.float32, use_safetensors=safetensors
        )
        return tokenizer, model

    def serve(self, job: Job) -> None:
        """Generate token by token, delivering text as soon as it is whole and cannot be part of a stop text."""
        request = job.request
        prompt = self._prompt(request["messages"])
        room = self._model.config.max_position_embeddings - prompt["input_ids"].shape[1]
        if room <= 0:
            raise ContextOverflowError(f"{self.name}: the prompt is {1 - room} tokens too long")
        writer = _Writer(self._tokenizer, StopTexts(request.get("stop") or ()), job)
        sampling: dict[str, Any] = {"do_sample": request.get("temperature") != 0}
        if sampling["do_sample"]:
            sampling |= {key: request[key] for key in ("temperature", "top_p") if key in request}
        # The seed is the process's: requests run one at a time, so nothing of ours draws in between.
        if "seed" in request:
            self._torch.manual_seed(request["seed"])
        self._model.generate(
            **prompt,
            **sampling,
            max_new_tokens=min(request.get("max_tokens", _MAX_TOKENS), room),
            pad_token_id=self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
            streamer=writer,
            stopping_criteria=[writer.stopping],
        )
        writer.finish(prompt_tokens=int(prompt["input_ids"].shape[1]))

    def _prompt(self, messages: list[dict[str, Any]]) -> Any:
        try:
            return self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).to(self._model.device)
        except Exception as error:  # templates raise what they like
            raise ModelInvalidRequestError(f"{self.name}'s chat template refuses the messages: {error}") from error


class _Writer:
    """transformers' streamer interface: takes token ids, delivers text."""

    def __init__(self, tokenizer: Any, stop: StopTexts, job: Job) -> None:
        self._tokenizer, self._stop, self._job = tokenizer, stop, job
        self._tokens: list[int] = []
        self._done = 0  # characters already passed on
        self._prompt_seen = False
        self._unwanted = False
        self._ended = False

    def put(self, ids: Any) -> None:
        """Called first with the prompt, then with each new token."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._tokens.extend(ids.flatten().tolist())
        self._ended = self._tokens[-1] in self._tokenizer.all_special_ids
        text = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character whose last bytes are still to come
            self._write(self._stop.feed(text[self._done :]))
            self._done = len(text)
        self._unwanted = self._unwanted or not self._job.wanted

    def end(self) -> None:
        """Called when the generation is over."""

    def stopping(self, ids: Any, scores: Any, **kwargs: Any) -> Any:
        """A stopping criterion: a stop text has come, or nobody wants the answer any more."""
        return ids.new_full((ids.shape[0],), int(self._unwanted or self._stop.found)).bool()

    def finish(self, prompt_tokens: int) -> None:
        self._write(self._stop.rest())
        reason = "stop" if self._ended or self._stop.found else "length"
        counts = {"prompt_tokens": prompt_tokens, "completion_tokens": len(self._tokens)}
        self._job.deliver({"choices": [{"delta": {}, "finish_reason": reason}], "usage": counts})

    def _write(self, text: str) -> None:
        if text:
            self._unwanted = self._job.deliver({"choices": [{"delta": {"content": text}}]})


def _hub_has(name: str, revision: str) -> bool:
    """Whether to fetch a model from the hub: False where its cache holds it. Raises MissingModel.

    The hub is asked once and briefly, for transformers itself tries for a minute, and says so on the terminal.
    """
    hub = _library("huggingface_hub")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        return False
    try:
        hub.HfApi().model_info(name, revision=revision, timeout=_HUB_SECONDS)
    except Exception as error:  # offline, unknown, gated, misspelt: the hub has an error for each, and so has httpx
        reason = str(error).strip().partition("\n")[0]
        raise MissingModel(
            f"no model {name!r}: there is no such folder, the hub's cache does not hold it, and the hub cannot be "
            f"asked ({reason}); give a local folder, embedded/<name>, or the name of a model on the hub while online"
        ) from error
    return True


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingDependency(name, 'pip install "dynflow[transformers]"') from error
