"""Criteria that learn: what they learn, where it is kept, and that a run, a batch and a record say the same."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

import dynflow
from dynflow.cli.train import exit_criteria
from dynflow.errors import ArtefactError, GraphError, InputError
from dynflow.nodes.early_exit_classifier import artefact, criteria
from dynflow.nodes.early_exit_classifier.criteria import (
    Learnt,
    LearntCriterion,
    Lesson,
    Recording,
    Scheduled,
    criterion_of,
    recorded,
)
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.readout import Readout
from dynflow.nodes.early_exit_classifier.teach import data_of, parted, teach, unseen
from dynflow.nodes.early_exit_classifier.training import past_future, schedule
from tests.nodes.early_exit.tiny_encoders import COMMON, GOOD, QUICK, encoder, one_thread, reviews

GRAPH = """
version: 1
models:
  reviews: {{provider: encoder, model: {model}}}
nodes:
  mood:
    type: early_exit_classifier
    model: reviews
    exit: {exit}
edges:
  - {{from: start, to: mood}}
  - {{from: mood, to: end}}
"""
TEXTS = [" ".join([*COMMON[: 1 + at % 7], GOOD[at % 4] if at % 3 else "bleak", *COMMON[at % 5 :]]) for at in range(40)]


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact trained on `reviews.tsv` beside it."""
    from dynflow.nodes.early_exit_classifier.train import train

    folder = tmp_path_factory.mktemp("model")
    data, base = reviews(folder / "reviews.tsv", rows=400), encoder(folder / "bert", "bert")
    train([data], folder / "out", model=str(base), recipe=dataclasses.replace(QUICK, held_out=160, epochs=2, rate=3e-3))
    return folder / "out"


@pytest.fixture(scope="module")
def taught(untaught: Path) -> Path:
    place = untaught.parent / "taught"
    shutil.copytree(untaught, place)
    teach(place, [untaught.parent / "reviews.tsv"])
    return place


@pytest.fixture(scope="module")
def model(taught: Path) -> EarlyExitModel:
    return artefact.read(artefact.describe(str(taught)))


def test_teaching_leaves_the_rest_as_it_is_and_says_what_it_did(untaught: Path, taught: Path) -> None:
    for name in ("heads.safetensors", "deltas.safetensors", "curve.svg"):
        assert (untaught / name).read_bytes() == (taught / name).read_bytes()
    before, after = artefact.describe(str(untaught)), artefact.describe(str(taught))
    assert set(after.facts.criteria) == {"past_future", "scheduled"}
    assert before.digest != after.digest
    card = (taught / "README.md").read_text()
    assert card.startswith((untaught / "README.md").read_text())
    assert "| scheduled | " in card.partition("## Criteria that were taught")[2]

    data = data_of(after, [untaught.parent / "reviews.tsv"])
    rows = parted(data, after)
    assert rows.fresh
    assert rows.judged == unseen(data, after)
    assert unseen(data, before) == data.split.held_out
    assert sorted(rows.fresh + rows.judged) == data.split.held_out
    hashes = artefact.training_hashes(after)
    assert hashes == artefact.training_hashes(before) | {artefact.row_hash(text) for text in data.texts(rows.fresh)}
    assert not hashes & {artefact.row_hash(text) for text in data.texts(rows.judged)}


def test_teaching_again_gives_the_same(taught: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(taught, again)
    shutil.copytree(taught.parent / "bert", tmp_path / "bert")
    teach(again, [taught.parent / "reviews.tsv"])
    for file in taught.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


@pytest.mark.parametrize(("name", "thresholds"), [("past_future", (0.6, 0.8)), ("scheduled", (0.5, 1.0, 1.5))])
def test_a_run_a_batch_and_a_record_say_the_same(model: EarlyExitModel, name: str, thresholds: tuple[float]) -> None:
    logits = model.trajectories(TEXTS, criterion=name)
    left = []
    for threshold in thresholds:
        criterion = criterion_of({"criterion": name, "threshold": threshold}, model.learnt)
        together = model.classify(TEXTS, criterion, batch_rows=16)
        alone = [model.classify([text], criterion)[0] for text in TEXTS]
        exits = recorded.exits(criterion, logits, model.layers)
        labels = recorded.answers(criterion, logits, model.layers, exits)
        assert [each.layer for each in together] == [each.layer for each in alone]
        assert [each.layer for each in together] == [model.layers[place] for place in exits]
        assert [each.label for each in together] == [model.labels[place] for place in labels]
        np.testing.assert_allclose(
            [each.probabilities for each in together], [each.probabilities for each in alone], atol=1e-5
        )
        left += exits.tolist()
    assert len(set(left)) > 1, "rows must leave at several exits"


def test_rows_that_never_leave_have_the_whole_models_answer(model: EarlyExitModel) -> None:
    never = criterion_of({"criterion": "past_future", "threshold": 1.0}, model.learnt)
    whole = model.classify(TEXTS, None)
    assert [each.label for each in model.classify(TEXTS, never)] == [each.label for each in whole]
    assert (model.trajectories(TEXTS)[:, -1] == model.trajectories(TEXTS, criterion="past_future")[:, -1]).all()


def lesson(rows: int = 600, exits: int = 4) -> Lesson:
    """States in which the label shows more and more clearly, and logits that say as much."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 2, rows)
    hardness = draw.random((rows, 1)) * 3
    noise = draw.normal(size=(rows, 1)) + 0.5 * draw.normal(size=(rows, exits))
    signal = (2 * truth[:, None] - 1) * np.linspace(0.6, 3, exits) - hardness * noise
    states = draw.normal(size=(rows, exits, 8)) * 0.1
    states[:, :, 0] = signal
    logits = np.stack([-signal, signal], axis=-1)
    recording = Recording(states.astype(np.float16), logits.astype(np.float32), truth)
    return Lesson((0, 1, 3, 4), recording, recording, 0)


def test_budgets_are_kept_on_the_rows_that_were_learnt_from() -> None:
    given = lesson()
    learnt = schedule.learn(given)
    json.dumps(learnt.facts)
    costs = np.array(given.layers, dtype=float)
    right = []
    for budget in (0.5, 1.0, 1.7, 2.5, 3.6):
        criterion = Scheduled(budget, learnt.facts)
        exits = recorded.exits(criterion, given.fresh.logits, given.layers)
        assert costs[exits].mean() == pytest.approx(budget, rel=0.02)
        said = recorded.answers(criterion, given.fresh.logits, given.layers, exits)
        right.append((said == given.fresh.truth).mean())
    assert right == sorted(right)
    static = (given.fresh.logits.argmax(-1) == given.fresh.truth[:, None]).mean(0)
    assert right[1] > static[1] + 0.005, "a schedule beats the static layer of the same cost"


def test_a_schedule_ends_where_nobody_or_everybody_leaves() -> None:
    given = lesson()
    facts = schedule.learn(given).facts
    for threshold, place in ((0.0, 0), (4.0, 3), (9.0, 3)):
        assert set(recorded.exits(Scheduled(threshold, facts), given.fresh.logits, given.layers)) == {place}


def test_imitated_states_come_near_the_real_ones() -> None:
    given = lesson()
    learnt = past_future.learn(given)
    readout = criteria.PastFuture.readout(learnt)
    states = torch.from_numpy(given.trained.states).float()
    said = torch.from_numpy(given.trained.logits)
    _logits, memory, future = readout.looked(0, states[:, 0], said[:, 0], None)
    _logits, memory, _future = readout.looked(1, states[:, 1], said[:, 1], memory)
    real = memory[:, readout.shape.size :]
    nearness = torch.nn.functional.cosine_similarity(future[:, : readout.shape.size], real)
    shuffled = torch.nn.functional.cosine_similarity(future[:, : readout.shape.size], real.roll(1, 0))
    assert nearness.mean() > shuffled.mean() + 0.2
    told, truth = readout(3, states[:, 2], said[:, 2], memory)[0], torch.from_numpy(given.trained.truth)
    loss = torch.nn.functional.cross_entropy
    assert loss(told, truth) < loss(said[:, 2], truth) - 0.05
    assert (told.argmax(1) == truth).float().mean() >= (said[:, 2].argmax(1) == truth).float().mean()


@pytest.mark.parametrize("name", ["past_future", "scheduled"])
def test_a_graph_is_told_before_anything_loads_where_the_model_has_not_learnt(
    name: str, untaught: Path, taught: Path
) -> None:
    exit_ = f"{{criterion: {name}, threshold: 0.9}}"
    with pytest.raises(GraphError, match=f"has not learnt {name}: teach it by `dynflow train exit-criteria`"):
        dynflow.loads(GRAPH.format(model=untaught, exit=exit_))
    flow = dynflow.loads(GRAPH.format(model=taught, exit=exit_))
    assert [each.label for each in flow.batch(TEXTS)] == [flow.invoke(text).label for text in TEXTS]


def test_the_command_line_teaches_one_criterion_alone(untaught: Path, tmp_path: Path) -> None:
    place = tmp_path / "taught"
    shutil.copytree(untaught, place)
    shutil.copytree(untaught.parent / "bert", tmp_path / "bert")
    data = str(untaught.parent / "reviews.tsv")
    result = CliRunner().invoke(exit_criteria, ["--data", data, "--to", str(place), "--criterion", "scheduled"])
    assert result.exit_code == 0, result.output
    assert "taught scheduled on " in result.output
    assert "scheduled, mean layers: at 99.5 % " in result.output
    assert set(artefact.describe(str(place)).facts.criteria) == {"scheduled"}


def test_a_kill_leaves_the_old_or_the_new_and_the_rest_stays_taught(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(criteria.CRITERIA, "recalled", Recalled)
    place, data = tmp_path / "taught", taught.parent / "reviews.tsv"
    shutil.copytree(taught, place)
    shutil.copytree(taught.parent / "bert", tmp_path / "bert")
    real = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == "artefact.json":
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            teach(place, [data], criteria=["recalled"])
    assert set(artefact.read(artefact.describe(str(place))).learnt) == {"past_future", "scheduled"}
    report = teach(place, [data], criteria=["recalled"])
    after = artefact.describe(str(place))
    assert set(artefact.read(after).learnt) == {"past_future", "scheduled", "recalled"}
    assert len(report.figures) == 3
    assert [file.name for file in place.glob("criteria*")] == [after.facts.criteria_file]


def test_other_data_is_refused(taught: Path, tmp_path: Path) -> None:
    other = reviews(tmp_path / "other.tsv", rows=300)
    with pytest.raises(InputError, match=r"other\.tsv: not the data that .* was trained on"):
        teach(taught, [other])
    renamed = tmp_path / "renamed.tsv"
    lines = (taught.parent / "reviews.tsv").read_text().splitlines()
    names = {"0": "good", "1": "awful"}
    renamed.write_text("\n".join([lines[0], *(f"{line[:-1]}{names[line[-1]]}" for line in lines[1:])]))
    with pytest.raises(
        InputError, match=r"renamed\.tsv: its labels are awful, good, and those .* trained on were 0, 1"
    ):
        teach(taught, [renamed])
    with pytest.raises(InputError, match="entropy learns nothing: it needs no teaching; past_future and scheduled do"):
        teach(taught, [other], criteria=["entropy"])
    with pytest.raises(InputError, match="there is no criterion 'past'"):
        teach(taught, [other], criteria=["past"])


def test_too_few_rows_held_out_are_told(taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynflow.nodes.early_exit_classifier.teach.FEWEST_HELD_OUT", 200)
    with pytest.raises(InputError, match=r"with 160 rows held out, too few to teach .* --held-out 200 or more"):
        teach(taught, [taught.parent / "reviews.tsv"])


@pytest.mark.parametrize(
    ("name", "change"),
    [("past_future", {"width": 8}), ("past_future", {"layers": [0, 2]}), ("scheduled", {"least": [[0.5]]})],
)
def test_what_fits_no_model_is_told(taught: Path, tmp_path: Path, name: str, change: dict[str, object]) -> None:
    place = tmp_path / "taught"
    shutil.copytree(taught, place)
    shutil.copytree(taught.parent / "bert", tmp_path / "bert")
    path = place / "artefact.json"
    facts = json.loads(path.read_text())
    facts["criteria"][name].update(change)
    path.write_text(json.dumps(facts))
    with pytest.raises(ArtefactError, match=f"what {name} has learnt does not fit the model .*: teach it again"):
        artefact.read(artefact.describe(str(place)))


class Recall(Readout):
    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, layer, state, logits, memory):
        seen = state[:, :2] if memory is None else memory + state[:, :2]
        return seen + self.offset, seen


class Recalled(LearntCriterion):
    """As another package may bring one: it learns a number, reads states, remembers, and takes a setting."""

    name = "recalled"
    summary = "what is remembered, at least"
    settings = ("weight",)

    def __init__(self, threshold, facts, weight=1.0):
        super().__init__(threshold, facts)
        self.weight = weight

    def score(self, history, layer):
        return self.weight * max(history[-1])

    @classmethod
    def learn(cls, lesson):
        return Learnt({"rows": len(lesson.fresh.truth)}, {"offset": torch.tensor([0.5])})

    @classmethod
    def readout(cls, learnt):
        return Recall(float(learnt.tensors["offset"]))


def test_another_packages_criterion_learns_remembers_and_has_settings(
    untaught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(criteria.CRITERIA, "recalled", Recalled)
    place = tmp_path / "taught"
    shutil.copytree(untaught, place)
    shutil.copytree(untaught.parent / "bert", tmp_path / "bert")
    report = teach(place, [untaught.parent / "reviews.tsv"], criteria=["recalled"])
    assert list(report.figures) == ["recalled, mean layers"]
    assert artefact.describe(str(place)).facts.criteria == {"recalled": {"rows": report.rows}}
    exit_ = "{criterion: recalled, threshold: 0.7, settings: {weight: %s}}"
    layers = []
    for weight in (0.1, 10.0):
        flow = dynflow.loads(GRAPH.format(model=place, exit=exit_ % weight))
        layers.append([flow.run(text).ports["layer"] for text in TEXTS[:12]])
        assert [each.label for each in flow.batch(TEXTS[:12])] == [flow.invoke(text).label for text in TEXTS[:12]]
    assert layers == [[2] * 12, [0] * 12]
    with pytest.raises(GraphError, match=r"recalled takes no 'wait' \(did you mean 'weight'\?\)"):
        dynflow.loads(GRAPH.format(model=place, exit="{criterion: recalled, threshold: 0.7, settings: {wait: 1}}"))
