"""What `dynflow check` says of a router's options before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dynflow.language.references import Reference
from dynflow.language.source import did_you_mean
from dynflow.models.known import known
from dynflow.node import BuildScope, Finding
from dynflow.nodes.router.scorers import TIERS

_RULES = ("score", "scorer", "label", "objective", "always")
_WITH: Mapping[str, tuple[str, ...]] = {
    "bands": ("score", "scorer"),
    "labels": ("label", "scorer"),
    "seed": ("scorer",),
    "utterances": ("scorer",),
    "quality": ("objective",),
    "floor": ("objective",),
    "max_usd": ("objective",),
    "answer_tokens": ("objective",),
    "unsure": ("bands",),
    "confidence": ("sure_from",),
    "sure_from": ("confidence",),
    "sticky": ("bands", "objective"),
    "conversation": ("sticky",),
}
"""Options that go with one of these others."""
_BOUND = {"cheapest": "floor", "best": "max_usd"}


def findings(options: Any, scope: BuildScope) -> Iterable[Finding]:
    """Faults of a router's options that their types cannot show."""
    rules = [name for name in _RULES if _given(options, name)]
    if len(rules) != 1:
        more = f", not {' and '.join(map(repr, rules))} together" if rules else ""
        text = "`score` with `bands`, `label` with `labels`, a `scorer`, an `objective`, or `always`"
        yield Finding("exclusive_options", f"a router needs one rule: {text}{more}")
        return
    yield from _lonely(options)
    yield from _abstention(options)
    match rules[0]:
        case "score":
            yield from _bands(options)
        case "label":
            known_labels = scope.type_of(options.label).values if isinstance(options.label, Reference) else None
            yield from _labels(options, known_labels)
        case "scorer":
            yield from _scorer(options)
        case "objective":
            yield from _objective(options, scope)
        case "always" if isinstance(options.always, str):
            yield from _among_routes(options, options.always, ("always",))


def can_fail(options: Any, scope: BuildScope) -> bool:
    """Whether such a router can fail."""
    bands = options.bands or ()
    if isinstance(bands, Reference) or (len(bands) > 1 and any(isinstance(band, Reference) for band in bands)):
        return True  # they may come in the wrong order
    if isinstance(options.always, Reference) or options.scorer == "litellm":
        return True
    if options.abstain is not None:
        return False
    if options.label is not None:  # labels of a closed set are all covered, or `check` refuses
        return not (isinstance(options.label, Reference) and scope.type_of(options.label).values)
    return options.objective is not None and _predicted(options, scope) is None


def _given(options: Any, name: str) -> bool:
    return getattr(options, name) is not None


def _lonely(options: Any) -> Iterable[Finding]:
    """Options whose companion is missing."""
    for name, companions in _WITH.items():
        if _given(options, name) and not any(_given(options, other) for other in companions):
            needed = " or ".join(f"`{other}`" for other in companions)
            text = f"`{name}` goes with {needed}: give {needed}, or remove `{name}`"
            yield Finding("exclusive_options", text, (name,))
    if _given(options, "seed") and options.scorer == "litellm":
        yield Finding("exclusive_options", "`seed` goes with `scorer: random`: remove it", ("seed",))


def _abstention(options: Any) -> Iterable[Finding]:
    if isinstance(options.abstain, str):
        yield from _among_routes(options, options.abstain, ("abstain",))
    doubts = [name for name in ("unsure", "sure_from") if _given(options, name)]
    if doubts and options.abstain is None:
        yield Finding("missing_key", f"`abstain:` is missing: the route that `{doubts[0]}` sends a request to")
    if _given(options, "unsure") and not isinstance(options.unsure, Reference):
        if len(options.unsure) != 2:
            text = f"`unsure` takes two bounds, the lower first; there are {len(options.unsure)}"
            yield Finding("bad_bands", text, ("unsure",))
        elif _descends(options.unsure):
            yield Finding("bad_bands", "`unsure` takes the lower bound first: swap them", ("unsure",))


def _bands(options: Any) -> Iterable[Finding]:
    if isinstance(options.bands, Reference):
        return  # the run tells
    bands = options.bands or []
    if len(bands) != len(options.routes) - 1:
        text = f"{len(options.routes)} routes take bands one fewer: {len(options.routes) - 1}; there are {len(bands)}"
        yield Finding("bad_bands", text, ("bands",) if options.bands else ())
    if _descends(bands):
        yield Finding("bad_bands", "the bands must ascend: sort them", ("bands",))


def _descends(bounds: Sequence[Any]) -> bool:
    literal = [bound for bound in bounds if not isinstance(bound, Reference)]
    return any(low > high for low, high in itertools.pairwise(literal))


def _labels(options: Any, known_labels: Iterable[str] | None) -> Iterable[Finding]:
    labels = options.labels or {}
    if not labels:
        yield Finding("missing_key", "`labels:` is missing: a mapping from label to route")
        return
    for label, route in labels.items():
        yield from _among_routes(options, route, ("labels", label))
    if known_labels is None:
        return
    for label in sorted(set(known_labels) - labels.keys()) if options.abstain is None else ():
        text = f"the label {label!r} has no route: add it, or give `abstain`, the route of labels without one"
        yield Finding("uncovered_label", text, ("labels",))
    for label in sorted(labels.keys() - set(known_labels)):
        hint = did_you_mean(label, list(known_labels))
        yield Finding("not_in_enum", f"{label!r} is none of the labels{hint}", ("labels", label), key=True)


def _scorer(options: Any) -> Iterable[Finding]:
    given = [name for name in ("bands", "labels", "utterances") if _given(options, name)]
    if len(given) > 1:
        text = "give `bands` for the score, `labels` for the tier, or `utterances`: one of them"
        yield Finding("exclusive_options", text, (given[1],))
    elif options.scorer == "random" and given and given != ["bands"]:
        yield Finding("exclusive_options", f"`scorer: random` goes with `bands`: remove `{given[0]}`", (given[0],))
    elif given == ["labels"]:
        yield from _labels(options, TIERS)
    elif given == ["utterances"]:
        yield from _utterances(options)
    else:
        yield from _bands(options)


def _utterances(options: Any) -> Iterable[Finding]:
    if options.abstain is None:
        yield Finding("missing_key", "`abstain:` is missing: the route of a request that is like none of `utterances`")
    for route, texts in options.utterances.items():
        yield from _among_routes(options, route, ("utterances", route), key=True)
        if not texts:
            yield Finding("too_few", f"{route!r} has no utterances: add some, or remove it", ("utterances", route))


def _objective(options: Any, scope: BuildScope) -> Iterable[Finding]:
    bound = _BOUND[options.objective]
    if not _given(options, bound):
        text = f"`{bound}:` is missing: the bound of `objective: {options.objective}`"
        yield Finding("missing_key", text, ("objective",))
    for other in _BOUND.values():
        if other != bound and _given(options, other):
            text = f"`{other}` is not of `objective: {options.objective}`, which takes `{bound}`: remove it"
            yield Finding("exclusive_options", text, (other,))
    if options.quality is None:
        yield Finding("missing_key", "`quality:` is missing: what is predicted for each route", ("objective",))
        return
    if not isinstance(options.quality, Reference):
        for name, value in options.quality.items():
            yield from _among_routes(options, name, ("quality", name), key=True)
            if isinstance(value, float) and not 0 <= value <= 1:
                yield Finding("bad_value", f"a quality is from 0 to 1; {value:g} is not", ("quality", name))
    predicted = _predicted(options, scope)
    for route in options.routes:
        if predicted is not None and route not in predicted:
            text = f"no quality is predicted for the route {route!r}: add it, as a number or a reference"
            yield Finding("uncovered_route", text, ("quality",))
    yield from _prices(options, scope)


def _predicted(options: Any, scope: BuildScope) -> frozenset[str] | None:
    """Routes that a quality is predicted for; None where only the run tells."""
    if isinstance(options.quality, Reference):
        fields = scope.type_of(options.quality).fields
        return None if fields is None else frozenset(fields)
    return frozenset(options.quality or ())


def _prices(options: Any, scope: BuildScope) -> Iterable[Finding]:
    """Routes whose model has no known price: an objective can then not weigh them."""
    for index, route in enumerate(options.routes):
        model = scope.spec.nodes[route].options.get("model") if route in scope.spec.nodes else None
        settings = scope.spec.models.get(model) if isinstance(model, str) else None
        if settings is None or not isinstance(settings.model, str) or known(settings).price is not None:
            continue
        unweighed = "counts as the dearest" if options.objective == "cheapest" else "is never affordable"
        text = f"the price of {route!r} is not known, so it {unweighed}: give the model {model!r} a `price:`"
        yield Finding("unknown_price", text, ("routes", index), "warning")


def _among_routes(options: Any, route: str, path: tuple[str | int, ...], key: bool = False) -> Iterable[Finding]:
    if route not in options.routes:
        hint = did_you_mean(route, options.routes)
        yield Finding("unknown_node", f"{route!r} is none of the routes{hint}", path, key=key)
