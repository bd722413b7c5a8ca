"""An image that has come to rest takes what is left of its run in a few longer steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from dynflow.nodes.adaptive_diffusion.deciders import Converge, Decision, turnings
from dynflow.nodes.adaptive_diffusion.drawing import Drawn, Look, Order, draw
from dynflow.nodes.adaptive_diffusion.finishing import Rest

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' Euler
STEPS = 8
SIZES = {"flux": 16, "pixart": 32}
NAMES = ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux", "pixart"]


def stop_after(count, finish=0):
    """A decider that ends each image at its `count`-th step."""

    def begin():
        seen = []
        return lambda clean, left: seen.append(left) or len(seen) >= count

    return [Decision(STEPS, watch=begin, finish=finish)]


def order(name="", seed=3, decisions=(), **look):
    size = SIZES.get(name)
    return Order("a red cat", seed, STEPS, Look(size, size, **look), decisions=decisions)


def drawn(pipeline, *orders):
    found = draw(pipeline, orders, output_type="np")
    assert all(isinstance(each, Drawn) for each in found), found
    return found


def with_scheduler(pipeline, make=EulerDiscreteScheduler, **more):
    own = copy.copy(pipeline)
    own.scheduler = make.from_config(pipeline.scheduler.config, **more)
    return own


@pytest.fixture
def family(families):
    return lambda name: families(name) if name != "stable_diffusion" else with_scheduler(families(name))


def test_the_steps_that_are_left_are_as_far_apart_and_the_last_is_the_plans():
    assert Rest(torch.zeros(1), 5, 50).walk(5) == [5, 16, 27, 38, 49]
    assert Rest(torch.zeros(1), 3, 8).walk(2) == [3, 7]
    assert Rest(torch.zeros(1), 3, 8).walk(5) == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("name", NAMES)
def test_in_as_many_steps_as_are_left_it_is_the_whole_runs_image(family, name, monkeypatch):
    pipeline = family(name)
    [whole] = drawn(pipeline, order(name))
    [longer] = drawn(pipeline, order(name, decisions=stop_after(3, finish=2)))
    assert (longer.steps, longer.stopped) == (5, True)
    assert np.isfinite(longer.image).all()
    assert not np.array_equal(longer.image, drawn(pipeline, order(name, decisions=stop_after(3)))[0].image)
    monkeypatch.setattr(Rest, "walk", lambda rest, count: list(range(rest.steps, rest.total)))
    [found] = drawn(pipeline, order(name, decisions=stop_after(3, finish=2)))
    assert found.steps == STEPS
    assert np.abs(found.image - whole.image).max() < 1e-4
    assert np.abs(longer.image - whole.image).max() > 1e-4


@pytest.mark.parametrize("name", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3"])
def test_images_of_a_batch_finish_as_they_do_alone(family, name):
    pipeline = family(name)
    orders = [
        order(seed=seed, decisions=stop_after(count, finish=2)) for seed, count in ((1, 2), (2, 99), (3, 4), (4, 2))
    ]
    together = drawn(pipeline, *orders)
    assert [each.steps for each in together] == [4, STEPS, 6, 4]
    assert [each.stopped for each in together] == [True, False, True, True]
    for one, each in zip(together, orders, strict=True):
        assert np.abs(one.image - drawn(pipeline, each)[0].image).max() < 1e-4


def test_what_is_no_longer_than_its_finish_is_walked_to_the_end(family):
    pipeline = family("stable_diffusion_3")
    [found] = drawn(pipeline, order(decisions=stop_after(5, finish=3)))
    assert (found.steps, found.stopped) == (STEPS, False)
    assert np.array_equal(found.image, drawn(pipeline, order())[0].image)


def test_multistep_solvers_take_longer_steps_too(families):
    pipeline = with_scheduler(families("stable_diffusion"), DPMSolverMultistepScheduler)
    [found] = drawn(pipeline, order(decisions=stop_after(4, finish=2)))
    assert (found.steps, found.notes) == (6, [])
    assert np.abs(found.image - drawn(pipeline, order())[0].image).max() < 0.2


def test_a_scheduler_that_goes_by_timesteps_keeps_the_clean_image_and_says_so(families):
    pipeline = with_scheduler(families("stable_diffusion"), DDIMScheduler, clip_sample=False)
    [found] = drawn(pipeline, order(decisions=stop_after(3, finish=2)))
    assert (found.steps, found.notes) == (
        3,
        ["DDIMScheduler takes no longer steps: what is stopped is kept as it is"],
    )
    assert np.array_equal(found.image, drawn(pipeline, order(decisions=stop_after(3)))[0].image)


def test_guidance_ends_where_it_does_in_the_whole_run(family):
    pipeline = family("stable_diffusion_3")
    rows = []
    handle = pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    try:
        for guided in (0.75, 0.25):
            drawn(pipeline, order(decisions=stop_after(3, finish=3), guidance=4.0, guided=guided))
    finally:
        handle.remove()
    assert rows[:6] == [2, 2, 2, 2, 2, 1]  # steps 0, 1, 2, and 3, 5, 7 of 8
    assert rows[6:] == [2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("name", ["stable_diffusion_3", "flux"])
def test_a_run_that_is_left_gives_back_what_it_had_taken_off_main_memory(families, name, monkeypatch):
    pipeline = families(name)
    freed = []
    monkeypatch.setattr(type(pipeline), "maybe_free_model_hooks", lambda own: freed.append(own))
    drawn(pipeline, order(name, decisions=stop_after(3, finish=2)))
    assert len(freed) == 2  # the run that was left, and its end


def test_a_run_is_left_at_a_turning_only():
    still = torch.ones(1, 1, 4, 4)
    watches = [Converge(1.0, finish=finish, patience=2).decide("", 50).watch() for finish in (5, 0)]
    stopped = [[step for step in range(1, 46) if watch(still, 50 - step)] for watch in watches]
    assert stopped == [[3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40], list(range(3, 46))]
    assert turnings(50, 5) == [2, *stopped[0]]
    assert turnings(50, 10) == [2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32]


def test_a_run_that_rests_does_not_decode_what_it_throws_away(family):
    pipeline = family("stable_diffusion_3")
    decoded = []
    handle = pipeline.vae.decoder.register_forward_pre_hook(lambda *given: decoded.append(1))
    try:
        drawn(pipeline, order(decisions=stop_after(3, finish=2)))
    finally:
        handle.remove()
    assert len(decoded) == 1
