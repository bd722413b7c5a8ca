"""The shapes' pipeline is one of diffusers' kind; on the exact denoiser it draws what it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dynflow.models.encoder import Encoder
from dynflow.nodes.adaptive_diffusion.shapes.captions import parse
from dynflow.nodes.adaptive_diffusion.shapes.metrics import ssim
from dynflow.nodes.adaptive_diffusion.shapes.oracle import alignment

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from dynflow.nodes.adaptive_diffusion.shapes.exact import ExactDenoiser, exact_pipeline  # noqa: E402
from dynflow.nodes.adaptive_diffusion.shapes.pipeline import ShapesPipeline  # noqa: E402
from dynflow.nodes.adaptive_diffusion.shapes.transformer import ShapesTransformer  # noqa: E402

PROMPTS = ["two red circles above a blue square", "two shapes", "a green ring on a light background"]
CAPTIONS = [parse(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def exact():
    return exact_pipeline(CAPTIONS)


@pytest.fixture(scope="module")
def learnt():
    """An untrained transformer; its last layer starts at nothing, so it is shaken."""
    torch.manual_seed(0)
    transformer = ShapesTransformer(width=32, num_layers=2, num_heads=2)
    for name, value in transformer.named_parameters():
        if name.startswith(("out", "conditioning", "final")):
            torch.nn.init.normal_(value, std=0.2)
    pipeline = ShapesPipeline(transformer.eval(), diffusers.FlowMatchEulerDiscreteScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeds(*numbers: int):
    return [torch.Generator().manual_seed(number) for number in numbers]


def test_exact_pictures_show_their_captions_and_more_steps_come_nearer_to_the_reference(exact) -> None:
    def drawn(steps):
        generators = seeds(*range(12))
        return exact(
            PROMPTS, steps, guidance_scale=1.0, num_images_per_prompt=4, generator=generators, output_type="np"
        ).images

    reference = drawn(50)
    assert alignment(reference, [caption for caption in CAPTIONS for _ in range(4)]).all()
    assert ssim(drawn(3), reference).mean() + 0.2 < ssim(drawn(25), reference).mean()


def test_the_exact_velocity_is_the_posterior_mean_by_definition(exact) -> None:
    denoiser = exact.transformer
    embeds, mask = exact.encode_prompt([PROMPTS[1]])
    sigma = 0.7
    noisy = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    own = denoiser.pictures[denoiser.owners == 1].double()
    away = (noisy.flatten(1).double() - (1 - sigma) * own).square().sum(1)
    likely = (-away / (2 * sigma**2)).softmax(0)
    expected = (noisy.flatten(1).double() - likely @ own) / sigma
    velocity = denoiser(noisy, torch.tensor([700.0]), embeds, mask).sample
    torch.testing.assert_close(velocity.flatten(1).double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["exact", "learnt"])
def test_a_picture_does_not_depend_on_those_beside_it(kind, request) -> None:
    pipeline = request.getfixturevalue(kind)
    together = pipeline(PROMPTS, 4, generator=seeds(1, 2, 3), output_type="np").images
    for index, prompt in enumerate(PROMPTS):
        alone = pipeline(prompt, 4, generator=seeds(index + 1), output_type="np").images[0]
        np.testing.assert_allclose(together[index], alone, atol=1e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_guidance_adds_what_the_prompt_tells(learnt) -> None:
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    embeds, mask = learnt.encode_prompt(["a ring"])
    nothing, kept = learnt.encode_prompt([""])
    now = torch.tensor([1000.0])
    told = learnt.transformer(noise, now, embeds, mask).sample
    free = learnt.transformer(noise, now, nothing, kept).sample
    once = learnt("a ring", 1, guidance_scale=2.5, latents=noise, output_type="latent").images
    torch.testing.assert_close(once, noise - (free + 2.5 * (told - free)), atol=1e-3, rtol=1e-3)


def test_a_callback_sees_and_changes_each_step_and_may_end_them(exact) -> None:
    seen = []

    def look(pipeline, index, timestep, kept):
        seen.append((index, float(timestep), kept["latents"].shape))
        if index == 2:
            pipeline._interrupt = True
            kept["latents"] = torch.zeros_like(kept["latents"])
        return kept

    image = exact("two shapes", 10, callback_on_step_end=look, output_type="np").images[0]
    assert [index for index, _, _ in seen] == [0, 1, 2]
    assert seen[0][1:] == (1000.0, (1, 3, 32, 32))
    np.testing.assert_allclose(image, 0.5)
    with pytest.raises(ValueError, match="may ask for"):
        exact("two shapes", 2, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["nothing"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' solver
def test_a_multistep_solver_draws_the_same_pictures_in_fewer_steps(exact) -> None:
    reference = exact(PROMPTS, 50, generator=seeds(1, 2, 3), output_type="np").images
    solver = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    quick = ShapesPipeline(exact.transformer, solver)
    quick.set_progress_bar_config(disable=True)
    assert ssim(quick(PROMPTS, 20, generator=seeds(1, 2, 3), output_type="np").images, reference).min() > 0.9


def test_words_that_ask_for_a_picture_are_no_part_of_it(exact) -> None:
    asked, plain = (
        exact(prompt, 2, generator=seeds(1), output_type="np").images for prompt in ("Draw a ring", "a ring")
    )
    assert np.array_equal(asked, plain)


def test_it_is_saved_as_safetensors_and_loaded_alike(learnt, exact, tmp_path) -> None:
    for name, pipeline, kind in (("learnt", learnt, ShapesTransformer), ("exact", exact, ExactDenoiser)):
        pipeline.save_pretrained(tmp_path / name)
        files = {path.suffix for path in (tmp_path / name).rglob("*") if path.is_file()}
        assert files == {".json", ".safetensors"}
        assert json.loads((tmp_path / name / "model_index.json").read_text())["_class_name"] == "ShapesPipeline"
        again = ShapesPipeline.from_pretrained(tmp_path / name, use_safetensors=True)
        again.set_progress_bar_config(disable=True)
        assert isinstance(again.transformer, kind)
        first, second = (each(PROMPTS[0], 3, generator=seeds(4), output_type="np").images for each in (pipeline, again))
        np.testing.assert_array_equal(first, second)


def test_output_types_and_what_it_is_given(learnt) -> None:
    assert learnt("a ring", 1).images[0].size == (32, 32)
    assert learnt(["a ring", "a cross"], 1, num_images_per_prompt=2, output_type="pt").images.shape == (4, 3, 32, 32)
    embeds, mask = learnt.encode_prompt(["a ring"])
    given = learnt(prompt_embeds=embeds, prompt_attention_mask=mask, num_inference_steps=2, generator=seeds(1))
    assert given.images[0].tobytes() == learnt("a ring", 2, generator=seeds(1)).images[0].tobytes()
    for wrong in ({}, {"prompt": "a ring", "prompt_embeds": embeds}, {"prompt_embeds": embeds}):
        with pytest.raises(ValueError, match="give `prompt`, or both"):
            learnt(**wrong)


def test_token_states_are_what_the_embedding_is_the_mean_of() -> None:
    encoder = Encoder.shared()
    states = encoder.tokens([*PROMPTS, ""])
    assert [state.shape[1] for state in states] == [384] * 4
    assert len(states[-1]) == 2
    means = np.stack([state.mean(0) for state in states])
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, encoder.embed([*PROMPTS, ""]), atol=1e-5)
