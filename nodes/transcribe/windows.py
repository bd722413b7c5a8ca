"""How a recording is decoded, with drafts, window by window, inside transformers' `generate`."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dynflow.errors import NodeFailed
from dynflow.models.engine import Job
from dynflow.nodes.transcribe.writing import Writer
from dynflow.speculation.asked import Asked
from dynflow.speculation.statistics import Speculation

if TYPE_CHECKING:
    from dynflow.speculation.speculator import Speculator


class Unwanted(Exception):
    """Raised between two forward passes once nobody waits for a recording's text any more."""


class Ear:
    """Has an encoder run once for a window that is encoded twice, first to tell the language; apart in each thread."""

    def __init__(self, encoder: Any) -> None:
        self._own = threading.local()
        encode, place = type(encoder).forward, weakref.ref(encoder)  # a cycle would keep the model when nobody does

        def once(input_features: Any, *args: Any, **options: Any) -> Any:
            if self.features is None or not _alike(self.features, input_features):
                self._own.encoded = encode(place(), input_features, *args, **options)
                self._own.features = input_features
            return self._own.encoded

        encoder.forward = once

    @property
    def features(self) -> Any:
        """What was encoded last, (recordings, mel bands, frames)."""
        return getattr(self._own, "features", None)

    def forget(self) -> None:
        """Keep nothing."""
        self._own.features = self._own.encoded = None


def _alike(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool((one == other).all())


class Draft:
    """A Whisper model that drafts for another; where both hear alike, only the target's encoder is run."""

    def __init__(self, owner: object, model: Any, ear: Ear, hears_alike: bool) -> None:
        """`owner` of the model is kept, so that others still share it."""
        self._owner, self._model, self._ear, self._hears_alike = owner, model, ear, hears_alike

    def forget(self) -> None:
        """The recording is over."""
        self._ear.forget()

    def listener(self, features: Any, heard: Any) -> Any:
        """It, for one window: `features` as the target's encoder got them, and `heard` as it gave them."""
        from dynflow.nodes.transcribe.hearing import Listener

        model = self._model
        if self._hears_alike:
            return Listener(model, lambda: heard)
        return Listener(model, lambda: model.get_encoder()(features.to(model.dtype)))


class Windows:
    """The decoding of one recording, given to `generate` as `custom_generate`: called for one window after another."""

    def __init__(
        self,
        speculator: Speculator,
        asked: Asked,
        writer: Writer,
        wanted: Callable[[], bool],
        ear: Ear,
        draft: Draft | None,
    ) -> None:
        self._speculator, self._asked, self._writer, self._wanted = speculator, asked, writer, wanted
        self._ear, self._draft = ear, draft
        self._drafting = True  # whether the draft model was of use in the last window, or there was none
        self.statistics: list[Speculation] = []

    def __call__(
        self,
        model: Any,
        input_ids: Any,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """Prompt and tokens of a window, (1, length). Raises Unwanted."""
        from transformers import DynamicCache

        from dynflow.nodes.transcribe.hearing import Listener
        from dynflow.speculation.draft_model import DraftModel

        heard = model_kwargs["encoder_outputs"]
        draft = None if self._draft is None else self._draft.listener(self._ear.features, heard)
        began = time.perf_counter()
        if draft is not None and self._drafting:  # else the first draft would seem to cost all this
            self._check()
            draft.hear()
            self._check()
            draft.attend(input_ids[:, :1])
        prepared = time.perf_counter() - began
        drafters = [] if draft is None else [DraftModel(draft, model.config.vocab_size, None, self._wanted)]
        decoding = self._speculator.decoding(self._asked, self._writer, self._wanted, drafters)
        ids = decoding(
            Listener(model, lambda: heard),
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            past_key_values=DynamicCache(config=model.config),
        )
        self._check()
        self._writer.end_window()
        told = decoding.statistics()
        self._drafting = "draft_model" in told.drafters
        drafting = (told.seconds_drafting or 0.0) + prepared
        self.statistics.append(replace(told, seconds=told.seconds + prepared, seconds_drafting=drafting))
        self._speculator.learn(self._asked, ids[0, input_ids.shape[1] :].tolist())
        return ids

    def _check(self) -> None:
        if not self._wanted():
            raise Unwanted


class Progress:
    """Hears before each window how far `generate` is, in frames, (recordings, 2). Raises Unwanted, NodeFailed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._last: list[Any] = []

    def __call__(self, places: Any) -> None:
        if not self._job.wanted:
            raise Unwanted
        now = places.tolist()
        if now == self._last:  # greedy decoding would hear the same window for ever
            raise NodeFailed(
                f"Whisper does not get on: at {now[0][0] / 100:.2f} s it ends a segment where it begins; "
                "set `timestamps: false`, for recordings of one window, or take another model"
            )
        self._last = now
