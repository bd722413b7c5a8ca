"""`router`: one choice among answer nodes, by score bands, by label, or by predicted quality and price."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AllowInfNan, Field

from dynflow.errors import NodeFailed
from dynflow.language.references import Reference
from dynflow.language.types import PortType, enum, number, record
from dynflow.node import AnswerNames, BuildScope, Call, Finding, Memory, Node, NodeOptions, Output, Takes
from dynflow.nodes.router import checks, rules, scorers
from dynflow.nodes.router.compared import pairs
from dynflow.nodes.router.conversations import Conversations
from dynflow.nodes.router.rules import Choice, Route

if TYPE_CHECKING:
    from dynflow.nodes.router.auto import AutoRouter
    from dynflow.request import Request

Measured = Annotated[float, AllowInfNan(True)]
"""What a signal tells of a request. It may be no number, as `score` and `confidence` may: the rules judge that."""


class Router(Node):
    """Choose a route. Same request, options and conversation: same choice."""

    type = "router"
    summary = "chooses one of several answer nodes, by score, label, or quality and price; edges compare its `choice`"
    can_answer: ClassVar[bool] = False
    instant: ClassVar[bool] = True

    class Options(NodeOptions):
        """One rule: `score` with `bands`, `label` with `labels`, a `scorer`, an `objective`, or `always`."""

        static: ClassVar[frozenset[str]] = frozenset(
            {"labels", "scorer", "seed", "utterances", "objective", "answer_tokens", "abstain", "conversation"}
        )

        routes: AnswerNames = Field(min_length=1, description="ids of answer nodes, cheapest first")
        score: float | None = Field(
            default=None, allow_inf_nan=True, description="a reference such as ${difficulty.score}"
        )
        bands: list[float | Reference] | None = Field(
            default=None,
            description="ascending bounds, one fewer than routes: a score at or above bound i takes route i+1",
        )
        label: str | None = Field(default=None, description="a reference such as ${topic.label}")
        labels: dict[str, str] | None = Field(default=None, description="label: route")
        scorer: Literal["random", "litellm"] | None = Field(
            default=None,
            description="to compare with: `random`, a number 0…1 drawn for each request; `litellm`, the score, or with "
            "`labels` the tier, of LiteLLM's complexity router, or with `utterances` its auto router",
        )
        seed: int | None = Field(default=None, description="of `scorer: random`; default 0")
        utterances: dict[str, list[str]] | None = Field(
            default=None, description="route: requests like those that it is to take; others go to `abstain`"
        )
        always: str | None = Field(default=None, description="to compare with: this route for every request")
        objective: Literal["cheapest", "best"] | None = Field(
            default=None,
            description="`cheapest` route with a predicted quality from `floor`, or `best` one for up to `max_usd`",
        )
        quality: Annotated[dict[str, Measured | Reference | None], Takes(("record",))] | None = Field(
            default=None,
            description="predicted quality by route, 0…1: a reference such as ${difficulty.quality}, or a mapping",
        )
        floor: float | None = Field(default=None, ge=0, le=1, description="least quality that `cheapest` accepts")
        max_usd: float | None = Field(default=None, ge=0, description="what an answer may cost that `best` accepts")
        answer_tokens: int | None = Field(
            default=None, gt=0, description="length that prices are compared at, up to each model's max_tokens; 256"
        )
        abstain: str | None = Field(
            default=None,
            description="route to take in doubt: see `unsure`, `sure_from`; also without a score, label or prediction",
        )
        unsure: list[float | Reference] | None = Field(
            default=None, description="two bounds: a score from the first to below the second goes to `abstain`"
        )
        confidence: float | None = Field(
            default=None, allow_inf_nan=True, description="a reference such as ${difficulty.confidence}"
        )
        sure_from: float | None = Field(default=None, description="a lower `confidence` goes to `abstain`")
        sticky: float | None = Field(
            default=None,
            ge=0,
            description="a conversation keeps its route until score or quality are this far over the line",
        )
        conversation: str | None = Field(
            default=None, description='key of config["configurable"] that names the conversation; default thread_id'
        )

    ports: ClassVar[Mapping[str, PortType]] = {
        "choice": enum((), "the route chosen"),
        "score": number("what it was chosen by: score, or predicted quality of the choice; null if by label"),
        "quality": record(None, "predicted quality by route; null without an objective"),
        "prices": record(None, "expected USD by route, where known; null without an objective"),
        "reason": enum(
            rules.REASONS,
            "the rule, or why not: the conversation keeps its route, the rule does not decide, no route reaches the "
            "objective's bound, the rule's route cannot take the request",
        ),
    }

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        return {**cls.ports, "choice": enum(options.routes, "the route chosen")}

    @classmethod
    def can_fail(cls, options: Any, scope: BuildScope) -> bool:
        return checks.can_fail(options, scope)

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        return checks.findings(options, scope)

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._conversations = Conversations()
        self._auto: AutoRouter | None = None

    @property
    def remembers(self) -> Memory | None:
        return None if self.options.sticky is None else Memory(self._conversation_key, "choice")

    def compared(self) -> Mapping[str, Sequence[tuple[Any, Any]]]:
        own = {None: self.options.score, "random": self._chance, "litellm": _complexity}[self.options.scorer]
        return pairs(self.options, own, self._price)

    def warm_up(self) -> None:
        if self.options.utterances is not None and self._auto is None:
            from dynflow.nodes.router.auto import AutoRouter

            self._auto = AutoRouter(self.options.utterances)
        elif self.options.scorer == "litellm":
            scorers.warm_up()

    def run(self, call: Call) -> Output:
        options = call.options
        routes = self._routes(call)
        conversation = self._conversation(call)
        kept = self._conversations.route(conversation) if conversation else call.remembered
        choice = self._choice(call, routes, kept)
        if conversation:
            self._conversations.keep(conversation, choice.route)
        by_objective = options.objective is not None
        return Output(
            {
                "choice": choice.route,
                "score": choice.score,
                "quality": _known(routes, "quality") if by_objective else None,
                "prices": _known(routes, "usd") if by_objective else None,
                "reason": choice.reason,
            },
            notes=(choice.why, *(f"closed: {route.name} ({route.closed})" for route in routes if route.closed)),
        )

    async def arun(self, call: Call) -> Output:
        return self.run(call) if self._auto is None else await super().arun(call)

    def _routes(self, call: Call) -> list[Route]:
        """What is known of each route; where all are closed, which the walk will find, none counts as closed."""
        options, request, resources = call.options, call.request, self.resources
        shut = call.closed.intersection(options.routes)
        routes = [
            Route(
                name, resources.why_closed(name, request) if name in shut and len(shut) < len(options.routes) else None
            )
            for name in options.routes
        ]
        if options.objective is None:
            return routes
        quality = options.quality or {}
        return [
            replace(route, quality=_number(quality.get(route.name)), usd=self._usd(route.name, request))
            for route in routes
        ]

    def _usd(self, route: str, request: Request) -> float | None:
        return self.resources.expected_usd(route, request, self.options.answer_tokens or _ANSWER_TOKENS)

    def _price(self, route: str, request: Request) -> float:
        usd = self._usd(route, request)
        return math.inf if usd is None else usd

    def _conversation(self, call: Call) -> str | None:
        """The conversation's name, where the router is sticky and the caller gives one."""
        if self.options.sticky is None:
            return None
        name = call.configurable.get(self._conversation_key)
        return str(name) if name is not None else None

    @property
    def _conversation_key(self) -> str:
        return self.options.conversation or "thread_id"

    def _choice(self, call: Call, routes: Sequence[Route], kept: str | None) -> Choice:
        """Raises `NodeFailed` where the rule does not decide, and no route is stated for that."""
        options = call.options
        margin = options.sticky or 0.0
        score, label = self._measured(call)
        alike, cause = self._auto.route(call.request.text) if self._auto is not None else (None, "")
        doubt = cause if self._auto is not None and alike is None else self._doubt(options, score, label)
        if doubt is not None:
            if kept is not None and kept in (route.name for route in routes if route.closed is None):
                return Choice(kept, "kept", score, f"the conversation keeps {kept}; by itself: {doubt}")
            if options.abstain is None:
                raise NodeFailed(doubt if label is None else f"{doubt} {label!r}")
            return replace(rules.abstained(routes, options.abstain, doubt), score=score)
        if options.objective == "cheapest":
            return rules.cheapest(routes, options.floor, kept, margin)
        if options.objective == "best":
            return rules.best(routes, options.max_usd, kept, margin)
        if alike is not None:
            return rules.by_name(routes, alike, f"{cause}: {alike}")
        if options.always is not None:
            return rules.by_name(routes, options.always, f"always {options.always}")
        if options.labels is not None:
            choice = rules.by_name(routes, options.labels[label], f"label {label}: {options.labels[label]}")
            return replace(choice, score=score)
        assert score is not None
        return rules.by_bands(routes, options.bands, score, kept, margin)

    def _measured(self, call: Call) -> tuple[float | None, str | None]:
        """Score and label that the rule reads; None where it reads none, or there is none."""
        if self.options.scorer == "random":
            return self._chance(call.request), None
        if self.options.scorer == "litellm" and self._auto is None:
            tier, score = scorers.complexity(call.request.text)
            return score, tier
        return call.options.score, call.options.label

    def _chance(self, request: Request) -> float:
        return scorers.chance(request, self.options.seed or 0)

    def _doubt(self, options: Any, score: float | None, label: str | None) -> str | None:
        """Why the rule does not decide, in words. Raises `NodeFailed` where what it goes by makes no sense."""
        self._check_bounds(options)
        if options.bands is not None and (score is None or math.isnan(score)):
            return "the score is null, so no band holds it"
        if options.labels is not None and label not in options.labels:
            return "no route is given for the label"  # which may be content, and this may go on record
        if options.objective is not None and not any(name in (options.quality or {}) for name in options.routes):
            return "no quality is predicted for any route"
        sure = options.confidence
        if self.options.confidence is not None and not (sure is not None and sure >= options.sure_from):
            return f"confidence {'null' if sure is None else f'{sure:.4g}'}, sure from {options.sure_from:.4g}"
        if options.unsure is not None and score is not None and options.unsure[0] <= score < options.unsure[1]:
            return f"score {score:.4g}, unsure from {options.unsure[0]:.4g} to {options.unsure[1]:.4g}"
        return None

    def _check_bounds(self, options: Any) -> None:
        """Raise `NodeFailed` where what references gave makes no rule."""
        for name in ("floor", "max_usd", "sure_from", "bands", "unsure"):
            if getattr(self.options, name) is not None and getattr(options, name) is None:
                raise NodeFailed(f"`{name}` is null")
        if options.bands is not None and len(options.bands) != len(options.routes) - 1:
            raise NodeFailed(f"{len(options.routes)} routes take bands one fewer: {options.bands}")
        if options.bands is not None and options.bands != sorted(options.bands):
            raise NodeFailed(f"the bands must ascend: {options.bands}")
        if options.unsure is not None and len(options.unsure) != 2:
            raise NodeFailed(f"`unsure` takes two bounds: {options.unsure}")
        if self.options.always is not None and options.always not in options.routes:
            raise NodeFailed(f"`always` is {options.always!r}, none of the routes {', '.join(options.routes)}")


_ANSWER_TOKENS = 256


def _complexity(request: Request) -> float:
    return scorers.complexity(request.text)[1]


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _known(routes: Sequence[Route], name: str) -> dict[str, float]:
    """What is known of the routes, by route."""
    found = {route.name: getattr(route, name) for route in routes}
    return {route: float(value) for route, value in found.items() if value is not None}
