"""The node in graphs: what it gives, what it notes, batches, budgets, and what is said of bad input."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, PNDMScheduler
from langchain_core.messages import AIMessage, HumanMessage
from PIL import Image

import dynflow
from dynflow.answers import text_of
from dynflow.errors import ArtefactError, GraphError, InputError, MissingModel
from dynflow.nodes.adaptive_diffusion import pipelines, predictor
from dynflow.nodes.adaptive_diffusion.shapes.pipeline import ShapesPipeline
from dynflow.nodes.adaptive_diffusion.shapes.transformer import ShapesTransformer
from tests.nodes.adaptive_diffusion import tiny_pipelines

GRAPH = """
version: 1
name: pictures
params:
  calm: {default: 0.0, min: 0, max: 100, tune: true}
models:
  sd: {provider: diffusers, model: sd, price: {second: 0.01}}
nodes:
  draw:
    type: adaptive_diffusion
    model: sd
    steps: 6
    seed: 4
    OPTIONS
edges:
  - {from: start, to: draw}
  - {from: draw, to: end}
"""
CALM = "converge: {threshold: 100}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pictures")
    pipeline = tiny_pipelines.stable_diffusion()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    pipeline.save_pretrained(place / "sd")
    return place


@pytest.fixture
def graph(folder):
    def load(options="", text=GRAPH):
        return dynflow.loads(text.replace("OPTIONS", options), base=folder)

    return load


def pixels(message):
    [block] = message.content
    assert (block["type"], block["mime_type"]) == ("image", "image/png")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(block["base64"]))))


def told(message):
    return message.response_metadata["steps"], message.response_metadata["planned"]


def test_an_image_comes_as_a_message_with_its_figures_in_metadata_trace_and_ledger(graph):
    result = graph(CALM).run("a red cat")
    assert pixels(result.value).shape == (16, 16, 3)
    [visit] = result.trace.visits
    assert visit.values == {"steps": 2, "planned": 6, "quality": None}
    assert visit.notes[0].startswith("2 of 6 steps, then it had converged; ")
    assert "saved" in visit.notes[0]
    [entry] = result.ledger.entries
    assert entry.usage.compute.seconds > 0
    assert entry.usd == pytest.approx(0.01 * entry.seconds, rel=0.2)
    metadata = result.value.response_metadata
    assert (metadata["steps"], metadata["planned"], metadata["most"], metadata["seed"]) == (2, 6, 6, 4)
    assert metadata["saved_seconds"] == pytest.approx(2 * metadata["seconds"], rel=0.01)


def test_a_scheduler_that_calls_once_more_than_it_plans_is_not_said_to_take_51_of_50(graph, folder):
    pipeline = tiny_pipelines.stable_diffusion()
    assert isinstance(pipeline.scheduler, PNDMScheduler)
    pipeline.save_pretrained(folder / "pndm")
    result = graph(text=GRAPH.replace("model: sd,", "model: pndm,")).run("a red cat")
    assert result.trace.visits[0].notes[0].startswith("7 of 7 steps; ")
    assert result.value.response_metadata["saved_seconds"] == 0


def test_with_every_decider_off_it_is_the_stock_pipelines_image(graph, folder):
    stock = DiffusionPipeline.from_pretrained(folder / "sd")
    stock.set_progress_bar_config(disable=True)
    wanted = stock("a red cat", num_inference_steps=6, generator=torch.Generator().manual_seed(4)).images[0]
    result = graph().run("a red cat")
    assert np.array_equal(pixels(result.value), np.asarray(wanted))
    assert "saved" not in result.trace.visits[0].notes[0]


def test_a_param_sets_how_calm_is_calm_enough(graph):
    flow = graph("converge:\n      threshold: ${params.calm}")
    assert told(flow.invoke("a red cat"))[0] == 6
    assert told(flow.invoke("a red cat", {"configurable": {"calm": 100.0}}))[0] == 2


async def test_every_way_of_asking_gives_the_same_image(graph):
    flow = graph(CALM)
    wanted = pixels(flow.invoke("a red cat"))
    assert np.array_equal(pixels(await flow.ainvoke("a red cat")), wanted)
    [chunk] = list(flow.stream("a red cat"))
    assert np.array_equal(pixels(chunk), wanted)
    one, two = flow.batch(["a red cat", "two dogs"])
    assert isinstance(one, AIMessage)
    assert np.abs(pixels(one).astype(int) - wanted).max() <= 1
    assert not np.array_equal(pixels(two), wanted)


def test_chat_model_and_tool_hand_the_image_on(graph):
    flow = graph(CALM)
    wanted = flow.invoke("a red cat").content
    assert flow.as_chat_model().invoke("a red cat").content == wanted
    assert flow.to_tool(description="draws").invoke({"question": "a red cat"}) == wanted
    assert text_of(flow.invoke("a red cat")) == ""


def test_a_cache_that_the_pipeline_has_not_is_told_in_the_trace(graph):
    plain, found = graph().run("a red cat"), graph("cache: {method: first_block}").run("a red cat")
    assert np.array_equal(pixels(found.value), pixels(plain.value))
    assert found.trace.visits[0].notes[1] == (
        "StableDiffusionPipeline was drawn without its cache: it has no caches in diffusers"
    )


def test_what_is_to_finish_in_longer_steps_and_cannot_says_so(graph):
    [visit] = graph("converge: {threshold: 100, finish: 3}").run("a red cat").trace.visits
    assert visit.values["steps"] == 2
    assert visit.notes[1] == "DDIMScheduler takes no longer steps: what is stopped is kept as it is"


def test_options_reach_the_pipeline(graph):
    plain = pixels(graph().invoke("a red cat"))
    assert pixels(graph("size: [16, 32]").invoke("a red cat")).shape == (32, 16, 3)
    assert not np.array_equal(pixels(graph("negative: dogs").invoke("a red cat")), plain)
    assert not np.array_equal(pixels(graph("guidance: 1.0").invoke("a red cat")), plain)
    cut = graph("guidance: {scale: 7.5, until: 0.5}").invoke("a red cat")
    assert not np.array_equal(pixels(cut), plain)


def png(seed):
    buffer = io.BytesIO()
    made = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(made).save(buffer, format="PNG")
    return buffer.getvalue()


def asking(seed):
    held = base64.b64encode(png(seed)).decode()
    blocks = [{"type": "text", "text": "a red cat"}, {"type": "image", "base64": held, "mime_type": "image/png"}]
    return [HumanMessage(blocks)]


def test_an_image_in_the_request_is_redrawn(graph, tmp_path):
    flow = graph("strength: 0.5")
    one, other = flow.batch([asking(1), asking(2)])
    assert not np.array_equal(pixels(one), pixels(other))
    about = one.response_metadata
    assert (about["steps"], about["planned"], about["most"]) == (3, 3, 3)
    url = f"data:image/png;base64,{base64.b64encode(png(1)).decode()}"
    (tmp_path / "one.png").write_bytes(png(1))
    declared = GRAPH.replace("params:", "inputs: {photo: image}\nparams:")
    named = graph("strength: 0.5\n    image: ${input.photo}", text=declared)
    for given in (url, str(tmp_path / "one.png"), png(1), asking(1)[0].content):
        found = pixels(named.invoke({"input": "a red cat", "photo": given})).astype(int)
        assert np.abs(found - pixels(one)).max() <= 1
    with pytest.raises(InputError, match="0 images to begin with, and one is needed: send a content block"):
        flow.invoke("a red cat")
    for given, words in (("data:x", "as a data URL it reads"), ("none.png", "none.png"), (b"x", "in no known format")):
        with pytest.raises(InputError, match=words):
            named.invoke({"input": "a red cat", "photo": given})


@pytest.mark.parametrize("path", ["a\0b.png", "~nobody-of-this-name/one.png", ".", ""])
def test_a_path_that_is_none_is_said(graph, path):
    flow = graph(
        "strength: 0.5\n    image: ${input.photo}", text=GRAPH.replace("params:", "inputs: {photo: image}\nparams:")
    )
    with pytest.raises(InputError, match="the image cannot be read"):
        flow.invoke({"input": "a red cat", "photo": path})


def test_what_is_not_drawn_is_none_of_the_budgets_stream(graph):
    sized = GRAPH.replace("params:", "inputs: {side: integer}\nparams:")
    photo = GRAPH.replace("params:", "inputs: {photo: image}\nparams:")
    for budget in ("{steps: 2}", "{seconds: 1e-6}"):
        flow = graph(f"size: ${{input.side}}\n    budget: {budget}", text=sized)
        account = flow.resources.node("draw")._account
        for _ in range(3):
            with pytest.raises(InputError, match="multiples of 2"):
                flow.invoke({"input": "a", "side": 15})
        assert account.saved == pytest.approx(0)
        flow = graph(f"strength: 1\n    image: ${{input.photo}}\n    budget: {budget}\n    {CALM}", text=photo)
        flow.invoke({"input": "a", "photo": png(1)})
        account = flow.resources.node("draw")._account
        before = account.saved
        with pytest.raises(InputError, match="cannot be read"):
            flow.invoke({"input": "a", "photo": b"x"})
        assert account.saved == before


def test_threads_do_not_meet(graph):
    flow = graph()
    wanted = [pixels(flow.invoke(prompt)) for prompt in ("a", "red cat", "with two hats")]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda prompt: pixels(flow.invoke(prompt)), ("a", "red cat", "with two hats")))
    assert all(np.array_equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_a_budget_of_steps_holds_the_mean_and_hands_on_what_is_left(graph):
    flow = graph("budget: {steps: 3}")
    assert [told(flow.invoke(prompt))[1] for prompt in "abc"] == [3, 3, 3]
    calm = graph(f"budget: {{steps: 3}}\n    {CALM}")
    assert [told(calm.invoke(prompt)) for prompt in "abcde"] == [(2, 3), (2, 4), (2, 5), (2, 6), (2, 6)]


def test_a_budget_of_seconds_plans_fewer_steps_after_a_slow_image(graph):
    flow = graph("budget: {seconds: 0.000001}")
    assert [told(flow.invoke(prompt))[1] for prompt in "abc"] == [6, 1, 1]
    assert [told(graph("budget: {seconds: 1000}").invoke(prompt))[1] for prompt in "ab"] == [6, 6]


PROMPTS = ("a dot", "eleven overlapping hexagons in a storm")
PROMISE = "quality: {metric: ssim, to: 6 steps, at_least: 0.9, for: 0.95}"


@pytest.fixture(scope="module")
def trained(folder):
    """A predictor made by hand, for two prompts: its median is 2 and 4 steps, its upper quantile 2 and 6."""
    easy, hard = predictor.Encoder.shared().embed(PROMPTS)
    direction = (hard - easy) / np.square(hard - easy).sum()
    predictor.save(
        folder / "steps",
        {
            "weight1": direction[None].astype(np.float32),
            "bias1": np.array([-float(direction @ easy)], np.float32),
            "weight2": np.array([[1.0], [2.0]], np.float32),
            "bias2": np.array([0.5, 0.5], np.float32),
        },
        model="sd",
        quantiles=[0.5, 0.9],
        offsets=[0.0, 0.25],
        counts=[2, 4, 6],
        card="# Made by hand",
        training={},
        contracts=[
            predictor.Contract("ssim", 6, 0.9, 0.95, quantile=0.9),
            predictor.Contract("ssim", 6, 0.5, 0.95, quantile=0.9, threshold=100.0),
            predictor.Contract("ssim", 6, 0.5, 0.95, quantile=0.9, threshold=200.0, finish=3),
        ],
    )


def test_a_predictor_plans_the_steps_from_the_prompt(graph, trained):
    median = graph("predict: {artefact: ./steps, quantile: 0.5}")
    assert [told(median.invoke(prompt))[1] for prompt in PROMPTS] == [2, 4]
    upper = graph("predict: {artefact: ./steps, quantile: 0.9}")
    assert [told(upper.invoke(prompt))[1] for prompt in PROMPTS] == [2, 6]
    both = graph(f"predict: {{artefact: ./steps, quantile: 0.9}}\n    {CALM}")
    assert told(both.invoke(PROMPTS[1])) == (2, 6)


def test_a_promise_sets_the_deciders_as_it_was_calibrated(graph, trained):
    flow = graph(f"predict: {{artefact: ./steps}}\n    {PROMISE}")
    results = [flow.run(prompt) for prompt in PROMPTS]
    assert [told(result.value) for result in results] == [(2, 2), (6, 6)]
    assert results[0].trace.visits[0].values["quality"] == 0.95
    lower = graph(f"predict: {{artefact: ./steps}}\n    {PROMISE.replace('0.9,', '0.5,')}")
    assert told(lower.invoke(PROMPTS[1])) == (2, 6)
    finish = f"converge: {{finish: 3}}\n    {PROMISE.replace('0.9,', '0.5,')}"
    finished = graph(f"predict: {{artefact: ./steps}}\n    {finish}")
    assert "takes no longer steps" in finished.run(PROMPTS[1]).trace.visits[0].notes[1]


def test_what_is_planned_for_more_images_never_falls():
    told = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], np.float32)
    found = predictor.corrected(told, [0.5, 0.75, -1.0])
    assert found.tolist() == [[1.5, 2.75, 2.75], [2.5, 2.75, 2.75]]
    crossing = predictor.Facts(Path(), "", "sd", (0.5, 0.9), (1.0, 0.0), (2, 4, 8))
    head = predictor.Predictor(crossing)
    head._tensors = {
        "weight1": np.zeros((1, 384), np.float32),
        "bias1": np.ones(1, np.float32),
        "weight2": np.ones((2, 1), np.float32),
        "bias2": np.zeros(2, np.float32),
    }
    assert head.counts(["a dot"], [0.5, 0.9]) == [[4], [4]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PROMISE, "it needs `predict` with the artefact"),
        (f"predict: {{artefact: ./steps}}\n    {PROMISE.replace('0.9,', '0.8,')}", "was not calibrated for ssim to 6"),
        (f"predict: {{artefact: ./steps}}\n    {PROMISE.replace('6 steps', 'six steps')}", "write `50 steps`"),
        (f"predict: {{artefact: ./steps}}\n    {CALM}\n    {PROMISE}", "leave `threshold` out"),
        (
            f"predict: {{artefact: ./steps}}\n    converge: {{finish: 3}}\n    {PROMISE}",
            "not calibrated for ssim to 6 steps at least 0.9 for 0.95, finished in 3 steps: it was for ssim to 6 steps",
        ),
        (f"predict: {{artefact: ./steps, quantile: 0.9}}\n    {PROMISE}", "leave `quantile` out"),
        (f"predict: {{artefact: ./steps}}\n    cache: {{method: faster}}\n    {PROMISE}", "leave `cache` out"),
        (
            "predict: {artefact: ./steps}",
            "`predict` needs a `quantile`, one of 0.5, 0.9; only a calibrated `quality` sets it itself",
        ),
        (f"predict: {{artefact: ./steps}}\n    {PROMISE.replace('0.9,', '1.5,')}", "no image has ssim ≥ 1.5: 1 is"),
        ("predict: {artefact: ./steps, quantile: 0.7}", "the quantiles 0.5, 0.9, not 0.7"),
    ],
)
def test_a_promise_that_is_not_calibrated_is_refused(graph, trained, options, words):
    with pytest.raises(GraphError) as raised:
        graph(options)
    assert words in str(raised.value)


def test_a_predictor_for_another_model_or_a_damaged_one_is_refused(graph, folder, trained):
    text = GRAPH.replace("model: sd, price", "model: somebody/else, price")
    with pytest.raises(GraphError, match="trained for the model sd, not for somebody/else"):
        graph("predict: {artefact: ./steps, quantile: 0.5}", text)
    other = folder / "damaged"
    shutil.copytree(folder / "steps", other)
    (other / "head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ArtefactError, match="damaged"):
        graph("predict: {artefact: ./damaged, quantile: 0.5}").invoke("a dot")


async def test_a_cancelled_request_lets_go_within_a_step(graph, monkeypatch):
    flow = graph("budget: {steps: 6}")
    flow.invoke("warm")
    steps, step = [], DDIMScheduler.step

    def slow(self, *args, **kwargs):
        steps.append(1)
        time.sleep(0.1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DDIMScheduler, "step", slow)
    task = asyncio.create_task(flow.ainvoke("a red cat"))
    while not steps:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    taken = len(steps)
    await asyncio.sleep(0.35)
    assert len(steps) <= taken + 1
    monkeypatch.undo()
    assert told(flow.invoke("a red cat"))[1] == 6  # nothing was taken of the budget, and the pipeline is free


def test_while_another_draws_a_deadline_is_kept(graph, folder):
    flow = graph("timeout: 100ms")
    flow.warm_up()
    [loaded] = [flow.resources.node("draw")._loaded]
    with loaded.turn, pytest.raises(dynflow.errors.NodeTimeout):
        flow.invoke("a red cat")
    assert threading.active_count() < 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("converge: {threshold: -1}", "0 or more"),
        ("converge: {threshold: 1, patience: 0}", "greater than or equal to 1"),
        ("converge: {finish: 5}", "`converge` needs a `threshold`, such as 0.1; only a calibrated `quality` sets it"),
        ("converge: {threshold: 1, finish: 1}", "greater than or equal to 2"),
        ("converge: {threshold: 1, finish: 4}", "of 6 steps never more than 4 are left where one may stop"),
        ("budget: {steps: 3, seconds: 1}", "one of them"),
        ("budget: {}", "one of them"),
        ("size: 0", "one side or [width, height]"),
        ("size: [1, 2, 3]", "one side or [width, height]"),
        ("guidance: {scale: 3, until: 2}", "share of the steps"),
        ("cache: {method: first_block, every: 2}", "takes a `threshold`, not `every`"),
        ("cache: {method: faster, threshold: 0.1}", "takes `every`, not `threshold`"),
        ("cache: {method: first_block, threshold: -0.1}", "0 or more"),
        ("cache: {method: attention, every: 1}", "greater than or equal to 2"),
        ("cache: {method: slow}", "first_block"),
        ("prompt: ' '", "nothing to draw"),
        ("predict: {artefact: ./nowhere, quantile: 0.9}", "dynflow train steps"),
        ("negative: 3", "text"),
        ("strength: 0", "more than 0"),
        ("image: one.png", "say how much of it"),
    ],
)
def test_options_that_make_no_sense_are_found_by_check(graph, options, words):
    with pytest.raises(GraphError) as raised:
        graph(options)
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("{provider: diffusers, model: ./nowhere}", "there is no folder"),
        ("{provider: diffusers, model: empty}", "no diffusers pipeline: it has no model_index.json"),
        ("{provider: diffusers, model: embedded/shaps}", "did you mean 'embedded/shapes'?"),
        ("{provider: encoder, model: embedded/sst2-minilm}", "its provider is encoder, not diffusers"),
        ("{provider: encoder, model: x, device: cuda}", "an option of provider diffusers"),
    ],
)
def test_models_that_draw_nothing_are_found_by_check(graph, folder, model, words):
    (folder / "empty").mkdir(exist_ok=True)
    text = GRAPH.replace("{provider: diffusers, model: sd, price: {second: 0.01}}", model)
    with pytest.raises(GraphError) as raised:
        graph(text=text)
    assert words in str(raised.value)


def test_bad_requests_are_errors_in_words(graph):
    with pytest.raises(InputError, match="both sides must be multiples of 2"):
        graph("size: [15, 16]").invoke("a red cat")
    text = GRAPH.replace("models:", "inputs: {topic: string}\nmodels:", 1)
    with pytest.raises(InputError, match="nothing to draw"):
        graph("prompt: ${input.topic}", text).invoke({"input": "Draw this", "topic": " "})


def test_a_name_that_is_no_model_here_nor_on_the_hub(graph, monkeypatch):
    text = GRAPH.replace("model: sd, price", "model: nobody/nothing, price")
    with pytest.raises(MissingModel, match="no model 'nobody/nothing'"):
        graph(text=text).invoke("a red cat")


SHAPES = GRAPH.replace("model: sd, price", "model: embedded/shapes, price")


def test_the_shipped_pipeline_is_found_by_name_and_doubts_what_it_does_not_know(graph, tmp_path, monkeypatch):
    transformer = ShapesTransformer(width=24, num_layers=1, num_heads=2)
    ShapesPipeline(transformer, FlowMatchEulerDiscreteScheduler()).save_pretrained(tmp_path / "shapes")
    monkeypatch.setitem(pipelines.SHIPPED, "embedded/shapes", tmp_path / "shapes")
    flow = graph(text=SHAPES)
    known, strange = flow.run("two red circles above a blue square"), flow.run("a castle in the fog")
    assert pixels(known.value).shape == (32, 32, 3)
    assert len(known.trace.visits[0].notes) == 1
    assert "embedded/shapes knows a small world of shapes" in strange.trace.visits[0].notes[1]
    monkeypatch.undo()
    own = graph(text=SHAPES.replace("embedded/shapes", str(tmp_path / "shapes")))  # one that somebody trained
    assert np.array_equal(pixels(own.invoke("two red circles above a blue square")), pixels(known.value))


def test_a_copy_without_the_shipped_pipeline_says_how_it_is_made(graph, tmp_path, monkeypatch):
    monkeypatch.setitem(pipelines.SHIPPED, "embedded/shapes", tmp_path)
    with pytest.raises(GraphError, match=r"scripts/train_shapes\.py makes it"):
        graph(text=SHAPES)


def test_run_writes_the_image_and_says_what_it_took(folder, invoke):
    (folder / "pictures.yaml").write_text(GRAPH.replace("OPTIONS", CALM), encoding="utf-8")
    file = folder / "out.png"
    result = invoke("run", str(folder / "pictures.yaml"), "a red cat", "--output", str(file))
    assert result.exit_code == 0, result.output
    assert Image.open(file).size == (16, 16)
    assert result.stdout == ""
    assert "draw: 2 of 6 steps, then it had converged; " in result.stderr
    piped = invoke("run", str(folder / "pictures.yaml"), "a red cat")
    assert piped.stdout_bytes == file.read_bytes()
    shown = json.loads(invoke("run", str(folder / "pictures.yaml"), "a red cat", "--json").stdout)
    assert base64.b64decode(shown["value"][0]["base64"]) == file.read_bytes()
