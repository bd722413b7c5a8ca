"""What `check` finds of an `adaptive_diffusion`'s options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dynflow.errors import DynflowError
from dynflow.language.references import Reference
from dynflow.language.types import number
from dynflow.learning.heads import located as head_located
from dynflow.node import BuildScope, Finding
from dynflow.nodes.adaptive_diffusion.deciders import turnings
from dynflow.nodes.adaptive_diffusion.options import finish_of
from dynflow.nodes.adaptive_diffusion.pipelines import located

_NOT_PROMISED = ("budget", "size", "guidance", "cache", "negative", "strength")
"""Options that change what a promise was calibrated on."""
_MAPPINGS = ("converge", "predict", "budget", "guidance", "cache")


def findings(options: Any, scope: BuildScope) -> Iterable[Finding]:
    """Faults that the options' types cannot show."""
    folder = scope.file.parent if scope.file is not None else scope.base
    try:
        located(scope.spec.models.get(options.model), folder)
    except DynflowError as error:
        yield Finding("bad_value", f"the model {options.model!r} draws nothing: {error}", ("model",))
    if isinstance(options.prompt, str) and not options.prompt.strip():
        yield Finding("bad_value", "there is nothing to draw: leave `prompt` out for the last user turn", ("prompt",))
    for name in ("converge", "predict", "budget", "cache", "quality"):
        if isinstance(getattr(options, name), Reference):
            text = f"`{name}` takes a mapping, whose values may be references"
            yield Finding("static_option", text, (name,))
    for name in _MAPPINGS:
        given = getattr(options, name)
        if isinstance(given, Mapping):
            yield from _of_numbers(name, given, scope)
    if isinstance(options.converge, Mapping) and options.quality is None and "threshold" not in options.converge:
        text = "`converge` needs a `threshold`, such as 0.1; only a calibrated `quality` sets it itself"
        yield Finding("bad_value", text, ("converge",))
    finish = finish_of(options.converge) if isinstance(options.converge, Mapping) else 0
    if finish and isinstance(options.steps, int) and not turnings(options.steps, finish):
        text = f"of {options.steps} steps never more than {finish} are left where one may stop: `finish` in fewer"
        yield Finding("bad_value", text, ("converge", "finish"))
    if isinstance(options.budget, Mapping) and len(options.budget) != 1:
        yield Finding("bad_value", "`budget` takes `steps` or `seconds`, one of them", ("budget",))
    if isinstance(options.cache, Mapping):
        first = options.cache["method"] == "first_block"
        stray = "every" if first else "threshold"
        if stray in options.cache:
            text = f"`{options.cache['method']}` takes {'a `threshold`' if first else '`every`'}, not `{stray}`"
            yield Finding("bad_value", text, ("cache", stray))
    if isinstance(options.predict, Mapping):
        yield from _of_predictor(options, head_located(options.predict["artefact"], folder), scope)
    elif options.quality is not None:
        text = "`quality` is a calibrated promise: it needs `predict` with the artefact that was calibrated for it"
        yield Finding("bad_value", text, ("quality",))
    yield from _of_size(options.size)
    if options.strength is None and options.image is not None:
        yield Finding("bad_value", "an `image` is redrawn by `strength`: say how much of it, such as 0.6", ("image",))
    elif isinstance(options.strength, (int, float)) and not 0 < options.strength <= 1:
        yield Finding("bad_value", "`strength` is more than 0 and at most 1", ("strength",))


def _of_numbers(name: str, given: Mapping[str, Any], scope: BuildScope) -> Iterator[Finding]:
    for key, value in given.items():
        if isinstance(value, Reference):
            if not number().accepts(kind := scope.type_of(value)):
                yield Finding("type_mismatch", f"`{key}` takes a number; {value} is {kind}", (name, key))
        elif key == "threshold" and value < 0:
            yield Finding("bad_value", "a threshold is 0 or more", (name, key))
        elif (key, name) == ("until", "guidance") and not 0 <= value <= 1:
            yield Finding("bad_value", "`until` is a share of the steps, 0…1", (name, key))


def _of_predictor(options: Any, artefact: str, scope: BuildScope) -> Iterator[Finding]:
    from dynflow.nodes.adaptive_diffusion.predictor import describe

    try:
        facts = describe(artefact)
    except DynflowError as error:
        yield Finding("bad_value", str(error), ("predict", "artefact"))
        return
    drawn = scope.spec.models.get(options.model)
    if drawn is not None and drawn.model != facts.model:
        text = f"the predictor was trained for the model {facts.model}, not for {drawn.model}"
        yield Finding("bad_value", text, ("predict", "artefact"))
    quantile = options.predict.get("quantile")
    if options.quality is None:
        try:
            facts.place(quantile)
        except ValueError as error:
            yield Finding("bad_value", str(error), ("predict", "quantile"))
        return
    given = [name for name in _NOT_PROMISED if getattr(options, name) is not None]
    given += [name for name in options.converge or () if name != "finish"]
    if given or quantile is not None:
        text = f"`quality` is promised as it was calibrated: leave `{given[0] if given else 'quantile'}` out"
        yield Finding("bad_value", text, ("quality",))
    try:
        contract = facts.contract(options.quality, finish_of(options.converge))
    except ValueError as error:
        if not scope.calibrating:
            yield Finding("bad_value", f"`quality`: {error}; `dynflow calibrate` does it", ("quality",))
        return
    if isinstance(options.steps, int) and options.steps != contract.steps:
        text = f"`quality` compares with {contract.steps} steps: set `steps` to that, or leave `quality` out"
        yield Finding("bad_value", text, ("steps",))


def _of_size(size: Any) -> Iterator[Finding]:
    if size is None or isinstance(size, Reference):
        return
    sides = [size] if isinstance(size, int) else size
    if not 1 <= len(sides) <= 2 or any(isinstance(side, int) and side < 1 for side in sides):
        yield Finding("bad_value", "`size` is one side or [width, height], in pixels", ("size",))
