"""diffusers' own caches: at work where the pipeline has them, gone afterwards, and said to be off elsewhere."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from dynflow.node import Cancelled
from dynflow.nodes.adaptive_diffusion.caching import Cache
from dynflow.nodes.adaptive_diffusion.drawing import Drawn, Look, Order, draw

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' Euler
STEPS = 6
EVERYTHING = 1e9
"""A threshold that no change exceeds."""
METHODS = [Cache("first_block", threshold=EVERYTHING), Cache("attention"), Cache("faster")]


def order(seed=3, cache=None, decisions=(), size=16):
    return Order("a red cat", seed, STEPS, Look(size, size, cache=cache), decisions=decisions)


def drawn(pipeline, *orders):
    found = draw(pipeline, orders, output_type="np")
    assert all(isinstance(each, Drawn) for each in found), found
    return found


def calls_of(module):
    seen = []
    return seen, module.register_forward_hook(lambda *given: seen.append(1))


@pytest.mark.parametrize("cache", METHODS, ids=lambda cache: cache.method)
def test_a_cache_saves_work_and_leaves_the_pipeline_as_it_was(families, cache):
    pipeline = families("flux")
    [plain] = drawn(pipeline, order())
    worker = pipeline.transformer.single_transformer_blocks[0].attn.to_q
    seen, handle = calls_of(worker)
    try:
        [found] = drawn(pipeline, order(cache=cache))
        assert 0 < len(seen) < STEPS
        assert not found.notes
        assert found.steps == STEPS
        assert not np.array_equal(found.image, plain.image)
        assert np.abs(found.image - plain.image).mean() < 0.1
        assert not pipeline.transformer.is_cache_enabled
        seen.clear()
        [again] = drawn(pipeline, order())
        assert len(seen) == STEPS
        assert np.array_equal(again.image, plain.image)
    finally:
        handle.remove()
    assert np.array_equal(drawn(pipeline, order(cache=cache))[0].image, found.image)  # it begins anew each time


def test_a_cache_that_keeps_nothing_draws_the_stock_pipelines_image_bit_by_bit(families):
    [plain], [found] = (drawn(families("flux"), order(cache=cache)) for cache in (None, Cache("first_block", 0.0)))
    assert np.array_equal(found.image, plain.image)


@pytest.mark.parametrize("cache", METHODS, ids=lambda cache: cache.method)
def test_an_image_is_what_it_is_alone(families, cache):
    orders = [order(seed=seed, cache=cache) for seed in (1, 2)]
    for one, each in zip(drawn(families("flux"), *orders), orders, strict=True):
        assert np.abs(one.image - drawn(families("flux"), each)[0].image).max() < 1e-4


@pytest.mark.parametrize(("name", "size"), [("pixart", 32), ("stable_diffusion", 16), ("stable_diffusion_3", 16)])
def test_a_pipeline_without_caches_is_drawn_as_it_is_and_says_so(families, name, size):
    [plain] = drawn(families(name), order(size=size))
    [found] = drawn(families(name), order(cache=Cache("first_block"), size=size))
    assert np.array_equal(found.image, plain.image)
    kind = type(families(name)).__name__
    assert found.notes == [f"{kind} was drawn without its cache: it has no caches in diffusers"]


class Guided(FluxPipeline):
    """Calls its denoiser twice a step, with the prompt and without."""

    def __call__(self, prompt, num_inference_steps, height, width, **more):
        more |= {"num_inference_steps": num_inference_steps, "height": height, "width": width}
        return super().__call__(prompt, negative_prompt=["none"] * len(prompt), true_cfg_scale=3.0, **more)


def test_caches_of_attention_do_not_mix_guided_and_unguided_calls(families):
    pipeline = copy.copy(families("flux"))
    pipeline.__class__ = Guided
    [plain], [kept] = (drawn(pipeline, order(cache=cache)) for cache in (None, Cache("attention")))
    assert np.array_equal(kept.image, plain.image)
    assert "without its cache: it calls its denoiser more than once a step: `first_block` may do" in kept.notes[0]
    [found] = drawn(pipeline, order(cache=Cache("first_block", EVERYTHING)))
    assert not found.notes
    assert not np.array_equal(found.image, plain.image)


def test_however_a_run_ends_the_cache_is_gone(families):
    pipeline = families("flux")
    [plain] = drawn(pipeline, order())
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        draw(pipeline, [order(cache=Cache("attention"))], check)
    assert np.array_equal(drawn(pipeline, order())[0].image, plain.image)

    def too_much(module, given):
        raise torch.OutOfMemoryError("no memory")

    handle = pipeline.transformer.register_forward_pre_hook(too_much)
    try:
        [failed] = draw(pipeline, [order(cache=Cache("attention"))])
    finally:
        handle.remove()
    assert "smaller `size`" in str(failed)
    assert np.array_equal(drawn(pipeline, order())[0].image, plain.image)


def test_a_cache_that_fails_halfway_on_is_taken_off_again(families, monkeypatch):
    from diffusers.hooks import first_block_cache

    pipeline = families("flux")
    [plain] = drawn(pipeline, order())

    def broken(*args, **more):
        raise ValueError("this block is not registered")

    monkeypatch.setattr(first_block_cache, "_apply_fbc_block_hook", broken)
    [found] = drawn(pipeline, order(cache=Cache("first_block")))
    assert found.notes == ["FluxPipeline was drawn without its cache: this block is not registered"]
    assert np.array_equal(found.image, plain.image)
