"""Whole runs on record: what they hold is what the node does, and a killed recording goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from dynflow.errors import InputError
from dynflow.models.diffusers import LoadedPipeline
from dynflow.models.settings import ModelSettings
from dynflow.nodes.adaptive_diffusion import recording, recordings
from dynflow.nodes.adaptive_diffusion.deciders import Converge
from dynflow.nodes.adaptive_diffusion.decoding import decode
from dynflow.nodes.adaptive_diffusion.drawing import Look, Order, draw
from dynflow.nodes.adaptive_diffusion.shapes.exact import exact_pipeline
from dynflow.nodes.adaptive_diffusion.shapes.metrics import ssim
from dynflow.nodes.adaptive_diffusion.shapes.scenes import draw_captions

SETTINGS = ModelSettings(provider="diffusers", model="exact")
COUNTS = (4, 9)


@pytest.fixture(scope="module")
def captions():
    return list(dict.fromkeys(draw_captions(8, "predictor", 0)))[:6]


@pytest.fixture(scope="module")
def exact(captions):
    return exact_pipeline(captions, pictures=8)


@pytest.fixture
def record(exact, monkeypatch, tmp_path):
    monkeypatch.setattr(recording, "loaded", lambda settings, folder: LoadedPipeline("exact", exact))
    monkeypatch.setattr(recording, "located", lambda settings, folder: settings)
    monkeypatch.setattr(recording, "model_digest", lambda settings, folder: "digest")

    def run(prompts, path=tmp_path / "runs.jsonl", **more):
        return recording.record(SETTINGS, prompts, path, **{"counts": COUNTS, **more})

    return run


def test_a_prefix_of_a_run_is_what_converge_makes_of_it(record, exact, captions):
    prompts = [caption.text() for caption in captions]
    found = record(prompts, seeds=1)
    orders = [Order(prompt, recording.seed_of(prompt, 0), 9) for prompt in prompts]
    references = np.stack([each.image for each in draw(exact, orders, output_type="np")])
    for threshold in (0.05, 0.5, 2.0):
        decisions = [Converge(threshold).decide("", 9)]
        stopped = draw(exact, [Order(o.prompt, o.seed, 9, decisions=decisions) for o in orders], output_type="np")
        stops = found.runs[9].stops(threshold)
        assert [each.steps for each in stopped] == list(stops + 1)
        metric = ssim(np.stack([each.image for each in stopped]), references)
        assert found.runs[9].metrics["ssim"][np.arange(6), stops] == pytest.approx(metric, abs=1e-4)
    assert len(set(found.runs[9].stops(0.5))) > 1
    assert np.all(found.runs[9].stops(None) == 8)
    assert np.all(found.runs[9].metrics["psnr"][:, -1] == recordings.MOST_PSNR)


def test_a_turning_of_a_run_is_what_the_node_finishes_there(record, exact, captions):
    prompts = [caption.text() for caption in captions]
    found = record(prompts, counts=(4, 18), seeds=1, finish=3, batch=4)
    run = found.runs[18]
    tried = np.flatnonzero(np.isfinite(run.metrics["ssim"][0])) + 1
    assert tried.tolist() == [2, 3, 4, 5, 6, 8, 10, 13, 18]
    assert np.isfinite(found.runs[4].metrics["ssim"]).sum(1).tolist() == [1] * 6  # four steps are no longer than three
    assert found.about.calls == 4 + 18 + 3 * 8
    orders = [Order(prompt, recording.seed_of(prompt, 0), 18) for prompt in prompts]
    references = np.stack([each.image for each in draw(exact, orders, output_type="np")])
    ended = set()
    for threshold in (0.01, 0.5, 2.0, 1e9, -1.0):
        decisions = [Converge(threshold, finish=3).decide("", 18)]
        drawn = draw(exact, [Order(o.prompt, o.seed, 18, decisions=decisions) for o in orders], output_type="np")
        stops = run.stops(threshold)
        assert [each.steps for each in drawn] == run.calls(3)[stops].tolist()
        metric = ssim(np.stack([each.image for each in drawn]), references)
        assert run.metrics["ssim"][np.arange(6), stops] == pytest.approx(metric, abs=1e-4)
        ended |= {each.steps for each in drawn}
    assert {5, 18} < ended
    assert np.all(run.stops(1e9) == 1)


def test_runs_that_are_finished_are_others(record, captions, tmp_path, exact, monkeypatch):
    prompts = [captions[0].text()]
    record(prompts, seeds=1, finish=3)
    again = recordings.read_recording(tmp_path / "runs.jsonl")
    assert again.about.finish == 3
    assert np.isnan(again.runs[9].metrics["ssim"][0, 0])
    assert again.runs[9].drift[0, 0] == np.inf
    with pytest.raises(InputError, match=r"in 4, 9 steps, finished in 3, not of exact \(digest\) in 4, 9 steps:"):
        record(prompts, seeds=1)
    monkeypatch.setattr(exact, "scheduler", DDIMScheduler())
    with pytest.raises(InputError, match="DDIMScheduler takes no longer steps: leave `finish` out"):
        record(prompts, tmp_path / "other.jsonl", finish=3)


def test_a_killed_recording_goes_on_and_is_the_same(record, captions, tmp_path, monkeypatch):
    prompts = [caption.text() for caption in captions]
    whole = record(prompts, batch=4)
    lines = (tmp_path / "runs.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 2 * 6
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    rendered = []
    render = recording.render
    monkeypatch.setattr(
        recording,
        "render",
        lambda pipeline, images, *more: rendered.extend(images) or render(pipeline, images, *more),
    )
    seen = []
    again = record(prompts, cut, batch=4, progress=lambda done, total, what: seen.append((done, total)))
    assert len(rendered) == 8
    assert seen == [(4, 12), (8, 12), (12, 12)]
    record(prompts, cut)
    assert len(rendered) == 8
    for count in COUNTS:
        assert again.runs[count].metrics["ssim"] == pytest.approx(whole.runs[count].metrics["ssim"], abs=1e-4)
    read = recordings.read_recording(cut)
    assert read.prompts == again.prompts
    assert read.needed("ssim", 0.9).tolist() == again.needed("ssim", 0.9).tolist()


def test_another_models_runs_are_not_taken_up(record, captions, tmp_path):
    prompts = [captions[0].text()]
    record(prompts, seeds=1)
    with pytest.raises(InputError, match=r"holds runs of exact .* in 4, 9 steps, not of"):
        record(prompts, counts=(3, 9))
    for text in ("", "[1]\n", json.dumps({"format": 99}) + "\n"):
        (tmp_path / "other.jsonl").write_text(text)
        with pytest.raises(InputError, match="holds no whole runs"):
            recordings.read_recording(tmp_path / "other.jsonl")
    with pytest.raises(InputError, match="two or more, rising"):
        record(prompts, tmp_path / "new.jsonl", counts=(9, 4))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda runs: runs.pop("4"), "KeyError"),
        (lambda runs: runs["4"]["ssim"].pop(), "the run of 4 steps is not whole"),
        (lambda runs: runs.update({"4": [3]}), "TypeError"),
        (lambda runs: runs.update({"4": runs["9"]}), "other steps than the images before"),
    ],
)
def test_a_damaged_line_is_named(record, captions, tmp_path, damage, words):
    record([captions[0].text()])
    path = tmp_path / "runs.jsonl"
    *others, last = path.read_text().splitlines()
    told = json.loads(last)
    damage(told["runs"])
    path.write_text("\n".join([*others, json.dumps(told)]) + "\n")
    with pytest.raises(InputError, match=f"line 3 of .* is damaged .*{words}.*: delete that line"):
        record([captions[0].text()])


def test_the_label_is_the_count_from_which_on_all_larger_ones_keep_the_metric():
    about = recordings.About("m", "", (2, 4, 8))
    ends = {"steady": (0.1, 0.95, 1), "once": (0.95, 0.2, 1), "always": (0.9, 0.9, 1), "never": (0.1, 0.2, 1)}
    images = [
        recordings.Image(
            prompt,
            0,
            {
                count: recordings.Run(np.full(count, -np.inf), {m: np.full(count, end) for m in recordings.METRICS})
                for count, end in zip(about.counts, found, strict=True)
            },
        )
        for prompt, found in ends.items()
    ]
    assert recordings.Recording.of(about, images).needed("ssim", 0.9).tolist() == [4, 8, 2, 8]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' Euler
@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3"])
def test_latents_are_decoded_as_their_pipeline_does_it(families, family):
    pipeline = families(family)
    orders = [Order("a cat", 3, 4), Order("two dogs", 5, 4)]
    latents = torch.stack([each.image for each in draw(pipeline, orders, output_type="latent")])
    images = np.stack([each.image for each in draw(pipeline, orders, output_type="np")])
    assert np.array_equal(decode(pipeline, latents, Look()), images)
    found = recording.render(pipeline, [("a cat", 3), ("two dogs", 5)], (2, 4))
    assert [each.runs[4].metrics["ssim"][-1] for each in found] == pytest.approx([1, 1])
    assert np.isfinite(found[0].runs[4].drift[1:-1]).all() or family == "stable_diffusion"
