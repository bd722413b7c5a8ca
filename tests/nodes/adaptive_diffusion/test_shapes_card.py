"""The shapes' model card: what it says of schedules is measured, and none is praised for being like itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from dynflow.nodes.adaptive_diffusion.shapes.pipeline import ShapesPipeline  # noqa: E402
from dynflow.nodes.adaptive_diffusion.shapes.transformer import ShapesTransformer  # noqa: E402


@pytest.fixture
def shapes_card(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "scripts"))
    yield pytest.importorskip("shapes_card")
    sys.modules.pop("shapes_card", None)


def test_the_card_tells_of_schedules_and_leaves_the_pipeline_its_own(shapes_card, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shapes_card, "COUNTS", (2, 3))
    monkeypatch.setattr(shapes_card, "SHIFTED_COUNTS", (2, 4))
    monkeypatch.setattr(shapes_card, "TRUE_COUNT", 4)
    torch.manual_seed(0)
    transformer = ShapesTransformer(width=24, num_layers=1, num_heads=2)
    for silent in (transformer.out, transformer.conditioning):
        torch.nn.init.normal_(silent.weight, std=0.1)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    ShapesPipeline(transformer, scheduler).save_pretrained(tmp_path)
    measured = shapes_card.measure(tmp_path, 40, "test")
    found = {(row["shift"], row["steps"]): row for row in measured["shifts"]}
    assert found.keys() == {(shift, steps) for shift in (1.0, 2.0, 3.0) for steps in (2, 4)}
    assert found[1.0, 4]["ssim"] == found[2.0, 4]["ssim"] == pytest.approx(1)
    assert found[1.0, 4]["ssim to the true"] == pytest.approx(1)
    assert found[2.0, 4]["ssim to the true"] < 0.9999
    assert {row["captions"] for row in measured["shifts"]} == {10}
    shapes_card.write_card(tmp_path, measured, {"steps": 1})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "on 10 of these captions; the pipeline's own has shift\n2. SSIM" in card
    assert sum(line.startswith(("| 1 | ", "| 2 | ", "| 3 | ")) for line in card.splitlines()) >= 6
    pipeline = ShapesPipeline.from_pretrained(tmp_path)
    shapes_card.measure_shifts(pipeline, shapes_card.draw_captions(2, "test", seed=2), 3.0)
    assert pipeline.scheduler.config.shift == 2.0
    assert np.isfinite(measured["rows"][0]["ssim"])
