"""The benchmark of adaptive diffusion: it draws once, judges what it drew, and its oracles and intervals are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.benchmarks.scripts import load_script

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
arms = load_script("diffusion_arms")
figures = load_script("diffusion_figures")
diffusion = load_script("diffusion")
bars = load_script("diffusion_bars")

from dynflow.calibration.contracts import Tries  # noqa: E402
from dynflow.nodes.adaptive_diffusion.predictor import save  # noqa: E402
from dynflow.nodes.adaptive_diffusion.recordings import About, Image, Recording, Run  # noqa: E402
from dynflow.nodes.adaptive_diffusion.shapes.pipeline import ShapesPipeline  # noqa: E402
from dynflow.nodes.adaptive_diffusion.shapes.transformer import ShapesTransformer  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' solver


def test_all_arms_are_drawn_once_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    transformer = ShapesTransformer(width=24, num_layers=1, num_heads=2)
    ShapesPipeline(transformer, diffusers.FlowMatchEulerDiscreteScheduler()).save_pretrained(tmp_path / "shapes")
    noise = np.random.default_rng(0)
    sizes = {"weight1": (4, 384), "bias1": (4,), "weight2": (2, 4), "bias2": (2,)}
    tensors = {name: noise.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    tensors["bias2"] += 3
    told: dict[str, Any] = {
        "quantiles": (0.5, 0.9),
        "offsets": (0.0, 0.0),
        "counts": (8, 50),
        "card": "",
        "training": {},
    }
    save(tmp_path / "steps", tensors, model=str(tmp_path / "shapes"), **told)
    settings = {None: figures.Setting(0.9, 0.6, 20, 1), "predict": figures.Setting(0.9, None, 30, 1), "converge": None}
    monkeypatch.setattr(diffusion, "calibrated", lambda tries, share, confidence, alone: settings[alone])
    monkeypatch.setattr(diffusion, "COUNTS", {"Euler": (50, 10), "DPM-Solver++": (50, 10)})
    monkeypatch.setattr(diffusion, "SHIFTED_COUNTS", (10,))
    monkeypatch.setattr(diffusion, "SHEET_COUNTS", (10, 50))
    monkeypatch.setattr(bars, "FASTER", {"Euler 50": 2.0})
    command = ["--model", str(tmp_path / "shapes"), "--predictor", str(tmp_path / "steps"), "--captions", "4"]
    command += [
        "--seeds",
        "1",
        "--contract",
        "3",
        "--oracle",
        "3",
        "--finish",
        "3",
        "--draws",
        "5",
        "--rounds",
        "1",
        "--batch",
        "4",
    ]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    diffusion.main(command)
    results = json.loads((tmp_path / "out" / "diffusion.json").read_text(encoding="utf-8"))
    expected = {f"{solver} {count}" for solver in ("Euler", "DPM-Solver++") for count in (50, 10)}
    expected |= {"Euler 10, shift 2", "Euler 10, shift 3"}
    assert expected | {"predictor alone", "both"} <= results["arms"].keys()
    assert (results["judged"], results["known"], results["shift"]) == ("both", 3, 1)
    assert results["contract"].endswith("finished in 3 steps")
    assert len(results["verdicts"]) == 9
    assert all(each.startswith(("held: ", "MISSED: ")) for each in results["verdicts"])
    assert results["settings"]["converge alone"] is None
    assert results["arms"]["Euler 50"]["ssim"] == pytest.approx(1)
    assert results["arms"]["Euler 50"]["met"] == [1, 1, 1]
    assert results["oracles"]["oracle per image"][0] <= results["oracles"]["oracle per prompt"][0]
    told = capsys.readouterr()
    assert "| converge alone | refused | refused |" in told.out
    assert "calls of the denoiser and those of the adaptive arms: " in told.err
    assert (tmp_path / "out" / "diffusion_sheet.png").stat().st_size > 0
    drawn: list[Any] = []
    monkeypatch.setattr(arms, "draw", lambda *given, **more: drawn.append(given) or [])
    monkeypatch.setattr(diffusion.Studio, "draw", lambda studio, arm, images: drawn.append(arm.name))
    monkeypatch.setattr(diffusion.Studio, "waiting", lambda studio, arm, images, rounds: results["batch of 16"])
    diffusion.main(command)
    assert drawn == ["warm up", "pace"]


def test_arms_that_draw_alike_share_their_pictures(tmp_path: Path) -> None:
    found = diffusion.adaptive(
        {"both": figures.Setting(1.0, 0.6, 20, 1), "converge alone": figures.Setting(1.0, 0.6, 20, 1)}, finish=5
    )
    images = [("a red circle", place) for place in range(20)]
    studio = arms.Studio(None, None, images, tmp_path, window=16)
    assert studio.calls(found) == 20 * 20
    paths = {studio._path(arm, images) for arm in found}
    assert len(paths) == 1
    unlike = [replace(found[0], finish=3), replace(found[0], shift=2.0), replace(found[0], threshold=0.7)]
    assert not paths & {studio._path(arm, images) for arm in unlike}


def test_a_schedule_of_another_shift_is_the_arms_alone() -> None:
    pipeline = ShapesPipeline(
        ShapesTransformer(width=24, num_layers=1, num_heads=2), diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    )
    assert arms.scheduled(pipeline, arms.Arm("own")) is pipeline
    other = arms.scheduled(pipeline, arms.Arm("other", shift=3.0)).scheduler
    assert (type(other).__name__, other.config.shift) == ("FlowMatchEulerDiscreteScheduler", 3.0)
    multistep = arms.scheduled(pipeline, arms.Arm("multistep", "DPM-Solver++")).scheduler
    other.set_timesteps(10)
    multistep.set_timesteps(10)
    assert multistep.config.flow_shift == 2.0
    assert [arm.name for arm in diffusion.shifted(pipeline, [10])] == ["Euler 10, shift 1", "Euler 10, shift 3"]
    assert pipeline.scheduler.config.shift == 2.0


def recording() -> Recording:
    """Two prompts of two images each; planned 2 or 4 steps."""

    def image(prompt: str, seed: int, short: list[float], long: list[float]) -> Image:
        runs = {
            len(values): Run(np.array([np.inf, *[0.5] * (len(values) - 2), -np.inf]), {"ssim": np.array(values)})
            for values in (short, long)
        }
        runs = {count: Run(run.drift, {**run.metrics, "psnr": run.metrics["ssim"]}) for count, run in runs.items()}
        return Image(prompt, seed, runs)

    images = [
        image("easy", 0, [0.1, 0.95], [0.1, 0.95, 0.99, 1.0]),
        image("easy", 1, [0.1, 0.2], [0.1, 0.2, 0.96, 1.0]),
        image("hard", 0, [0.1, 0.2], [0.1, 0.2, 0.3, 1.0]),
        image("hard", 1, [0.95, 0.2], [0.95, 0.2, 0.3, 1.0]),
    ]
    return Recording.of(About("m", "", (2, 4)), images)


def test_the_oracle_takes_the_cheapest_pair_that_meets_the_contract() -> None:
    assert figures.oracle(recording(), 0.9, together=False)[0].tolist() == [2, 3, 4, 4]  # no stop at the first step
    assert figures.oracle(recording(), 0.9, together=True)[0].tolist() == [3, 3, 4, 4]


def test_the_oracle_pays_for_what_it_finishes() -> None:
    finished = replace(recording(), about=About("m", "", (2, 4), finish=1))
    assert figures.oracle(finished, 0.9, together=False)[0].tolist() == [2, 4, 4, 4]
    nothing_tried = np.array([[np.nan, np.nan, 0.95, 1.0]] * 4)
    runs = {4: replace(recording().runs[4], metrics={"ssim": nothing_tried})}
    assert figures.oracle(replace(finished, runs=runs), 0.9, together=False)[0].tolist() == [4, 4, 4, 4]


def test_the_arms_are_calibrated_each_on_its_own_side_of_the_grid() -> None:
    kept = np.ones((2, 2, 400))
    kept[1, 1, ::4] = 0  # what is loose on both sides fails every fourth
    cost = np.array([[50.0, 20.0], [30.0, 10.0]])[..., None] * np.ones(400)
    tries = Tries([[(1.0, None), (1.0, 0.1)], [(0.9, None), (0.9, 0.1)]], kept, cost, True)
    found = {alone: figures.calibrated(tries, 0.95, 0.9, alone) for alone in ("predict", "converge", None)}
    assert (found["predict"].quantile, found["predict"].threshold, found["predict"].steps) == (0.9, None, 30)
    assert (found["converge"].quantile, found["converge"].threshold, found["converge"].steps) == (1.0, 0.1, 20)
    assert found[None] == found["converge"]
    assert figures.calibrated(replace(tries, kept=np.zeros_like(kept)), 0.95, 0.9) is None
    told = figures.promises(tries, 0.95, 0.9, 10)
    assert told == {"draws": 10, "captions": 400, "broken": 0, "refused": 0, "saving kept": 1}


def test_images_of_a_caption_stay_together_and_intervals_are_about_the_point() -> None:
    owner = np.repeat(np.arange(50), 2)
    resampling = figures.Resampling.of(owner, 200)
    for places in resampling.places[:5]:
        assert len(places) == 100
        assert (owner[places][::2] == owner[places][1::2]).all()
    values = np.random.default_rng(0).normal(size=50)[owner]
    point, draws = resampling.of_mean(values)
    low, high = figures.interval(point, draws)
    assert low < point < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(50), rel=0.25)
    assert point < figures.upper(point, draws) < high


def test_a_window_is_drawn_in_batches_of_one_plan() -> None:
    assert arms.batches([8, 50, 8, 8, 50], 2) == [[1, 4], [0, 2], [3]]
