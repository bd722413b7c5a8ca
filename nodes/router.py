"""`router`: one choice among answer nodes, by score bands or by label."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import Field

from dynflow.errors import NodeFailed
from dynflow.language.references import Reference
from dynflow.language.source import did_you_mean
from dynflow.language.types import PortType, enum, number, record
from dynflow.node import AnswerNames, BuildScope, Call, Finding, Node, NodeOptions, Output


class Router(Node):
    """Choose a route."""

    type = "router"
    summary = "chooses one of several answer nodes, by score bands or by label; edges compare its `choice`"
    can_answer: ClassVar[bool] = False
    instant: ClassVar[bool] = True

    class Options(NodeOptions):
        """Either `score` with `bands`, or `label` with `labels`."""

        static: ClassVar[frozenset[str]] = frozenset({"labels"})

        routes: AnswerNames = Field(min_length=1, description="ids of answer nodes, cheapest first")
        score: float | None = Field(default=None, description="a reference such as ${difficulty.score}")
        bands: list[float | Reference] | None = Field(
            default=None,
            description="ascending bounds, one fewer than routes: a score at or above bound i takes route i+1",
        )
        label: str | None = Field(default=None, description="a reference such as ${topic.label}")
        labels: dict[str, str] | None = Field(default=None, description="label: route")

    ports: ClassVar[Mapping[str, PortType]] = {
        "choice": enum((), "the route chosen"),
        "score": number("the score it was chosen by; null when chosen by label"),
        "quality": record(None, "predicted quality by route; null where no estimator gives it"),
    }

    @classmethod
    def output_ports(cls, options: Any, scope: BuildScope) -> Mapping[str, PortType]:
        return {**cls.ports, "choice": enum(options.routes, "the route chosen")}

    @classmethod
    def can_fail(cls, options: Any, scope: BuildScope) -> bool:
        if options.label is not None:  # labels of a closed set are all covered, or `check` refuses
            return not (isinstance(options.label, Reference) and scope.type_of(options.label).values)
        return any(isinstance(band, Reference) for band in options.bands or ()) and len(options.bands) > 1

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        by_score, by_label = options.score is not None, options.label is not None
        if by_score == by_label:
            yield Finding("exclusive_options", "a router needs `score` with `bands`, or `label` with `labels`")
            return
        if by_score:
            yield from _check_bands(options)
        else:
            yield from _check_labels(options, scope)

    def run(self, call: Call) -> Output:
        options = call.options
        if self.options.score is not None:
            if options.score is None:
                raise NodeFailed("the score is null, so no band holds it")
            bands = list(options.bands or ())
            if bands != sorted(bands):
                raise NodeFailed(f"the bands must ascend: {bands}")
            choice = options.routes[bisect_right(bands, options.score)]
            return Output({"choice": choice, "score": options.score, "quality": None})
        choice = options.labels.get(options.label)
        if choice is None:
            raise NodeFailed(f"no route is given for the label {options.label!r}")
        return Output({"choice": choice, "score": None, "quality": None})

    async def arun(self, call: Call) -> Output:
        return self.run(call)


def _check_bands(options: Any) -> Iterable[Finding]:
    if options.labels is not None:
        yield Finding("exclusive_options", "`labels` goes with `label`: give `label`, or remove `labels`", ("labels",))
    bands = options.bands or []
    if len(bands) != len(options.routes) - 1:
        text = f"{len(options.routes)} routes take bands one fewer: {len(options.routes) - 1}; there are {len(bands)}"
        yield Finding("bad_bands", text, ("bands",) if options.bands else ())
    literal = [band for band in bands if isinstance(band, float)]
    if literal != sorted(literal):
        yield Finding("bad_bands", "the bands must ascend: sort them", ("bands",))


def _check_labels(options: Any, scope: BuildScope) -> Iterable[Finding]:
    if options.bands is not None:
        yield Finding("exclusive_options", "`bands` goes with `score`: give `score`, or remove `bands`", ("bands",))
    labels = options.labels or {}
    if not labels:
        yield Finding("missing_key", "`labels:` is missing: a mapping from label to route")
        return
    for label, route in labels.items():
        if route not in options.routes:
            hint = did_you_mean(route, options.routes)
            yield Finding("unknown_node", f"{route!r} is none of the routes{hint}", ("labels", label))
    if isinstance(options.label, Reference):
        known = scope.type_of(options.label).values
        for label in sorted(set(known or ()) - labels.keys()):
            yield Finding("uncovered_label", f"the label {label!r} has no route: add it", ("labels",))
        for label in sorted(labels.keys() - set(known or labels)):
            yield Finding(
                "not_in_enum",
                f"{label!r} is none of the labels{did_you_mean(label, known or ())}",
                ("labels", label),
                key=True,
            )
