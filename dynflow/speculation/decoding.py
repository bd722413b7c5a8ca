"""Writes a text with drafts that the target checks: the decoding loop for transformers' `generate` (needs torch)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from dynflow.speculation.controller import PLAIN, Controller, Plan
from dynflow.speculation.drafters import Drafter, Proposal
from dynflow.speculation.early_exit import EarlyExit
from dynflow.speculation.statistics import Speculation
from dynflow.speculation.verification import verify


class Writer(Protocol):
    """Takes the text as it comes."""

    def put(self, ids: Any) -> None:
        """One more token; whether it was the last, the stopping criteria say afterwards."""

    def flush(self, accepted: bool) -> None:
        """The tokens since the last time may go out; `accepted`: they had been drafted, else they are the target's."""


class SpeculativeDecoding:
    """One request's decoding, given to `generate` as `custom_generate`: it brings processors, criteria and cache.

    `wanted` is asked before each pass of the target, and drafters of models ask it before each of theirs. A drafter
    that fails is left out from then on, which `statistics` tell. Batches of one only.
    """

    def __init__(
        self, drafters: Sequence[Drafter], controller: Controller, writer: Writer, wanted: Callable[[], bool]
    ) -> None:
        self._drafters = {drafter.name: drafter for drafter in drafters}
        self._controller, self._writer, self._wanted = controller, writer, wanted
        self._drafted_at: Counter[int] = Counter()
        self._accepted_at: Counter[int] = Counter()
        self._used: dict[str, None] = {}
        self._tokens = self._passes = 0
        self._seconds = self._drafting = self._verifying = 0.0
        self._sampled = False
        self._dtype: str | None = None
        self._fallback: str | None = None

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **model_kwargs: Any,
    ) -> Tensor:
        """Text and answer, (1, length)."""
        cache = model_kwargs["past_key_values"]
        for drafter in self._drafters.values():
            if isinstance(drafter, EarlyExit):
                drafter.share(cache)
        keep = {"logits_to_keep"} & model_kwargs.keys()
        self._sampled, self._dtype = bool(generation_config.do_sample), str(model.dtype).removeprefix("torch.")
        ids, text = input_ids, input_ids[0].tolist()
        new, proposal, plan = ids, Proposal(), PLAIN
        proposals: Mapping[str, Proposal] = {}
        first = True
        while self._wanted():
            began = time.perf_counter()
            if not first:
                plan, proposal, proposals = self._draft(text, generation_config.max_length - len(text) - 1)
                new = ids.new_tensor([[text[-1], *proposal.tokens]])
            drafted = len(proposal.tokens)
            ready = time.perf_counter()
            if not self._wanted():
                break
            outputs = model(
                input_ids=new,
                past_key_values=cache,
                use_cache=True,
                **dict.fromkeys(keep, drafted + 1),
                return_dict=True,
            )
            passed = time.perf_counter()
            written = verify(outputs.logits[0, -drafted - 1 :].float(), ids, proposal, logits_processor, self._sampled)
            kept, over = self._write(ids, written, stopping_criteria, accepted=len(written) - 1)
            ids = torch.cat([ids, ids.new_tensor([kept])], dim=1)
            text.extend(kept)
            if drafted > len(written) - 1:
                cache.crop(len(written) - 1 - drafted)
            self._tokens += len(kept)
            if not first:
                self._count(drafted, min(len(written) - 1, len(kept)))
                self._controller.learn_pass(drafted + 1, passed - ready)
                self._controller.learn(plan, proposals, kept)
                self._seconds += time.perf_counter() - began
                self._drafting += ready - began
                self._verifying += (time.perf_counter() - ready) * bool(drafted)
            first = False
            if over:
                break
        return ids

    def statistics(self) -> Speculation:
        """Of what was written."""
        positions = range(max(self._drafted_at, default=0))
        return Speculation(
            tokens=self._tokens,
            passes=self._passes,
            drafted=self._drafted_at.total(),
            accepted=self._accepted_at.total(),
            drafted_by_position=tuple(self._drafted_at[position + 1] for position in positions),
            accepted_by_position=tuple(self._accepted_at[position + 1] for position in positions),
            drafters=tuple(self._used),
            seconds=self._seconds,
            seconds_drafting=self._drafting,
            seconds_verifying=self._verifying,
            seconds_plain=self._controller.plain_seconds,
            exactness="exact_distribution" if self._sampled else "exact_greedy",
            dtype=self._dtype,
            fallback=self._fallback,
        )

    def _draft(self, text: list[int], room: int) -> tuple[Plan, Proposal, Mapping[str, Proposal]]:
        """What to check next, and all that was proposed."""
        longest = min(self._controller.longest, room)
        proposals = {
            name: self._ask(drafter, text, self._controller.longest)
            for name, drafter in list(self._drafters.items())
            if drafter.free
        }
        costly = [name for name, drafter in self._drafters.items() if not drafter.free]
        plan = self._controller.plan(proposals, costly, longest)
        name = plan.drafter
        if name is None:
            return plan, Proposal(), proposals
        option = self._drafters[name].option
        if name in proposals:
            whole = proposals[name]
            proposal = Proposal(whole.tokens[: plan.tokens], whole.evidence)
        else:
            began = time.perf_counter()
            proposal = self._ask(self._drafters[name], text, plan.tokens)
            self._controller.learn_drafting(name, len(proposal.tokens), time.perf_counter() - began)
            proposals[name] = proposal
            plan = Plan(name, len(proposal.tokens))
        if proposal.tokens:
            self._used[option] = None
        return plan, proposal, proposals

    def _ask(self, drafter: Drafter, text: list[int], limit: int) -> Proposal:
        try:
            return drafter.draft(text, limit)
        except Exception as error:  # a drafter only hastens: without it the text is the same
            del self._drafters[drafter.name]
            self._fallback = f"{drafter.name} failed: {error}"
            return Proposal()

    def _write(self, ids: Tensor, written: list[int], criteria: Any, accepted: int) -> tuple[list[int], bool]:
        """The tokens up to the first at which a criterion holds, and whether one does."""
        text = torch.cat([ids, ids.new_tensor([written])], dim=1)
        over, count = False, 0
        while count < len(written) and not over:
            self._writer.put(text[0, ids.shape[1] + count])
            count += 1
            if count == accepted:
                self._writer.flush(accepted=True)
            over = bool(criteria(text[:, : ids.shape[1] + count], None).all())
        self._writer.flush(accepted=count <= accepted)
        return written[:count], over

    def _count(self, drafted: int, accepted: int) -> None:
        self._passes += 1
        self._drafted_at.update(range(1, drafted + 1))
        self._accepted_at.update(range(1, accepted + 1))
