"""Deciders on true diffusion: the shapes' pipeline over the denoiser that is exact for a few pictures."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dynflow.nodes.adaptive_diffusion.deciders import Converge
from dynflow.nodes.adaptive_diffusion.drawing import Look, Order, draw
from dynflow.nodes.adaptive_diffusion.shapes.captions import draw_caption
from dynflow.nodes.adaptive_diffusion.shapes.exact import exact_pipeline
from dynflow.nodes.adaptive_diffusion.steering import leaves

STEPS = 40


@pytest.fixture(scope="module")
def captions():
    rng = random.Random(0)
    return [draw_caption(rng) for _ in range(6)]


@pytest.fixture(scope="module")
def pipeline(captions):
    return exact_pipeline(captions, pictures=8)


def orders(captions, look, threshold=None):
    decisions = [] if threshold is None else [Converge(threshold).decide("", STEPS)]
    return [Order(each.text(), seed, STEPS, look, None, decisions) for seed, each in enumerate(captions)]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_converged_images_are_those_of_the_whole_run_at_a_fraction_of_its_steps(pipeline, captions, guidance):
    look = Look(guidance=guidance)
    whole = draw(pipeline, orders(captions, look), output_type="np")
    early = draw(pipeline, orders(captions, look, 0.3), output_type="np")
    assert all(each.stopped for each in early)
    assert sum(each.steps for each in early) < 0.5 * STEPS * len(early)
    for one, other in zip(early, whole, strict=True):
        assert other.steps == STEPS
        assert np.sqrt(np.square(one.image - other.image).mean()) < 0.02


@pytest.mark.parametrize("look", [Look(guidance=1.0), Look(guidance=3.0), Look(guidance=3.0, guided=0.2)])
def test_each_of_a_batch_stops_where_it_would_alone(pipeline, captions, look):
    assert leaves(pipeline)
    together = draw(pipeline, orders(captions, look, 0.3), output_type="np")
    alone = [draw(pipeline, [each], output_type="np")[0] for each in orders(captions, look, 0.3)]
    assert len({each.steps for each in together}) > 1
    for one, other in zip(together, alone, strict=True):
        assert one.steps == other.steps
        assert np.abs(one.image - other.image).max() < 1e-4


def test_images_that_have_left_cost_nothing_more(pipeline, captions):
    rows = []
    handle = pipeline.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    try:
        found = draw(pipeline, orders(captions, Look(guidance=1.0), 0.3))
    finally:
        handle.remove()
    assert sum(rows) == sum(each.steps for each in found)
