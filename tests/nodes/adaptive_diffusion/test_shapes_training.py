"""The training script: a run that was broken off goes on where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")


@pytest.fixture
def train_shapes(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "scripts"))
    yield pytest.importorskip("train_shapes")
    for name in ("train_shapes", "shapes_data", "shapes_card"):
        sys.modules.pop(name, None)


def test_a_broken_off_run_ends_as_a_whole_one(train_shapes, tmp_path) -> None:
    data = train_shapes.prepare(tmp_path / "data", 12)
    again = train_shapes.prepare(tmp_path / "data", 12)  # read back
    assert np.array_equal(data.pictures, again.pictures)
    assert data.text.max() + 1 < len(data.starts)

    def fresh():
        torch.manual_seed(0)
        model = train_shapes.ShapesTransformer(width=32, num_layers=1, num_heads=2)
        return train_shapes.Training(model, "cpu", 10)

    def steps(training, until):
        while training.step < until:
            torch.manual_seed(training.step)
            rng = np.random.default_rng(training.step)
            training.learn(*train_shapes.batch(data, rng, 4, "cpu"))
        return training

    whole = steps(fresh(), 4)
    steps(fresh(), 2).save(tmp_path / "state.pt")
    broken = fresh()
    broken.resume(tmp_path / "state.pt")
    steps(broken, 4)
    for one, other in zip(whole.average.parameters(), broken.average.parameters(), strict=True):
        torch.testing.assert_close(one, other)
