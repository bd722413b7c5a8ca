"""`adaptive_diffusion`: draws an image from a text, in as many denoising steps as this text needs."""

from __future__ import annotations

import base64
import io
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from langchain_core.messages import AIMessage
from pydantic import Field, FiniteFloat

from dynflow.energy import Meter
from dynflow.errors import DynflowError, InputError, NodeFailed
from dynflow.language.references import Reference
from dynflow.language.spec import Role
from dynflow.language.types import PortType, integer, number
from dynflow.ledger import Compute, Usage
from dynflow.node import AnswerType, BuildScope, Call, Cancelled, Finding, ModelName, Node, NodeOptions, Output, Takes
from dynflow.nodes.adaptive_diffusion.deciders import Account, BudgetOfSeconds, BudgetOfSteps, Converge
from dynflow.nodes.adaptive_diffusion.options import (
    BudgetOption,
    CacheOption,
    ConvergeOption,
    GuidanceOption,
    PredictOption,
    QualityOption,
    finish_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from dynflow.calibration.rules import ContractRule
    from dynflow.models.diffusers import LoadedPipeline
    from dynflow.nodes.adaptive_diffusion.deciders import Decider
    from dynflow.nodes.adaptive_diffusion.drawing import Drawn, Look, Order
    from dynflow.nodes.adaptive_diffusion.predictor import Predictor
    from dynflow.request import Request

_LOOK = 0.05
"""Seconds between looks at whether anybody still waits, while the pipeline is busy with other requests."""


class AdaptiveDiffusion(Node):
    """Draw an image in as few steps as it needs."""

    type = "adaptive_diffusion"
    role: ClassVar[Role] = "answer"
    summary = "draws an image from a text, in as many denoising steps as it needs"
    extra = "diffusers"
    batches: ClassVar[bool] = True

    class Options(NodeOptions):
        """Which pipeline, what to draw, and what decides its steps."""

        model: ModelName = Field(
            description="an entry of `models:` whose provider is `diffusers`: embedded/shapes, a folder, or a hub id"
        )
        prompt: str | None = Field(default=None, description="what to draw; default: the last user turn")
        negative: str | None = Field(default=None, description="what not to draw, where the pipeline takes it")
        steps: int = Field(default=50, ge=1, le=1000, description="denoising steps, or the most where others decide")
        converge: ConvergeOption | None = Field(
            default=None, description="stop where the predicted clean image no longer moves, and keep that image"
        )
        predict: PredictOption | None = Field(default=None, description="plan the steps from the prompt")
        quality: QualityOption | None = Field(
            default=None,
            description="keep a promise that the predictor was calibrated for; it sets the deciders itself",
        )
        budget: BudgetOption | None = Field(
            default=None, description="hold mean `steps` or `seconds` per image: hard ones get what easy ones leave"
        )
        size: int | list[int] | None = Field(
            default=None, description="side, or [width, height], in pixels; default: the pipeline's own"
        )
        guidance: FiniteFloat | GuidanceOption | None = Field(
            default=None, description="guidance scale, or `scale` and `until`; default: the pipeline's own"
        )
        cache: CacheOption | None = Field(
            default=None, description="keep parts of the denoiser's work between steps, where diffusers can"
        )
        strength: FiniteFloat | None = Field(
            default=None, description="begin with the request's image, and redraw this share of its noise, 0…1"
        )
        image: Annotated[Reference | str | None, Takes(("image", "string", "message", "messages", "record"))] = Field(
            default=None,
            description="what `strength` redraws: an image, or a file's path; default: that in the last user turn",
        )
        seed: int | None = Field(default=None, ge=0, lt=2**63, description="of the noise; default: a new one each time")

    ports: ClassVar[Mapping[str, PortType]] = {
        "image": PortType("image", "the image, a content block with PNG bytes in base64"),
        "steps": integer("times that the denoiser was called"),
        "planned": integer("steps that were planned: the length of its schedule"),
        "quality": number("share of new prompts that `quality` is promised for, 0…1; null without a promise"),
    }

    @classmethod
    def check(cls, options: Any, scope: BuildScope) -> Iterable[Finding]:
        from dynflow.nodes.adaptive_diffusion.checks import findings

        return findings(options, scope)

    @classmethod
    def sees(cls, options: Any) -> bool:
        return options.strength is not None

    @classmethod
    def streams(cls, options: Any) -> bool:
        return False

    @classmethod
    def answer_type(cls, options: Any, scope: BuildScope) -> AnswerType:
        return AIMessage

    def __init__(self, node_id: str, options: Any, resources: Any) -> None:
        super().__init__(node_id, options, resources)
        self._pipeline: LoadedPipeline | None = None
        self._account = Account()

    @property
    def _loaded(self) -> LoadedPipeline:
        if self._pipeline is None:
            from dynflow.nodes.adaptive_diffusion.pipelines import loaded, located

            folder: Path | None = self.resources.folder
            self._pipeline = loaded(located(self.resources.model_settings(self.options.model), folder), folder)
        return self._pipeline

    @cached_property
    def _predictor(self) -> Predictor:
        from dynflow.learning.heads import located
        from dynflow.nodes.adaptive_diffusion.predictor import Predictor, describe

        return Predictor(describe(located(self.options.predict["artefact"], self.resources.folder)))

    def contract_rule(self) -> ContractRule | None:
        if self.options.quality is None:
            return None
        from dynflow.nodes.adaptive_diffusion.contract import rule_of

        settings = self.resources.model_settings(self.options.model)
        finish = finish_of(self.options.converge)
        return rule_of(self._predictor, settings, self.resources.folder, self.options.quality, finish)

    def trained_on(self, request: Request) -> bool:
        own = self.options.prompt is None and self.options.predict is not None
        return own and self._predictor.trained_on(request.text)

    def warm_up(self) -> None:
        self._loaded  # noqa: B018
        if self.options.predict is not None:
            self._predictor.warm_up()

    def close(self) -> None:
        self._pipeline = None

    def run(self, call: Call) -> Output:
        [result] = self._drawn([call], call.check)
        if isinstance(result, Exception):
            raise result
        return result

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        def check() -> None:
            if all(call.called_off() for call in calls):
                raise Cancelled

        return self._drawn(calls, check)

    def _drawn(self, calls: Sequence[Call], check: Callable[[], None]) -> list[Output | Exception]:
        """What each call gives, once the pipeline is free. Raises `Cancelled` where nobody waits any more."""
        if threading.current_thread().daemon:
            from dynflow.models.apart import apart

            return apart(lambda: self._in_turn(calls, check))
        return self._in_turn(calls, check)

    def _in_turn(self, calls: Sequence[Call], check: Callable[[], None]) -> list[Output | Exception]:
        from dynflow.nodes.adaptive_diffusion.drawing import draw, redrawing

        loaded = self._loaded
        while not loaded.turn.acquire(timeout=_LOOK):
            check()
        orders: dict[int, Order] = {}
        drawn: Mapping[int, Drawn | Exception] = {}
        results: list[Output | Exception] = [Cancelled()] * len(calls)
        try:
            _use_threads(self.resources.model_settings(self.options.model).threads)
            for place, call in enumerate(calls):
                try:
                    orders[place] = self._order(call)
                except DynflowError as error:
                    results[place] = error
            meter = Meter()
            pipeline = loaded.pipeline if self.options.strength is None else redrawing(loaded.pipeline)
            drawn = dict(zip(orders, draw(pipeline, list(orders.values()), check), strict=True))
            measured = meter.read() if len(calls) == 1 else None
        finally:
            loaded.turn.release()
            for place, order in orders.items():
                _settle(order, drawn.get(place))
        for place, found in drawn.items():
            if isinstance(found, Exception):
                results[place] = found
            else:
                compute = measured or Compute(found.seconds)
                order = orders[place]
                most = replace(order, planned=calls[place].options.steps).walked
                results[place] = self._output(found, order, most, compute)
        return results

    def _order(self, call: Call) -> Order:
        """What is to be drawn, planned by the deciders. Raises InputError or NodeFailed for what cannot be."""
        from dynflow.nodes.adaptive_diffusion.beginning import beginning
        from dynflow.nodes.adaptive_diffusion.drawing import Order

        options = call.options
        prompt = str(call.request.text if options.prompt is None else options.prompt)
        if not prompt.strip():
            raise InputError("there is nothing to draw: the prompt is empty")
        look = look_of(options)
        start = None if options.strength is None else beginning(options.image, call.request)
        planned, decisions = options.steps, []
        for decider in self._deciders(options):
            decision = decider.decide(prompt, planned)
            planned = decision.planned
            decisions.append(decision)
        seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
        return Order(prompt, seed, planned, look, options.negative, decisions, start)

    def _deciders(self, options: Any) -> Iterable[Decider]:
        """In the order in which they plan: a budget holds what the others leave of it."""
        predict, converge = options.predict, options.converge
        if options.quality is not None:
            contract = self._predictor.facts.contract(options.quality, finish_of(converge))
            predict = {"quantile": contract.quantile}
            kept = {"threshold": contract.threshold, "finish": contract.finish}
            converge = None if contract.threshold is None else kept
        if predict is not None:
            from dynflow.nodes.adaptive_diffusion.predictor import Predict

            yield Predict(self._predictor, predict["quantile"])
        if converge is not None:
            yield converge_of(converge)
        if options.budget is not None:
            kind = BudgetOfSteps if "steps" in options.budget else BudgetOfSeconds
            [mean] = options.budget.values()
            yield kind(mean, self._account)

    def _output(self, drawn: Drawn, order: Order, most: int, compute: Compute) -> Output:
        """`most` is the steps that it takes without deciders."""
        from dynflow.nodes.adaptive_diffusion.pipelines import doubt

        buffer = io.BytesIO()
        drawn.image.save(buffer, format="PNG")
        image = {
            "type": "image",
            "mime_type": "image/png",
            "base64": base64.b64encode(buffer.getvalue()).decode("ascii"),
        }
        promised = self.options.quality["for"] if self.options.quality else None
        doubted = doubt(self.resources.model_settings(self.options.model), order.prompt)
        saved = drawn.seconds / max(1, drawn.steps) * max(0, most - drawn.steps)
        about = {
            "model_name": self.resources.model_settings(self.options.model).model,
            "steps": drawn.steps,
            "planned": order.walked,
            "most": most,
            "seed": order.seed,
            "size": list(drawn.image.size),
            "seconds": round(drawn.seconds, 6),
            "saved_seconds": round(saved, 6),
        }
        return Output(
            {"image": image, "steps": drawn.steps, "planned": order.walked, "quality": promised},
            AIMessage([image], response_metadata=about),
            Usage(self.options.model, compute=compute),
            (_told(drawn, order, most, saved), *drawn.notes, *([doubted] if doubted else [])),
        )


def converge_of(given: Mapping[str, Any]) -> Converge:
    """The decider of the option `converge`. Raises NodeFailed for a threshold that is none."""
    if not given["threshold"] >= 0:
        raise NodeFailed(f"`converge`: a threshold is 0 or more, not {given['threshold']}")
    return Converge(**given)


def look_of(options: Any) -> Look:
    """Size and guidance as the options give them. Raises InputError for what is none."""
    from dynflow.nodes.adaptive_diffusion.caching import Cache
    from dynflow.nodes.adaptive_diffusion.drawing import Look

    sides = [options.size] if isinstance(options.size, int) else options.size or []
    if len(sides) > 2 or any(side < 1 for side in sides):
        raise InputError(f"`size` is one side or [width, height], in pixels, not {options.size}")
    guidance, until = options.guidance, 1.0
    if isinstance(guidance, Mapping):
        guidance, until = guidance["scale"], guidance["until"]
    if not 0 <= until <= 1:
        raise InputError(f"`guidance`: `until` is a share of the steps, 0…1, not {until}")
    if options.cache is not None and not options.cache.get("threshold", 0) >= 0:
        raise InputError(f"`cache`: a threshold is 0 or more, not {options.cache['threshold']}")
    if options.strength is not None and not 0 < options.strength <= 1:
        raise InputError(f"`strength` is more than 0 and at most 1, not {options.strength}")
    cache = None if options.cache is None else Cache(**options.cache)
    return Look(sides[0] if sides else None, sides[-1] if sides else None, guidance, until, options.strength, cache)


def _settle(order: Order, drawn: Drawn | Exception | None) -> None:
    """Tell the deciders how it ended; what was not drawn took nothing of a budget."""
    taken, seconds = (0, 0.0) if drawn is None or isinstance(drawn, Exception) else (drawn.steps, drawn.seconds)
    for decision in order.decisions:
        decision.settle(taken, seconds)


def _told(drawn: Drawn, order: Order, most: int, saved: float) -> str:
    """An image's steps, in words for the trace."""
    planned = "" if order.walked == most else f", {order.walked} planned"
    ended = ", then it had converged" if drawn.stopped else ""
    gain = f", about {saved:.2g} s saved" if saved else ""
    whole = max(most, drawn.steps)  # PNDM takes one more than it plans
    return f"{drawn.steps} of {whole} steps{planned}{ended}; {drawn.seconds:.2g} s{gain}"


def _use_threads(count: int | None) -> None:
    """PyTorch keeps the number by thread, and one that is set does not reach threads that have computed before."""
    import torch

    if count is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)
