"""Chat with any GGUF model, in this process, by llama.cpp (wheel `xllamacpp`): the embedded default."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError
from langchain_core.messages import BaseMessage
from pydantic import PrivateAttr

from dynflow.errors import ArtefactError, InputError, MissingDependency
from dynflow.models.cores import physical_cores
from dynflow.models.embedded import MODELS, resolve_model_file
from dynflow.models.engine import Engine, Job, shared
from dynflow.models.failures import from_status
from dynflow.models.llama_drafting import BATCH, dtype_of, set_mode
from dynflow.models.llama_speculation import LlamaSpeculator
from dynflow.models.local import LocalChat
from dynflow.speculation.asked import Asked
from dynflow.speculation.choosing import Mode
from dynflow.speculation.statistics import SPECULATION_KEY

_logger = logging.getLogger(__name__)

_CONTEXT = 8192  # tokens; llama.cpp lowers it to what the model was trained for

# Threads meet some 600 times per token. Where they sleep while they wait (see `_library`), a second thread pays only
# if a token is much work: SmolLM2 (98 MB) writes 62 tokens/s on one thread and 38 on two; reading prompts, two win.
_BYTES_PER_THREAD = 256 << 20


class LlamaCppChat(LocalChat):
    """A GGUF model as chat model. `settings.model` is `embedded/<name>` or the path of a `.gguf` file.

    The context is `settings.capabilities.context`, else 8192 tokens, at most what the model was trained for. Call
    options beyond the usual ones (`logprobs`, `top_logprobs`, `response_format`, `top_k`, `min_p`, `grammar`, …) go
    to llama.cpp as they are. Temperature 0, or a seed, gives the same text again.

    The option `speculation` (see `Asked`) lets it draft: by lookup, by an n-gram cache, by another GGUF model of the
    same vocabulary. Each way of drafting takes a context's memory more, from its first use on. A pass over a draft
    rounds a quantised model's numbers otherwise: where two tokens are nearly as likely, the other one may win then.

    Raises MissingModel, MissingDependency, ArtefactError (loading), InputError (a draft model that is none),
    Overloaded, ContextOverflowError, and the ModelError family.
    """

    provider: ClassVar[str] = "llama_cpp"
    _drafts: dict[str, str] = PrivateAttr(default_factory=dict)
    """Files of draft models, found once: a draft that went missing since is no reason to fail."""

    def _load(self) -> Engine:
        known = MODELS.get(self.settings.model)
        context = self.settings.capabilities.context or (known and known.capabilities.context) or _CONTEXT
        path = resolve_model_file(self.settings.model, self.base)
        reading = self.settings.threads or physical_cores()
        writing = self.settings.threads or min(reading, 1 + path.stat().st_size // _BYTES_PER_THREAD)
        key = ("llama_cpp", path, context, reading, writing)
        return shared(key, lambda: LlamaEngine(path, context, reading, writing))

    def warm_up_speculation(self, asked: Asked) -> None:
        """Load what requests with this `speculation` may use. Raises as `warm_up`, and InputError."""
        engine = self._loaded()
        assert isinstance(engine, LlamaEngine)
        engine.prepare(self._with_draft(asked))

    def _with_draft(self, asked: Asked) -> Asked:
        """With the path of the draft model. Raises MissingModel, InputError where it cannot draft for this one."""
        if asked.draft is None:
            return asked
        if asked.draft not in self._drafts:
            self._drafts[asked.draft] = str(self._draft_file(asked.draft))
        return replace(asked, draft=self._drafts[asked.draft])

    def _draft_file(self, name: str) -> Path:
        own, draft = (resolve_model_file(name, self.base) for name in (self.settings.model, name))
        if draft.samefile(own):
            raise InputError(f"the draft {name} is the model itself: a draft must be a smaller model")
        if draft.stat().st_size > own.stat().st_size:
            raise InputError(f"the draft {name} is larger than the model {self.settings.model}: swap them")
        return draft

    def _request(self, messages: list[BaseMessage], options: dict[str, Any]) -> dict[str, Any]:
        if SPECULATION_KEY in options:
            options[SPECULATION_KEY] = self._with_draft(Asked.from_dict(options[SPECULATION_KEY])).as_dict()
        if options.get("logprobs"):
            options.setdefault("top_logprobs", 1)  # else llama.cpp lists twenty per token
        # `return_progress` gives an event per batch of the prompt, where a cancelled request can stop.
        streamed = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
        request = {**super()._request(messages, options), **streamed}
        if "seed" in request:
            # What earlier requests left of a prompt was read in other batches, and rounded otherwise: draws tip over.
            request["cache_prompt"] = False
        return request

    def _checked(self, event: Mapping[str, Any] | Exception) -> Mapping[str, Any]:
        if isinstance(event, Exception):  # llama.cpp raises on reading a request, and reports what fails later
            raise ModelInvalidRequestError(f"llama.cpp refuses the request: {event}") from event
        if error := event.get("error"):
            message = f"llama.cpp: {error.get('message')}"
            if error.get("type") == "exceed_context_size_error":
                raise ContextOverflowError(message)
            raise from_status(int(error.get("code") or 500), message)
        return event


class LlamaEngine(Engine):
    """A GGUF model in llama.cpp's own server, which is called directly, not over HTTP.

    The server is given one slot: on a CPU two slots side by side write hardly more tokens per second than one (5 % on
    two cores), and with one a seeded request gives the same text whatever else is going on.
    """

    def __init__(self, path: Path, context: int, reading: int, writing: int) -> None:
        """Load the model, with so many threads for reading prompts and for writing answers.

        Raises MissingDependency without the wheel, ArtefactError if llama.cpp cannot load the file.
        """
        super().__init__(path.name)
        self._server = start_server(path, context, reading, writing)
        self._speculator = LlamaSpeculator(
            self._server, lambda mode: start_server(path, context, reading, writing, mode), dtype_of(path)
        )

    def serve(self, job: Job) -> None:
        request = dict(job.request)
        asked = request.pop(SPECULATION_KEY, None)
        if asked is None:
            self._speculator.served_plainly(request)
            self._server.handle_chat_completions(request, job.deliver)
        else:
            self._speculator.serve(job, request, Asked.from_dict(asked))

    def prepare(self, asked: Asked) -> None:
        """Load what requests with this `speculation` may use. Raises ArtefactError."""
        self._speculator.prepare(asked)

    def abandon(self) -> None:
        """Keep the servers for ever: freeing one would wait for threads that a forked child does not have.

        For the same reason such a child must leave by `os._exit`, as those of multiprocessing do.
        """
        super().abandon()
        for server in self._speculator.servers:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(server))


def start_server(path: Path, context: int, reading: int, writing: int, mode: Mode | None = None) -> Any:
    xllamacpp = _library()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context
    params.n_parallel = 1
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = writing, reading
    params.warmup = False
    params.verbosity = -1  # else llama.cpp logs to the terminal
    params.cache_ram_mib = 0  # else it keeps up to 8 GiB of old prompts
    # The wheel always opens a loopback port as well. Nobody is to use it: a key that nobody knows, and no pages.
    params.api_keys = [secrets.token_hex(32)]
    params.ui = params.endpoint_slots = params.endpoint_props = False
    if mode is not None:
        set_mode(xllamacpp, params, mode)
    started = time.perf_counter()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise ArtefactError(
            f"llama.cpp cannot load {path}: the file is damaged or of an unknown architecture, or memory is short"
        ) from error
    _logger.info("loaded %s in %.1f s", path.name, time.perf_counter() - started)
    return server


def _library() -> ModuleType:
    """Import `xllamacpp`, with its threads told to sleep while they wait for one another.

    By default they spin, which is up to half as fast again on an idle machine; but then one other busy process slows
    llama.cpp down a hundredfold (0.2 tokens per second on two cores), for the thread that all wait for gets no core.
    OpenMP reads this when it loads. Set OMP_WAIT_POLICY yourself, and `threads`, to have it otherwise.
    """
    chosen = {name for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ}
    if not chosen:
        os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        return importlib.import_module("xllamacpp")
    except ModuleNotFoundError as error:
        raise MissingDependency("xllamacpp (llama.cpp)", 'pip install "dynflow[quickstart]"') from error
    except ImportError as error:  # such as a system without libgomp.so.1
        raise MissingDependency(
            f"a system library that xllamacpp needs ({error})", "apt-get install libgomp1 (or your system's like)"
        ) from error
    finally:
        if not chosen:
            del os.environ["OMP_WAIT_POLICY"]
