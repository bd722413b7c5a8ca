"""Figures, deltas and losses of a training, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynflow.learning.labelled import Columns
from dynflow.nodes.early_exit_classifier.artefact import apply_deltas
from dynflow.nodes.early_exit_classifier.training.card import told_threshold
from dynflow.nodes.early_exit_classifier.training.command import command_line
from dynflow.nodes.early_exit_classifier.training.deltas import deltas
from dynflow.nodes.early_exit_classifier.training.figures import judge
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe
from dynflow.nodes.early_exit_classifier.training.stages import Loss, stages_of

SURE, UNSURE = [4.0, 0.0], [0.1, 0.0]
LOGITS = np.array(
    [[SURE, SURE, SURE], [SURE, SURE, SURE], [UNSURE, SURE[::-1], SURE[::-1]], [UNSURE, UNSURE, SURE[::-1]]],
    dtype=np.float32,
)
TRUTH = [0, 0, 1, 1]


def test_curves_are_what_running_at_a_threshold_gives() -> None:
    figures = judge(LOGITS, TRUTH, (0, 2, 4))
    assert figures.accuracy == (0.5, 0.75, 1.0)
    assert [(point.layers, point.accuracy) for point in figures.curves["static"]] == [(4, 1.0), (2, 0.75), (0, 0.5)]
    best = figures.cheapest("entropy", 1.0)
    assert best is not None
    assert (best.layers, best.accuracy) == ((0 + 0 + 2 + 4) / 4, 1.0)
    assert 0.09 < best.threshold < 0.69
    least = figures.cheapest("entropy", 0.5)
    assert least is not None
    assert (least.layers, least.accuracy) == (0, 0.5)
    assert figures.cheapest("entropy", 1.1) is None


def test_one_exit_has_no_curve_but_itself() -> None:
    figures = judge(LOGITS[:, 2:], TRUTH, (4,))
    assert list(figures.curves) == ["static"]
    assert figures.full == 1.0


def test_full_is_the_better_of_the_last_exit_and_the_encoder_alone() -> None:
    logits = LOGITS[:, :2]  # whose last exit has one row wrong
    alone = LOGITS[:, 2]  # and this none
    assert judge(logits, TRUTH, (0, 2)).full == 0.75
    assert judge(logits, TRUTH, (0, 2), alone).full == 1.0
    assert judge(logits, TRUTH, (0, 2), alone).cheapest("static", 0.75) is not None
    assert judge(logits, TRUTH, (0, 2), alone).cheapest("static", 0.76) is None
    assert judge(LOGITS, TRUTH, (0, 2, 4), logits[:, 0]).full == 1.0


@pytest.mark.parametrize(
    ("criterion", "threshold", "told"),
    [
        ("confidence", 0.99961273, "0.999612"),
        ("confidence", 0.84812, "0.848"),
        ("confidence", 1.0, "1"),
        ("entropy", 6.394e-06, "0.0000064"),
        ("entropy", 0.4251, "0.426"),
        ("voting", 1.78885, "1.788"),
        ("patience", 4.0, "4"),
        ("margin", 0.0, "0"),
    ],
)
def test_thresholds_are_told_so_that_the_same_rows_leave(criterion: str, threshold: float, told: str) -> None:
    assert told_threshold(criterion, threshold) == told


def test_a_command_gives_every_part_of_a_recipe() -> None:
    recipe = Recipe(exits=(0, 2), shared=True, decay=0.1, weighting="late")
    columns = Columns("words", "mood")
    line = command_line(
        ["a b.csv"],
        "out",
        "own/model",
        recipe,
        revision="c0ffee",
        teacher="big",
        columns=columns,
        names={"0": "no"},
        data_name=None,
    )
    assert line == (
        "dynflow train early-exit --data 'a b.csv' --out out --model own/model --revision c0ffee --teacher big "
        "--text-column words --label-column mood --name 0=no --weighting late --exits 0,2 --shared --decay 0.1"
    )


def test_deltas_give_the_weights_back() -> None:
    torch.manual_seed(0)
    before, after = torch.nn.Linear(32, 24), torch.nn.Linear(32, 24)
    with torch.no_grad():
        after.weight.copy_(before.weight + torch.randn(24, 4) @ torch.randn(4, 32))
    found = deltas(dict(before.named_parameters()), dict(after.named_parameters()), rank=4)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "weight.up": (24, 4),
        "weight.down": (4, 32),
        "bias.delta": (24,),
    }
    apply_deltas(before, found, "here")
    torch.testing.assert_close(before.weight, after.weight, atol=2e-2, rtol=0)
    torch.testing.assert_close(before.bias, after.bias)


def test_deltas_leave_out_what_did_not_change_and_stay_whole_where_that_is_smaller() -> None:
    before, after = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)
    with torch.no_grad():
        after.bias.copy_(before.bias)
    found = deltas(dict(before.named_parameters()), dict(after.named_parameters()), rank=64)
    assert list(found) == ["weight.delta"]


def test_the_teacher_is_the_last_exit_where_none_is_given() -> None:
    labels = torch.tensor([0, 1])
    last, early = torch.tensor([[3.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    loss = Loss(Recipe(distil=1.0), 2, None)
    assert loss([last, last], labels, None, False) == pytest.approx(
        0.5 * float(torch.nn.functional.cross_entropy(last, labels)), abs=1e-6
    )
    loss([early, last], labels, None, False).backward()
    assert early.grad is not None
    assert (early.grad[:, 0] * torch.tensor([-1.0, 1.0]) > 0).all()  # towards what the last exit says
    only = loss([early, last], labels, None, True)
    assert float(only) == pytest.approx(float(torch.nn.functional.cross_entropy(last, labels)))


def test_weights_and_stages_are_those_of_the_recipe() -> None:
    assert Recipe().weights(3) == [1, 1, 1]
    assert Recipe(weighting="early").weights(3) == [1.5, 1.0, 0.5]
    assert Recipe(weighting="late").weights(3) == [0.5, 1.0, 1.5]
    assert [stage.epochs for stage in stages_of(Recipe(alone_epochs=0, epochs=3))] == [3]
    alone, others = stages_of(Recipe(method="two-stage"))
    assert (alone.last_only, alone.tunes, others.last_only, others.tunes) == (True, True, False, False)
    turns = stages_of(Recipe(method="alternating"))[-1]
    assert [turns.trains_last_only(step) for step in range(4)] == [True, False, True, False]
