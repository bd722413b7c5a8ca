"""Images drawn with a stock pipeline, each in the steps that its deciders give it."""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from dynflow.errors import ArtefactError, DynflowError, InputError, NodeFailed, RefusedByModel
from dynflow.models.libraries import in_short
from dynflow.node import Cancelled
from dynflow.nodes.adaptive_diffusion.caching import Cache, Unsuited, caching
from dynflow.nodes.adaptive_diffusion.deciders import Decision
from dynflow.nodes.adaptive_diffusion.finishing import Rest, Rested, begin_with, can_skip
from dynflow.nodes.adaptive_diffusion.steering import Steering, leaves

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Look:
    """What images of one run share: size in pixels, guidance scale, the share of the steps that are guided, where they
    begin with an image how much of that is noise (0 to 1), and what of the denoiser's work is kept between steps."""

    width: int | None = None
    height: int | None = None
    guidance: float | None = None
    guided: float = 1.0
    strength: float | None = None
    cache: Cache | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """One image to draw."""

    prompt: str
    seed: int
    planned: int
    look: Look = Look()
    negative: str | None = None
    decisions: Sequence[Decision] = ()
    start: Image | None = None
    """What it begins with, instead of noise alone; `look.strength` says how much of it is left."""
    rest: Rest | None = None
    """Where its run was left: it takes what is left of that, in its longer steps."""

    @property
    def walked(self) -> int:
        """The steps of its schedule that are walked: with an image to begin with, the last ones."""
        return self.planned if self.look.strength is None else int(self.planned * self.look.strength)

    @property
    def finish(self) -> int:
        """The longer steps that it takes where it is stopped; with an image to begin with, pipelines leave no room."""
        return 0 if self.start is not None else max((each.finish for each in self.decisions), default=0)


@dataclass(slots=True)
class Drawn:
    """One image (as `output_type` has it), its steps, its seconds (of a batch, its share), words for the trace."""

    image: Any
    steps: int
    seconds: float
    stopped: bool = False
    notes: list[str] = field(default_factory=list)


_OVERFLOWED = "the denoiser's numbers overflowed: give less `guidance`, or a `dtype` of more range, such as bfloat16"


def fault_of(pipeline: Any, order: Order) -> str | None:
    """Why a pipeline cannot draw an order, in words; None: it can."""
    taken = inspect.signature(type(pipeline).__call__).parameters
    if order.start is not None:
        if not {"image", "strength"} <= taken.keys():
            return f"{type(pipeline).__name__} cannot begin with an image: leave `strength` out"
        if order.walked < 1:
            return f"`strength`: {order.look.strength:g} of {order.planned} steps is none: take more of either"
    if not {"prompt", "num_inference_steps"} <= taken.keys():
        return f"{type(pipeline).__name__} draws no image from a text: choose a text-to-image pipeline"
    asked = {
        "negative_prompt": ("negative", order.negative),
        "guidance_scale": ("guidance", order.look.guidance),
        "height": ("size", None if order.start else order.look.height),
    }
    for name, (option, value) in asked.items():
        if value is not None and name not in taken:
            return f"{type(pipeline).__name__} has no `{option}`: leave it out"
    multiple = _multiple(pipeline)
    sides = [side for side in (order.look.width, order.look.height) if side is not None]
    if any(side % multiple for side in sides):
        shown = " x ".join(map(str, sides))
        return f"`size`: both sides must be multiples of {multiple} for {type(pipeline).__name__}, and {shown} is not"
    return None


def _multiple(pipeline: Any) -> int:
    """What the sides of its images are multiples of, in pixels."""
    processor = getattr(pipeline, "image_processor", None)
    scale = processor.config.vae_scale_factor if processor is not None else 1
    transformer = getattr(pipeline, "transformer", None)
    patch = getattr(transformer.config, "patch_size", 1) if transformer is not None else 1
    return int(scale) * (patch if isinstance(patch, int) else 1)


def redrawing(pipeline: Any) -> Any:
    """A pipeline of the same parts that begins with an image. Raises InputError where diffusers has none."""
    if {"image", "strength"} <= inspect.signature(type(pipeline).__call__).parameters.keys():
        return pipeline
    from diffusers import AutoPipelineForImage2Image  # takes seconds: it reads the code of every pipeline

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about its configuration, as where it was loaded
            return AutoPipelineForImage2Image.from_pipe(pipeline)
    except ValueError as error:
        raise InputError(f"{type(pipeline).__name__} cannot begin with an image: leave `strength` out") from error


def draw(
    pipeline: Any,
    orders: Sequence[Order],
    check: Callable[[], None] = lambda: None,
    *,
    output_type: str = "pil",
) -> list[Drawn | Exception]:
    """Draw them all, results in order; an exception where one could not be drawn.

    Those of one plan and look share a batch, if images can leave it one by one or none of them may stop; where memory
    does not suffice, half a batch is tried. `check` is called at each step; what it raises goes through. One thread at
    a time for a pipeline: the state of a run is a copy's, but tokenizers keep theirs to themselves.
    """
    results: list[Drawn | Exception] = [NodeFailed("the image was not drawn")] * len(orders)
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, order in enumerate(orders):
        if (fault := fault_of(pipeline, order)) is not None:
            results[place] = InputError(fault)
            continue
        alone = (watched(order) and not leaves(pipeline)) or (order.look.cache is not None and order.look.cache.alone)
        size = order.start.size if order.start else None
        left = order.rest.steps if order.rest else None
        key = (order.planned, order.look, order.finish, left, order.negative is None, size, place if alone else None)
        groups[key].append(place)
    for places in groups.values():
        for part, drawn in _in_memory(pipeline, orders, places, check, output_type):
            for place, each in zip(part, drawn, strict=True):
                results[place] = each
    together = [each for each, order in zip(results, orders, strict=True) if isinstance(each, Drawn) and watched(order)]
    if len(together) > 1 and not leaves(pipeline):
        for each in together:
            each.notes.append(f"images do not leave a batch of {type(pipeline).__name__}: drawn one by one")
    return results


def watched(order: Order) -> bool:
    """Whether an image may end before its plan does."""
    return order.rest is None and any(decision.watch for decision in order.decisions)


def _in_memory(
    pipeline: Any, orders: Sequence[Order], places: list[int], check: Callable[[], None], output_type: str
) -> Iterator[tuple[list[int], Sequence[Drawn | Exception]]]:
    """The images by batches that memory suffices for."""
    waiting, smaller = [places], False
    while waiting:
        part = waiting.pop()
        failed: str | None = None
        drawn: Sequence[Drawn | Exception] = ()
        try:
            drawn = _run(pipeline, [orders[place] for place in part], check, output_type)
        except Cancelled:
            failed = "cancelled"
        except DynflowError as error:
            drawn = [error] * len(part)
        except Exception as error:
            if not _out_of_memory(error):
                drawn = [NodeFailed(f"{type(pipeline).__name__} drew nothing: {in_short(error)}")] * len(part)
            else:
                failed = "memory"
        # Out of the handler: an error holds the frames that hold the memory.
        if failed == "cancelled":
            _free()
            raise Cancelled
        if failed == "memory":
            _free()
            if len(part) > 1:
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
                smaller = True
                continue
            reason = (
                "memory does not suffice for one image: choose a smaller `size`, a `dtype` of 16 bits, or `offload`"
            )
            drawn = [NodeFailed(reason)]
        if smaller:
            for each in drawn:
                if isinstance(each, Drawn):
                    each.notes.append(
                        f"memory did not suffice for a batch of {len(places)}: drawn {len(part)} at a time"
                    )
        yield part, drawn


def _run(
    pipeline: Any, orders: Sequence[Order], check: Callable[[], None], output_type: str
) -> Sequence[Drawn | Exception]:
    """One batch; without its cache, where that does not suit the pipeline."""
    try:
        return _once(pipeline, orders, check, output_type)
    except (Cancelled, DynflowError):
        raise
    except Exception as error:
        if orders[0].look.cache is None or _out_of_memory(error):
            raise
        reason = str(error) if isinstance(error, Unsuited) else in_short(error)
        note = f"{type(pipeline).__name__} was drawn without its cache: {reason}"
    plain = [replace(order, look=replace(order.look, cache=None)) for order in orders]
    found = _once(pipeline, plain, check, output_type)
    for each in found:
        if isinstance(each, Drawn):
            each.notes.append(note)
    return found


def _once(
    pipeline: Any, orders: Sequence[Order], check: Callable[[], None], output_type: str
) -> Sequence[Drawn | Exception]:
    """One batch, on copies of pipeline and scheduler; then what is left of those that have come to rest."""
    first, look = orders[0], orders[0].look
    began = time.perf_counter()
    own = copy.copy(pipeline)
    own.set_progress_bar_config(disable=True)
    rests = [order.rest for order in orders if order.rest]
    walk = rests[0].walk(first.finish) if rests else None
    if walk is not None and leaves(own):  # others are guided to the end
        inside = sum(step < look.guided * rests[0].total for step in walk)
        look = replace(look, guided=inside / len(walk), guidance=look.guidance if inside else 1.0)
    watches = [[each.watch() for each in order.decisions if each.watch and not rests] for order in orders]
    follows = [[each.follow for each in order.decisions if each.follow and not rests] for order in orders]
    steering: Steering | None = None
    if hasattr(own, "scheduler"):
        steering = Steering(own, watches, check, look.guided, first.finish, walk, follows)
    given: dict[str, Any] = {
        "prompt": [order.prompt for order in orders],
        "negative_prompt": [order.negative for order in orders] if first.negative is not None else None,
        "guidance_scale": look.guidance,
        "width": look.width,
        "height": look.height,
    }
    if first.start is not None:
        given |= _starts(own, orders)
    if rests:
        given |= begin_with(own, torch.stack([rest.latents for rest in rests]))
    result: Any = None
    try:
        check()
        with suppress(Rested), caching(own, look.cache, steering) if look.cache else nullcontext():
            result = own(
                **{name: value for name, value in given.items() if value is not None},
                num_inference_steps=first.planned,
                generator=[torch.Generator().manual_seed(order.seed ^ bool(rests)) for order in orders],
                output_type=output_type,
                **(steering.hooks() if steering else {}),
            )
        if result is None:  # its pipeline was left in the middle
            own.maybe_free_model_hooks()
        if steering and not any(steering.taken):  # it steps a scheduler of its own making
            steering.release()
            steering = None
        notes = list(_notes(own, steering, orders[0], any(watches)))
        taken = list(steering.taken) if steering else [first.walked] * len(orders)
        stopped = list(steering.stopped) if steering else [False] * len(orders)
        left = dict(steering.rests) if steering else {}
        overflowed = steering.overflowed() if steering else [False] * len(orders)
    except BaseException:
        own.maybe_free_model_hooks()  # of `offload`: what was at work goes back to main memory
        raise
    finally:
        if steering:
            steering.release()
    images = [None] * len(orders) if len(left) == len(orders) else getattr(result, "images", None)
    if images is None or len(images) != len(orders):
        raise ArtefactError(f"{type(pipeline).__name__} gave no image for each prompt: choose a text-to-image pipeline")
    seconds = time.perf_counter() - began
    withheld = getattr(result, "nsfw_content_detected", None) or [False] * len(orders)
    found: list[Drawn | Exception] = [
        RefusedByModel("the pipeline's safety checker withheld the image")
        if withheld[place] and place not in left
        else NodeFailed(_OVERFLOWED)
        if overflowed[place]
        else Drawn(
            images[place], taken[place], seconds * taken[place] / max(1, sum(taken)), stopped[place], list(notes)
        )
        for place in range(len(orders))
    ]
    for steps in sorted({rest.steps for rest in left.values()}):
        places = [place for place, rest in left.items() if rest.steps == steps]
        ends = _once(pipeline, [replace(orders[place], rest=left[place]) for place in places], check, output_type)
        for place, end in zip(places, ends, strict=True):
            found[place] = _joined(found[place], end)
    return found


def _joined(begun: Drawn | Exception, end: Drawn | Exception) -> Drawn | Exception:
    """An image that was drawn in two runs."""
    if not isinstance(begun, Drawn) or not isinstance(end, Drawn):
        return end
    return replace(
        end, steps=begun.steps + end.steps, seconds=begun.seconds + end.seconds, stopped=True, notes=begun.notes
    )


def _starts(pipeline: Any, orders: Sequence[Order]) -> dict[str, Any]:
    """The images that a batch begins with, as pipelines take them: all of one size that suits."""
    look, multiple = orders[0].look, _multiple(pipeline)
    images = [order.start for order in orders if order.start is not None]
    wanted = (look.width or images[0].width, look.height or images[0].height)
    width, height = (max(multiple, side - side % multiple) for side in wanted)
    sized = {"width", "height"} <= inspect.signature(type(pipeline).__call__).parameters.keys()
    return {
        "image": [image.convert("RGB").resize((width, height)) for image in images],
        "strength": look.strength,
        "width": width if sized else None,
        "height": height if sized else None,
    }


def _notes(pipeline: Any, steering: Steering | None, order: Order, watched: bool) -> Iterator[str]:
    name, look = type(pipeline).__name__, order.look
    if steering is None:
        if watched:
            yield f"{name} has no one scheduler: static steps"
        return
    if steering.unread:
        yield f"{type(steering.scheduler).__name__} does not tell of clean images: static steps"
    elif order.finish and not can_skip(steering.scheduler):
        yield f"{type(steering.scheduler).__name__} takes no longer steps: what is stopped is kept as it is"
    elif order.start is not None and any(each.finish for each in order.decisions):
        yield "an image that begins with another takes no longer steps: what is stopped is kept as it is"
    if look.guided < 1 and not leaves(pipeline):
        yield f"{name} has no hook to end guidance by: guided to the end"


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    told = ("out of memory", "can't allocate memory")  # other devices' and the CPU's have no type of their own
    return isinstance(error, RuntimeError) and any(each in str(error) for each in told)


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
