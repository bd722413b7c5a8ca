"""What takes the tokens that transformers writes, and delivers their text."""

from __future__ import annotations

from typing import Any

from dynflow.models.engine import Job
from dynflow.models.stop_texts import StopTexts
from dynflow.speculation.statistics import ACCEPTED_KEY


class Writer:
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


class Streamer:
    """transformers' streamer interface to a writer: is given the prompt, then each token."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._prompt_seen = writer, False

    def put(self, ids: Any) -> None:
        if self._prompt_seen:
            self._writer.put(ids)
            self._writer.flush(accepted=False)
        self._prompt_seen = True

    def end(self) -> None:
        """Called when the generation is over."""
