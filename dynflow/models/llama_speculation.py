"""Requests to llama.cpp that may be speculated: a server for each way of drafting, and the choice between them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from dynflow.errors import ArtefactError
from dynflow.models.engine import Job
from dynflow.models.llama_drafting import Tally, modes_of
from dynflow.speculation.asked import Asked
from dynflow.speculation.choosing import Chooser, Costs, Measured, Mode, kind_of
from dynflow.speculation.statistics import ACCEPTED_KEY, SPECULATION_KEY

_MOST_FLOWS = 64
"""Flows that are remembered; of more, those that asked longest ago are forgotten."""
_ENOUGH = 16
"""Tokens of a prompt whose reading tells what reading costs."""


class LlamaSpeculator:
    """Serves requests by the mode that their flow's `Chooser` picks: one at a time, as an engine does.

    Servers may be prepared meanwhile, from any thread.
    """

    def __init__(self, plain: Any, make: Callable[[Mode], Any], dtype: str) -> None:
        """`plain` is the server that does not draft; `make` starts one that does, or raises ArtefactError."""
        self._make = make
        self._dtype = dtype
        self.costs = Costs()
        self.choosers: dict[str, Chooser] = {}
        self._servers: dict[Mode | None, Any] = {None: plain}
        self._faults: dict[Mode, str] = {}
        self._starting = threading.Lock()
        self._read: dict[Mode | None, str] = {}
        """What each server has in its cache."""

    @property
    def servers(self) -> tuple[Any, ...]:
        """All that are running."""
        return tuple(self._servers.values())

    def prepare(self, asked: Asked) -> None:
        """Start the servers that a request may use. Raises ArtefactError."""
        for mode in modes_of(asked):
            self._server(mode)

    def served_plainly(self, request: Mapping[str, Any]) -> None:
        """Take note that the server that does not draft read another prompt."""
        self._read[None] = _prompt(request)

    def serve(self, job: Job, request: dict[str, Any], asked: Asked) -> None:
        """Answer a request, with the statistics in the event that tells its usage."""
        prompt = _prompt(request)
        kind = kind_of(prompt, _instruction(request))
        chooser = self._chooser(asked.flow)
        # Tokens of accepted drafts come without log-probabilities.
        modes = () if request.get("logprobs") else modes_of(asked)
        mode = chooser.choose(kind, modes, {each: self._unread(each, prompt) for each in (None, *modes)})
        fallback = None
        try:
            server = self._server(mode)
        except ArtefactError as error:
            mode, fallback = None, f"{error}; decoded plainly"
            server = self._server(None)
        tally = Tally()

        def deliver(event: Mapping[str, Any]) -> bool:
            if tally.read(event):
                event = {**event, ACCEPTED_KEY: True}
            if event.get("usage"):
                self._learn(tally, len(prompt), event["usage"])
                greedy = request.get("temperature") == 0
                statistics = tally.statistics(mode, self.costs.plain, greedy, self._dtype, fallback)
                event = {**event, SPECULATION_KEY: statistics.as_dict()}
                time = None if statistics.speed_up is None else 1.0 / statistics.speed_up
                chooser.learn(kind, prompt, "".join(tally.text), tally.tokens, modes, mode, time)
            return job.deliver(event)

        if mode is not None:
            request["timings_per_token"] = True
        server.handle_chat_completions(request, deliver)
        if tally.tokens:  # else the prompt was refused, or not read to its end
            self._read[mode] = prompt + "".join(tally.text)

    def _server(self, mode: Mode | None) -> Any:
        """The server of a mode, started if need be. Raises ArtefactError, at once where it could not be before."""
        if mode is None or mode in self._servers:
            return self._servers[mode]
        with self._starting:
            if mode in self._faults:
                raise ArtefactError(self._faults[mode])
            if mode not in self._servers:
                try:
                    self._servers[mode] = self._started(mode)
                except ArtefactError as error:
                    self._faults[mode] = str(error)
                    raise
            return self._servers[mode]

    def _started(self, mode: Mode) -> Any:
        server = self._make(mode)
        if isinstance(mode, Measured) and mode.drafter == "draft_model" and not _drafts(server):
            raise ArtefactError(
                f"llama.cpp cannot draft by {mode.draft}: its vocabulary is not the model's; "
                "a draft must have the same tokenizer"
            )
        return server

    def _chooser(self, flow: str) -> Chooser:
        chooser = self.choosers.pop(flow) if flow in self.choosers else Chooser(self.costs)
        self.choosers[flow] = chooser
        if len(self.choosers) > _MOST_FLOWS:
            del self.choosers[next(iter(self.choosers))]
        return chooser

    def _unread(self, mode: Mode | None, prompt: str) -> int:
        """Characters of the prompt that a server does not have in its cache."""
        shared = 0
        for old, new in zip(self._read.get(mode, ""), prompt, strict=False):
            if old != new:
                break
            shared += 1
        return len(prompt) - shared

    def _learn(self, tally: Tally, characters: int, usage: Mapping[str, Any]) -> None:
        """Take in what passes cost."""
        plain = median(tally.plain) if tally.plain else None
        drafted = None
        if tally.checked:
            base = plain or self.costs.plain
            drafted = median((seconds / base - 1.0) / length for length, seconds in tally.checked)
        read, reading = tally.timings.get("prompt_n", 0), None
        if read >= _ENOUGH and characters:
            reading = tally.timings["prompt_ms"] / 1000 / read * usage["prompt_tokens"] / characters
        self.costs.learn(plain, drafted, reading)


def _drafts(server: Any) -> bool:
    """Whether a server with a draft model uses it: llama.cpp passes over one of another vocabulary in silence."""
    tally = Tally()
    request = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "temperature": 0, "stream": True}
    usage = {"stream_options": {"include_usage": True}, "timings_per_token": True}

    def on(event: Mapping[str, Any]) -> bool:
        tally.read(event)
        return tally.drafted > 0

    server.handle_chat_completions({**request, **usage}, on)
    return tally.drafted > 0


def _prompt(request: Mapping[str, Any]) -> str:
    return "".join(_text(message) + "\n" for message in request["messages"])


def _instruction(request: Mapping[str, Any]) -> str:
    """Where a request says what to do: its system messages and the last of the user."""
    system = [_text(message) for message in request["messages"] if message["role"] == "system"]
    user = [_text(message) for message in request["messages"] if message["role"] == "user"]
    return "\n".join((*system, *user[-1:]))


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())
