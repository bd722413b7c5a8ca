"""`dynflow train steps`: from prompts to an artefact that plans."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dynflow.errors import InputError
from dynflow.models.diffusers import LoadedPipeline
from dynflow.models.settings import ModelSettings
from dynflow.nodes.adaptive_diffusion import predictor, recording
from dynflow.nodes.adaptive_diffusion.recordings import METRICS, About, Image, RecordingFile, Run
from dynflow.nodes.adaptive_diffusion.shapes.exact import exact_pipeline
from dynflow.nodes.adaptive_diffusion.shapes.scenes import draw_captions
from dynflow.nodes.adaptive_diffusion.train import train
from dynflow.nodes.adaptive_diffusion.training.fitting import Parts, fit, offset
from dynflow.nodes.adaptive_diffusion.training.spread import spread

COUNTS = (5, 10, 20, 40)
SETTINGS = ModelSettings(provider="diffusers", model="somebody/pictures")
EASY, HARD = ("a {} dot", "a crowd of {} overlapping hexagons in a storm")
COLOURS = ("red", "green", "blue", "black", "white", "pink", "grey", "brown")
OBJECTS = ("near a wall", "on a hill", "by the sea", "in the snow", "at night", "under a tree")


def prompts(colours=COLOURS):
    return [form.format(colour) + f" {place}" for form in (EASY, HARD) for colour in colours for place in OBJECTS]


def recorded(path, seeds=2, of=None, digest="", finish=0):
    """A file of runs as some pipeline may have: dots need 5 or 10 steps, crowds 20 or 40."""
    file = RecordingFile(path, About("somebody/pictures", digest, COUNTS, finish))
    rng = np.random.default_rng(0)
    images = []
    for prompt in of or prompts():
        for place in range(seeds):
            needed = rng.choice([5, 10] if "dot" in prompt else [20, 40])
            runs = {
                count: Run(np.r_[np.inf, np.geomspace(2, 0.01, count - 2), -np.inf], dict.fromkeys(METRICS, ends))
                for count in COUNTS
                for ends in [np.r_[np.linspace(0, 0.8, count - 1), 0.95 if count >= needed else 0.5]]
            }
            images.append(Image(prompt, recording.seed_of(prompt, place), runs))
    file.append(images)


def test_what_is_learnt_plans_few_steps_for_easy_prompts_and_many_for_hard_ones(tmp_path):
    recorded(tmp_path / "runs.jsonl")
    report = train(SETTINGS, prompts(), tmp_path, counts=COUNTS)
    found = predictor.Predictor(predictor.describe(str(tmp_path)))
    assert found.steps(EASY.format("orange"), 0.9) == 10
    assert found.steps(HARD.format("orange"), 0.9) == 40
    assert found.steps(HARD.format("orange"), predictor.WHOLE) is None
    assert found.trained_on(f"  {prompts()[3].upper()}")
    assert not found.trained_on("a yellow dot by the sea")
    assert report.rows == 2 * len(prompts())
    assert report.figures["quantile 0.9"]["kept"] >= 0.8
    assert report.figures["quantile 0.9"]["mean steps"] < 30
    told = report.figures["spread in doublings"]
    assert told["between prompts"] == pytest.approx(1.0, abs=0.1)
    assert told["between seeds"] == pytest.approx(0.5, abs=0.1)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "ssim ≥ 0.9 to the same seed's image of 40 steps" in card
    assert "![Steps needed, by prompt and seed](spread.svg)" in card
    assert (tmp_path / "spread.svg").read_text(encoding="utf-8").startswith("<svg ")
    facts = json.loads((tmp_path / "head.json").read_text(encoding="utf-8"))
    assert (facts["counts"], facts["contracts"]) == ([5, 10, 20, 40], [])


def test_the_same_runs_give_the_same_artefact(tmp_path):
    few = prompts(COLOURS[:4])
    for name in ("one", "other"):
        recorded(tmp_path / name / "runs.jsonl", seeds=1, of=few)
        train(SETTINGS, few, tmp_path / name, counts=COUNTS, seeds=1)
    one, other = ((tmp_path / name / "head.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other


def test_the_command_renders_trains_and_says_what_it_made(tmp_path, monkeypatch, invoke):
    captions = list(dict.fromkeys(draw_captions(60, "predictor", 0)))[:40]
    pipeline = exact_pipeline(captions, pictures=4)
    monkeypatch.setattr(recording, "loaded", lambda settings, folder: LoadedPipeline("exact", pipeline))
    monkeypatch.setattr(recording, "located", lambda settings, folder: settings)
    monkeypatch.setattr(recording, "model_digest", lambda settings, folder: "")
    (tmp_path / "prompts.txt").write_text("\n".join(caption.text() for caption in captions), encoding="utf-8")
    given = ("--data", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out"), "--counts", "3,8", "--seeds", "1")
    result = invoke("train", "steps", "--model", "exact", *given)
    assert result.exit_code == 0, result.output
    assert "trained on 40 images" in result.output
    assert "spread in doublings: between prompts " in result.output
    assert predictor.describe(str(tmp_path / "out")).model == "exact"
    refused = invoke("train", "steps", "--out", str(tmp_path / "out"))
    assert refused.exit_code == 2
    assert "--captions: one of them" in refused.output
    strange = invoke("train", "steps", "--model", "exact", "--captions", "3", "--out", str(tmp_path / "out"))
    assert "no world of captions" in strange.output


def test_what_cannot_be_learnt_from_is_refused_in_words(tmp_path):
    with pytest.raises(InputError, match="2 prompts are too few"):
        train(SETTINGS, ["a dot", "A  DOT", "two dots"], tmp_path, counts=COUNTS)
    with pytest.raises(InputError, match="no metric 'beauty'"):
        train(SETTINGS, prompts(), tmp_path, metric="beauty", counts=COUNTS)
    for at_least in (1.5, float("nan")):
        with pytest.raises(InputError, match=r"no image has ssim ≥ .*: 1 is that of equal ones"):
            train(SETTINGS, prompts(), tmp_path, at_least=at_least, counts=COUNTS)
    recorded(tmp_path / "runs.jsonl")
    with pytest.raises(InputError, match=r"every image needs 5 of 40 steps for ssim ≥ 0\.1"):
        train(SETTINGS, prompts(), tmp_path, at_least=0.1, counts=COUNTS)


def test_offsets_cover_their_share_of_new_prompts():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        own = rng.normal(size=31)
        missed = np.repeat(own, 2) + 0.3 * rng.normal(size=62)
        found = offset(missed[:60], np.repeat(np.arange(30), 2), 0.8)
        covered.append((missed[60:] <= found).mean())
    assert np.mean(covered) >= 0.8 - 2 * np.std(covered) / 20
    assert np.mean(covered) <= 0.8 + 1 / 31 + 2 * np.std(covered) / 20
    assert offset(np.zeros(18), np.arange(18), 0.95) is None
    assert offset(np.zeros(19), np.arange(19), 0.95) == 0


def test_few_prompts_tell_fewer_quantiles():
    rng = np.random.default_rng(0)
    fitted = fit(
        rng.normal(size=(50, 384)).astype(np.float32), rng.choice(COUNTS, 50), np.arange(50), COUNTS, Parts.of(50)
    )
    assert max(fitted.quantiles) == 0.9
    assert fitted.tensors["weight2"].shape[0] == len(fitted.quantiles) == len(fitted.offsets)


def test_parts_are_whole_and_apart():
    parts = Parts.of(100)
    every = np.concatenate([parts.learnt, parts.stopped, parts.offsets, parts.judged])
    assert sorted(every.tolist()) == list(range(100))


def test_the_spread_is_parted_between_prompts_and_seeds():
    owner = np.repeat(np.arange(200), 3)
    assert spread(np.repeat([8, 16], 300), owner).seeds == 0
    seeds_alone = spread(np.tile([8, 16, 32], 200), owner)
    assert seeds_alone.prompts == 0
    assert seeds_alone.share == 0
    assert spread(np.array([8, 16]), np.array([0, 1])).seeds is None
