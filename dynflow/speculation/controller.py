"""Decides at every step who drafts, and how far: 0 tokens included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dynflow.speculation.acceptance import Acceptance
from dynflow.speculation.costs import Costs
from dynflow.speculation.drafters import Proposal

_ALLOWANCE = 1.0  # plain passes that a request may lose
_SLACK = 0.01  # and the share of its plain time besides
_WINDOW = 24  # tries that tell of this request
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 256  # tokens between two probes of a costly drafter that does not pay
_PROBE = 2  # tokens of a probe


@dataclass(frozen=True, slots=True)
class Plan:
    """Who drafts how many tokens. No drafter, 0 tokens: plain decoding."""

    drafter: str | None = None
    tokens: int = 0


PLAIN = Plan()


class Controller:
    """Maximises the expected tokens per second of one request. Reads no clock: what things cost, it is told.

    Free drafters propose at every step, also where nothing is drafted, and their proposals are compared with what the
    target wrote: so their acceptance is known without a risk, and a text that turns copyable is seen at once. A costly
    drafter that seems not to pay is probed, ever more rarely. Whatever the estimates say, a plan must be affordable:
    even if nothing of it is taken, the request has lost no more against plain decoding than one plain pass and 1 %.
    """

    def __init__(self, costs: Costs, learned: Acceptance, longest: int) -> None:
        """`costs` and `learned` are shared by an engine's requests. `longest`: most tokens of a draft."""
        self._costs, self.longest = costs, longest
        self._acceptance = Acceptance(_WINDOW, learned)
        self._balance = 0.0  # seconds gained against plain decoding, with the slack
        self._drafting: dict[str, float] = {}  # seconds of a costly drafter's token
        self._pause: dict[str, tuple[int, int]] = {}  # tokens until the next probe, and the pause after that
        self.plain_seconds = 0.0
        """What plain decoding would have taken for the tokens so far."""

    def plan(self, free: Mapping[str, Proposal], costly: Iterable[str] = (), limit: int | None = None) -> Plan:
        """What to draft: of free drafters given their proposals, of costly ones before they draft."""
        longest = self.longest if limit is None else min(limit, self.longest)
        best, best_rate = PLAIN, 1 / self._costs.of(1)
        sizes = {name: (proposal.evidence, min(len(proposal.tokens), longest)) for name, proposal in free.items()}
        probe = PLAIN
        for name in costly:
            sizes[name] = (1, longest)
            if self._pause.get(name, (0, 0))[0] <= 0 < self._pause.get(name, (0, 0))[1]:
                probe = Plan(name, min(_PROBE, longest))
        for name, (evidence, most) in sizes.items():
            expected, chance = 1.0, 1.0
            for tokens in range(1, most + 1):
                chance *= self._acceptance.chance(name, evidence + tokens - 1)
                expected += chance
                seconds = self._seconds(name, tokens)
                if not self._affordable(seconds):
                    break
                if expected / seconds > best_rate:
                    best, best_rate = Plan(name, tokens), expected / seconds
        if best is PLAIN and probe.tokens and self._affordable(self._seconds(probe.drafter, probe.tokens)):
            return probe
        return best

    def learn(self, plan: Plan, proposals: Mapping[str, Proposal], written: Sequence[int]) -> None:
        """A step is over: what was planned, what was proposed (free drafters, and the plan's), what the target wrote.

        `written` has the accepted tokens and the target's own.
        """
        for name, proposal in proposals.items():
            for index, (proposed, token) in enumerate(zip(proposal.tokens, written, strict=False)):
                self._acceptance.observe(name, proposal.evidence + index, proposed == token)
                if proposed != token:
                    break
        plain = self._costs.of(1)
        self.plain_seconds += plain * len(written)
        self._balance += plain * len(written) * (1 + _SLACK) - self._seconds(plan.drafter, plan.tokens)
        for name, (left, pause) in self._pause.items():
            self._pause[name] = (left - len(written), pause)
        if plan.drafter in self._drafting:
            self._set_pause(plan, len(written))

    def learn_pass(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        self._costs.learn(tokens, seconds)

    def learn_drafting(self, drafter: str, tokens: int, seconds: float) -> None:
        """A costly drafter took so long for so many tokens."""
        each = seconds / max(tokens, 1)
        if not tokens:  # no plan has these seconds
            self._balance -= seconds
        self._drafting[drafter] = each if drafter not in self._drafting else 0.8 * self._drafting[drafter] + 0.2 * each

    def _set_pause(self, plan: Plan, written: int) -> None:
        """A draft that paid is taken up again at once; after one that did not, the next probe waits twice as long."""
        assert plan.drafter is not None
        if plan.tokens and written * self._costs.of(1) >= self._seconds(plan.drafter, plan.tokens):
            self._pause[plan.drafter] = (0, _FIRST_PAUSE)
        else:
            pause = self._pause.get(plan.drafter, (0, _FIRST_PAUSE))[1]
            self._pause[plan.drafter] = (pause, min(2 * pause, _LONGEST_PAUSE))

    def _seconds(self, drafter: str | None, tokens: int) -> float:
        drafting = 0.0 if drafter is None else self._drafting.get(drafter, 0.0)
        return self._costs.of(tokens + 1) + drafting * tokens

    def _affordable(self, seconds: float) -> bool:
        """Whether the request stays within its loss even if the target takes nothing."""
        plain = self._costs.of(1)
        return self._balance + plain * (1 + _SLACK) - seconds >= -_ALLOWANCE * plain
