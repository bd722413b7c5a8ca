"""Stock pipelines, steered from outside: the same images where nothing decides, clean ones where something does."""

from __future__ import annotations

import copy
import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image

from dynflow.errors import InputError, NodeFailed
from dynflow.node import Cancelled
from dynflow.nodes.adaptive_diffusion.deciders import Converge, Decision, drift
from dynflow.nodes.adaptive_diffusion.drawing import Drawn, Look, Order, draw, redrawing
from dynflow.nodes.adaptive_diffusion.steering import Steering, leaves

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' Euler
STEPS = 4
SIZES = {"flux": Look(16, 16), "pixart": Look(32, 32)}
NAMES = ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "pixart"]
LEAVING = ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3"]


def order(name="", prompt="a red cat", seed=3, steps=STEPS, decisions=(), **look):
    base = SIZES.get(name, Look())
    return Order(prompt, seed, steps, Look(base.width, base.height, **look), decisions=decisions)


def stop_after(count):
    """A decider that ends each image at its `count`-th step."""

    def begin():
        seen = 0

        def watch(clean, left):
            nonlocal seen
            seen += 1
            return seen >= count

        return watch

    return [Decision(STEPS, watch=begin)]


def drawn(pipeline, *orders, **more):
    found = draw(pipeline, orders, output_type="np", **more)
    for each in found:
        assert isinstance(each, Drawn), each
    return found


def stock(pipeline, name, prompt="a red cat", seed=3, **more):
    look = SIZES.get(name, Look())
    size = {"width": look.width, "height": look.height} if look.width else {}
    options = {"num_inference_steps": STEPS, "output_type": "np"} | size | more
    return pipeline(prompt, generator=torch.Generator().manual_seed(seed), **options).images[0]


@pytest.mark.parametrize("name", NAMES)
def test_with_every_decider_off_the_image_is_the_stock_pipelines_bit_by_bit(families, name):
    pipeline = families(name)
    before = {key: id(value) for key, value in vars(pipeline).items()}
    [found] = drawn(pipeline, order(name))
    assert {key: id(value) for key, value in vars(pipeline).items()} == before
    assert not {"step", "set_timesteps"} & vars(pipeline.scheduler).keys()
    assert np.array_equal(found.image, stock(pipeline, name))
    assert found.image.std() > 0.01  # no blank


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_watches_and_never_stops_is_the_stock_pipelines_too(families, name):
    [found] = drawn(families(name), order(name, decisions=stop_after(99)))
    assert np.array_equal(found.image, stock(families(name), name))
    assert not found.stopped


@pytest.mark.parametrize("name", NAMES)
def test_an_image_that_stops_is_the_clean_one_and_the_denoiser_is_called_no_more(families, name):
    pipeline = families(name)
    denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    calls = []
    handle = denoiser.register_forward_pre_hook(lambda module, given: calls.append(module))
    try:
        [found] = drawn(pipeline, order(name, decisions=stop_after(2)))
    finally:
        handle.remove()
    assert (found.steps, found.stopped, len(calls)) == (2, True, 2)
    assert np.isfinite(found.image).all()


def test_the_clean_image_is_what_a_perfect_denoiser_has_in_mind_at_once(families):
    """Noise of which a denoiser knows all leads to the image in one step, whatever the parameterisation."""
    from dynflow.nodes.adaptive_diffusion.clean import clean_image

    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    for scheduler in (
        DDIMScheduler(clip_sample=False),
        DDIMScheduler(clip_sample=False, prediction_type="v_prediction"),
        EulerDiscreteScheduler(),
        EulerDiscreteScheduler(prediction_type="v_prediction"),
        EulerAncestralDiscreteScheduler(),
        DPMSolverMultistepScheduler(),
        DPMSolverMultistepScheduler(prediction_type="v_prediction"),
        DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"),
        UniPCMultistepScheduler(),
        families("stable_diffusion").scheduler,
        type(families("flux").scheduler)(),
    ):
        told = str(scheduler)
        kind = scheduler.config.get("prediction_type", "flow_prediction")
        scheduler.set_timesteps(8)
        timestep = scheduler.timesteps[3]
        if kind == "flow_prediction":
            sigma = scheduler.sigmas[3]
            sample, output = (1 - sigma) * clean + sigma * noise, noise - clean
        else:
            kept = scheduler.alphas_cumprod[int(timestep)]
            grows = isinstance(scheduler, (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler))
            if grows:  # the image keeps its size
                kept = 1 / (1 + scheduler.sigmas[3] ** 2)
            sample = kept.sqrt() * clean + (1 - kept).sqrt() * noise
            output = noise if kind == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * clean
            sample = sample / kept.sqrt() if grows else sample
            scheduler.scale_model_input(sample, timestep)
        result = scheduler.step(output, timestep, sample, return_dict=True)
        found = clean_image(scheduler, result, output, timestep, sample)
        assert found is not None, told
        assert torch.allclose(found, clean, atol=2e-3), told


@pytest.mark.parametrize("name", LEAVING)
def test_images_leave_a_batch_one_by_one_and_each_is_what_it_is_alone(families, name):
    pipeline = families(name)
    orders = [
        order(name, "a red cat", 1, decisions=stop_after(2)),
        order(name, "two blue dogs and a hat", 2),
        order(name, "green", 3, decisions=stop_after(3)),
    ]
    assert leaves(pipeline)
    together = drawn(pipeline, *orders)
    alone = [drawn(pipeline, each)[0] for each in orders]
    assert [each.steps for each in together] == [each.steps for each in alone]
    assert together[0].steps == 2
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.image - other.image).max() < 1e-4
    assert np.abs(together[0].image - together[1].image).max() > 1e-2


@pytest.mark.parametrize(
    "make", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerAncestralDiscreteScheduler]
)
def test_what_a_scheduler_remembers_or_draws_stays_each_images_own(families, make):
    pipeline = _with_scheduler(families("stable_diffusion"), make)
    orders = [order(seed=seed, decisions=stop_after(count)) for seed, count in ((1, 2), (2, 99), (3, 3))]
    together = drawn(pipeline, *orders)
    assert [each.steps for each in together] == [2, STEPS, 3]
    for one, each in zip(together, orders, strict=True):
        assert np.abs(one.image - drawn(pipeline, each)[0].image).max() < 1e-4


def _with_scheduler(pipeline, make):
    own = copy.copy(pipeline)
    own.scheduler = make.from_config(pipeline.scheduler.config)
    return own


def test_a_pipeline_that_walks_its_own_timesteps_keeps_the_clean_image(families):
    walker = copy.copy(families("stable_diffusion_3"))
    steering = Steering(walker, [[lambda clean, left: left <= 2]], lambda: None)
    walker.scheduler.set_timesteps(4)
    seen = [torch.randn(1, 4, 8, 8)]
    for timestep in walker.scheduler.timesteps.tolist():
        seen.append(walker.scheduler.step(torch.ones_like(seen[-1]), torch.tensor(timestep), seen[-1]).prev_sample)
    assert (steering.stopped, steering.taken) == ([True], [4])
    assert [torch.equal(one, other) for one, other in pairwise(seen)] == [False, False, True, True]


def test_an_unknown_scheduler_takes_all_its_steps_and_says_so(families):
    pipeline = _with_scheduler(families("stable_diffusion"), HeunDiscreteScheduler)
    [found] = drawn(pipeline, order(decisions=stop_after(1)))
    assert not found.stopped
    assert found.notes == ["HeunDiscreteScheduler does not tell of clean images: static steps"]
    assert np.array_equal(found.image, stock(pipeline, "stable_diffusion"))


def test_a_pipeline_that_steps_a_scheduler_of_its_own_takes_all_its_steps_and_says_so(families):
    class Combined(type(families("stable_diffusion"))):
        def __call__(self, prompt, num_inference_steps, generator, output_type, **_hooks):
            of_its_own = families("stable_diffusion")
            return of_its_own(prompt, num_inference_steps=4, generator=generator, output_type=output_type)

    pipeline = copy.copy(families("stable_diffusion"))
    pipeline.__class__ = Combined
    [found] = drawn(pipeline, order(decisions=stop_after(1)))
    assert (found.steps, found.stopped) == (STEPS, False)
    assert found.notes == ["Combined has no one scheduler: static steps"]


def test_images_that_cannot_leave_a_batch_are_drawn_one_by_one_and_say_so(families):
    one, other = drawn(families("flux"), *(order("flux", seed=seed, decisions=stop_after(2)) for seed in (1, 2)))
    assert one.notes == other.notes == ["images do not leave a batch of FluxPipeline: drawn one by one"]
    one, other = drawn(families("flux"), *(order("flux", seed=seed) for seed in (1, 2)))
    assert not one.notes


@pytest.mark.parametrize("name", LEAVING)
def test_guidance_that_is_cut_off_halves_the_work_of_the_steps_after(families, name):
    pipeline = families(name)
    denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    rows = []

    def count(module, args, kwargs):
        given = args[0] if args else kwargs["hidden_states"]
        rows.append(len(given))

    handle = denoiser.register_forward_pre_hook(count, with_kwargs=True)
    try:
        [found] = drawn(pipeline, order(name, guidance=4.0, guided=0.5))
    finally:
        handle.remove()
    assert set(rows[:2]) == {2}
    assert set(rows[2:-1]) == {1} or rows[-1] == 1
    assert not np.array_equal(found.image, stock(pipeline, name, guidance_scale=4.0))
    [whole] = drawn(pipeline, order(name, guidance=4.0))
    assert np.array_equal(whole.image, stock(pipeline, name, guidance_scale=4.0))


def test_a_pipeline_without_the_hook_is_guided_to_the_end_and_says_so(families):
    [found] = drawn(families("pixart"), order("pixart", guidance=4.0, guided=0.5))
    assert found.notes == ["PixArtSigmaPipeline has no hook to end guidance by: guided to the end"]


def test_cancelled_it_stops_within_a_step_and_keeps_no_latents(families):
    pipeline = copy.copy(families("stable_diffusion"))
    kept = []
    calls = []
    freed = []
    pipeline.maybe_free_model_hooks = lambda: freed.append(1)  # what diffusers' offloading is ended by

    def watch(clean, left):
        kept.append(weakref.ref(clean))
        return False

    def check():
        calls.append(1)
        if len(calls) == 4:
            raise Cancelled

    with pytest.raises(Cancelled) as raised:
        draw(pipeline, [order(decisions=[Decision(STEPS, watch=lambda: watch)])], check)
    assert len(kept) == 2  # one look before the first step, one at each
    assert freed == [1]
    assert raised.value.__context__ is None
    gc.collect()
    assert all(each() is None for each in kept)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "mps", "cpu"],
)
def test_out_of_memory_halves_the_batch_and_goes_on(families, error):
    pipeline = families("stable_diffusion")
    sizes = []

    def too_much(module, args, kwargs):
        sizes.append(len(args[0]) // 2)
        if sizes[-1] > 1:
            raise error

    handle = pipeline.unet.register_forward_pre_hook(too_much, with_kwargs=True)
    try:
        found = drawn(pipeline, *(order(seed=seed) for seed in range(3)))
    finally:
        handle.remove()
    assert sizes[:2] == [3, 1]
    assert found[0].notes == ["memory did not suffice for a batch of 3: drawn 1 at a time"]
    for seed, each in enumerate(found):
        assert np.array_equal(each.image, stock(pipeline, "stable_diffusion", seed=seed))


def test_no_memory_for_one_image_says_what_helps(families):
    pipeline = families("stable_diffusion")

    def too_much(module, given):
        raise torch.OutOfMemoryError("no memory")

    handle = pipeline.unet.register_forward_pre_hook(too_much)
    try:
        [found] = draw(pipeline, [order()])
    finally:
        handle.remove()
    assert isinstance(found, NodeFailed)
    assert "smaller `size`" in str(found)


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("stable_diffusion", {"look": Look(17, 16)}, "multiples of 2 for StableDiffusionPipeline, and 17 x 16 is not"),
        ("stable_diffusion_3", {"look": Look(18, 16)}, "multiples of 4"),
    ],
)
def test_what_a_pipeline_cannot_draw_is_an_error_of_that_image_alone(families, name, asked, words):
    bad, good = draw(families(name), [Order("a", 1, 2, **asked), order(name, steps=2)])
    assert isinstance(bad, InputError)
    assert words in str(bad)
    assert isinstance(good, Drawn)


def test_an_image_of_no_numbers_is_an_error(families):
    bad, good = draw(families("stable_diffusion"), [order(guidance=1e38), order()], output_type="latent")
    assert isinstance(bad, NodeFailed)
    assert "numbers overflowed: give less `guidance`" in str(bad)
    assert isinstance(good, Drawn)


def test_a_pipeline_that_reads_no_text_is_told_apart():
    class Unconditional:
        def __call__(self, batch_size=1):
            raise AssertionError("never called")

    [found] = draw(Unconditional(), [order()])
    assert isinstance(found, InputError)
    assert "draws no image from a text" in str(found)


def test_convergence_compares_the_drift_with_the_threshold():
    watch = Converge(threshold=0.5, patience=2, least=2).decide("", 10).watch()
    image = torch.ones(3, 4, 4)
    assert not watch(image, 9)
    assert not watch(image * 1.2, 5)  # 0.2 / 1.2 * 5 is more than a half
    assert not watch(image * 1.2, 4)  # calm, for the first time
    assert watch(image * 1.2, 3)


def test_black_has_come_to_rest_and_what_is_no_number_has_not():
    black, broken = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), torch.nan)
    assert drift(black, black, 3) == 0
    assert not drift(black, broken, 3) <= 1e9
    watch = Converge(threshold=1e9).decide("", 10).watch()
    assert [watch(broken[0], left) for left in (9, 8, 7)] == [False, False, False]


def picture(seed=0, size=(16, 16)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def redrawn(seed=3, strength=0.5, steps=8, decisions=(), start=None):
    return Order("a red cat", seed, steps, Look(strength=strength), decisions=decisions, start=start or picture())


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_an_image_to_begin_with_gives_what_the_stock_pipeline_gives(families, name):
    pipeline = redrawing(families(name))
    [found] = drawn(pipeline, redrawn())
    generator = torch.Generator().manual_seed(3)
    wanted = pipeline(
        "a red cat", image=picture(), strength=0.5, num_inference_steps=8, generator=generator, output_type="np"
    )
    assert np.array_equal(found.image, wanted.images[0])
    assert found.steps in (4, 5)  # PNDM walks one step more
    assert not np.array_equal(drawn(pipeline, redrawn(start=picture(1)))[0].image, found.image)


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl"])
def test_redrawn_images_leave_their_batch_and_know_how_many_steps_are_left(families, name):
    left = []

    def begin():
        return lambda clean, steps: left.append(steps) or len(left) >= 2

    pipeline = redrawing(_with_scheduler(families(name), EulerDiscreteScheduler))
    assert leaves(pipeline)
    early, whole = drawn(pipeline, redrawn(decisions=[Decision(8, watch=begin)]), redrawn(seed=4))
    assert (early.steps, early.stopped, whole.steps, whole.stopped) == (2, True, 4, False)
    assert left == [3, 2]
    assert np.abs(whole.image - drawn(pipeline, redrawn(seed=4))[0].image).max() < 1e-4


def test_a_redrawn_image_that_would_finish_keeps_its_clean_image_and_says_so(families):
    pipeline = redrawing(_with_scheduler(families("stable_diffusion"), EulerDiscreteScheduler))

    def stopping(finish):
        return redrawn(decisions=[Decision(8, watch=lambda: lambda clean, steps: steps <= 3, finish=finish)])

    [plain], [found] = (drawn(pipeline, stopping(finish)) for finish in (0, 2))
    assert (found.steps, found.stopped, plain.notes) == (plain.steps, True, [])
    assert np.array_equal(found.image, plain.image)
    assert found.notes == ["an image that begins with another takes no longer steps: what is stopped is kept as it is"]


def test_what_cannot_be_redrawn_is_said(families):
    with pytest.raises(InputError, match="PixArtSigmaPipeline cannot begin with an image"):
        redrawing(families("pixart"))
    none, alone = draw(redrawing(families("stable_diffusion")), [redrawn(strength=0.1, steps=4), redrawn()])
    assert "0.1 of 4 steps is none" in str(none)
    assert isinstance(alone, Drawn)
    [wrong] = draw(families("stable_diffusion"), [redrawn()])
    assert "cannot begin with an image" in str(wrong)
