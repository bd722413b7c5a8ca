"""Decides at every step who drafts, and how far: 0 tokens included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dynflow.speculation.acceptance import Acceptance
from dynflow.speculation.costs import Costs, DraftingCosts
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
    drafter is weighed against them at each step, its own seconds counted. While it seems not to pay it is probed, ever
    more rarely; so is one whose costs nobody knows. Whatever the estimates say, a plan must be affordable: even if
    nothing of it is taken, the request has lost no more against plain decoding than one plain pass and 1 %.
    """

    def __init__(self, costs: Costs, learned: Acceptance, longest: int, drafting: DraftingCosts | None = None) -> None:
        """`costs`, `learned` and `drafting` are shared by requests. `longest`: most tokens of a draft."""
        self._costs, self.longest = costs, longest
        self._acceptance = Acceptance(_WINDOW, learned)
        self._drafting = drafting or DraftingCosts()
        self._balance = 0.0  # seconds gained against plain decoding, with the slack
        self._pause: dict[str, tuple[int, int]] = {}  # of costly drafters: tokens until the next probe, and after that
        self.plain_seconds = 0.0
        """What plain decoding would have taken for the tokens so far."""

    def plan(self, free: Mapping[str, Proposal], costly: Iterable[str] = (), limit: int | None = None) -> Plan:
        """What to draft: of free drafters given their proposals, of costly ones before they draft."""
        longest = self.longest if limit is None else min(limit, self.longest)
        best, best_rate = PLAIN, 1 / self._costs.of(1)
        sizes = {name: (proposal.evidence, min(len(proposal.tokens), longest)) for name, proposal in free.items()}
        for name in (costly := tuple(costly)):
            self._pause.setdefault(name, (_FIRST_PAUSE, _FIRST_PAUSE))
            sizes[name] = (1, longest if self._drafting.of(name) is not None else min(_PROBE, longest))
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
        return self._probe(costly, best, best_rate, min(_PROBE, longest)) or best

    def _probe(self, costly: Iterable[str], best: Plan, best_rate: float, tokens: int) -> Plan | None:
        """A probe that is due, where it would win against the best plan if all of it were taken.

        In place of a draft, which is expected to win something, it is due later.
        """
        due = 0 if best is PLAIN else -_FIRST_PAUSE
        for name in costly:
            seconds = self._seconds(name, tokens)
            would_win = (tokens + 1) / seconds > best_rate
            if tokens and self._pause[name][0] <= due and would_win and self._affordable(seconds):
                return Plan(name, tokens)
        return None

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
        self._balance += plain * len(written) * (1 + _SLACK) - self._costs.of(plan.tokens + 1)
        for name, (left, pause) in self._pause.items():
            self._pause[name] = (left - len(written), pause)
        if plan.drafter in self._pause:
            if not plan.tokens:  # it was asked, and had nothing to say
                self._acceptance.observe(plan.drafter, 1, taken=False)
            self._set_pause(plan, len(written))

    def learn_pass(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        self._costs.learn(tokens, seconds)

    def learn_drafting(self, drafter: str, tokens: int, seconds: float) -> None:
        """A costly drafter took so long for so many tokens."""
        self._balance -= seconds
        self._drafting.learn(drafter, tokens, seconds)

    def _set_pause(self, plan: Plan, written: int) -> None:
        """A draft that paid is taken up again at once; after one that did not, the next probe waits twice as long."""
        assert plan.drafter is not None
        if plan.tokens and written * self._costs.of(1) >= self._seconds(plan.drafter, plan.tokens):
            self._pause[plan.drafter] = (0, _FIRST_PAUSE)
        else:
            pause = self._pause[plan.drafter][1]
            self._pause[plan.drafter] = (pause, min(2 * pause, _LONGEST_PAUSE))

    def _seconds(self, drafter: str | None, tokens: int) -> float:
        drafting = 0.0 if drafter is None else self._drafting.of(drafter) or 0.0
        return self._costs.of(tokens + 1) + drafting * tokens

    def _affordable(self, seconds: float) -> bool:
        """Whether the request stays within its loss even if the target takes nothing."""
        plain = self._costs.of(1)
        return self._balance + plain * (1 + _SLACK) - seconds >= -_ALLOWANCE * plain
