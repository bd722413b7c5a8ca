"""Training an answer check: it learns, it is reproducible, it knows what it was trained on, bad rows are named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import dynflow
from dynflow.cli.app import cli
from dynflow.errors import ArtefactError, OutcomeError
from dynflow.learning.crossfitting import cross_fit
from dynflow.nodes.answer_check import artefact
from dynflow.nodes.answer_check.artefact import Judge
from dynflow.nodes.answer_check.checks import CHECKS
from dynflow.nodes.answer_check.estimator import EVIDENCE, SurfaceEstimator
from dynflow.nodes.answer_check.train import train
from dynflow.nodes.answer_check.verdict import Case
from dynflow.testing import FakeChat

COUNT = 120


def made_row(number: int, random: np.random.Generator) -> dict[str, Any]:
    """A sum whose draft is right, reckoned wrong, or cut off; the strong route is right."""
    a, b, c = (int(value) for value in random.integers(2, 99, 3))
    question = f"Person {number} buys {a} boxes of {b} pens and loses {c} of them. How many pens are left?"
    fault = random.random()
    product = a * b + (7 if fault < 0.25 else 0)
    draft = f"There are {a} * {b} = <<{a}*{b}={product}>>{product} pens.\n"
    draft += f"So {product} - {c} = {product - c} are left.\n#### {product - c}" if not 0.25 < fault < 0.4 else f"{a} *"
    weak = {
        "quality": float(fault >= 0.4),
        "response": draft,
        "ports": {"confidence": 0.6 + 0.4 * random.random() * (fault >= 0.4)},
    }
    outcomes = {"weak": weak, "strong": {"quality": float(random.random() < 0.9)}}
    return {"id": f"made/{number}", "prompt": question, "outcomes": outcomes}


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    return [made_row(number, random) for number in range(COUNT)]


@pytest.fixture(scope="module")
def trained(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train([written(folder / "outcomes.jsonl", rows)], "surface", folder / "head")
    return folder / "head"


def case(row: dict[str, Any]) -> Case:
    return Case(row["prompt"], row["outcomes"]["weak"]["response"], tuple(CHECKS))


def test_it_learns_which_drafts_are_good(trained: Path, rows: list[dict[str, Any]]) -> None:
    facts = json.loads((trained / "head.json").read_text("utf-8"))
    assert facts["figures"]["all"]["apgr"] > 0.75
    assert facts["numbers_only"] is True
    judge = artefact.load(str(trained))
    verdicts = judge.judge([case(row) for row in rows])
    good = np.array([row["outcomes"]["weak"]["quality"] for row in rows]) > 0
    sure = np.array([verdict.confidence for verdict in verdicts])
    assert sure[good].mean() > 0.8 > 0.3 > sure[~good].mean()
    scores = [verdict.score for verdict in verdicts]
    assert max(scores) > 0.9
    assert min(scores) < 0.3


def test_each_answer_is_judged_alone(trained: Path, rows: list[dict[str, Any]]) -> None:
    judge = artefact.load(str(trained))
    together = judge.judge([case(row) for row in rows[:5]])
    for row, verdict in zip(rows[:5], together, strict=True):
        assert judge.judge([case(row)])[0].confidence == pytest.approx(verdict.confidence, abs=1e-5)


def test_evidence_that_was_learnt_is_not_weighed_twice(trained: Path, rows: list[dict[str, Any]]) -> None:
    judge = artefact.load(str(trained))
    one = case(rows[0])
    sure, unsure = (Case(one.question, one.answer, one.checks, token_confidence=value) for value in (0.95, 0.6))
    found = [verdict.confidence for verdict in judge.judge([sure, unsure])]
    assert found[0] > found[1] > 0.6 * found[0]


def test_the_same_input_gives_the_same_bytes(trained: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    train([written(tmp_path / "outcomes.jsonl", rows)], "surface", tmp_path / "head")
    for name in ("head.safetensors", "head.json", "README.md"):
        assert (tmp_path / "head" / name).read_bytes() == (trained / name).read_bytes()
    assert not (tmp_path / "head" / ".features").exists()


def test_it_knows_its_training_rows(trained: Path, rows: list[dict[str, Any]]) -> None:
    judge = artefact.load(str(trained))
    assert judge.trained_on(f"  {rows[3]['prompt'].upper()}\n")
    assert not judge.trained_on("How many pens are left?")
    text = f"""
version: 1
models: {{a: {{provider: host}}}}
nodes:
  draft: {{type: chat, model: a}}
  check:
    type: answer_check
    answer: ${{draft.text}}
    estimator: {trained}
edges:
  - {{from: start, to: draft}}
  - {{from: draft, to: check}}
  - {{from: check, to: end}}
"""
    from dynflow.request import Request

    node = dynflow.loads(text, models={"a": FakeChat()}).resources.cold_node("check")
    assert node.trained_on(Request(rows[3]["prompt"]))
    assert node.fingerprint() == json.loads((trained / "head.json").read_text("utf-8"))["sha256"]


def test_every_bad_row_is_named_and_nothing_is_written(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    broken = json.loads(json.dumps(rows))
    del broken[1]["outcomes"]["weak"]["response"]
    del broken[4]["outcomes"]["strong"]
    with pytest.raises(OutcomeError) as caught:
        train([written(tmp_path / "outcomes.jsonl", broken)], "surface", tmp_path / "head")
    assert "outcomes.jsonl:2: the outcome of 'weak' has no `response`" in str(caught.value)
    assert "outcomes.jsonl:5: has no outcome of 'strong'" in str(caught.value)
    assert not (tmp_path / "head").exists()


def test_a_damaged_artefact_is_refused(trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "head"
    shutil.copytree(trained, broken)
    data = bytearray((broken / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (broken / "head.safetensors").write_bytes(data)
    with pytest.raises(ArtefactError, match="SHA-256"):
        artefact.load(str(broken)).warm_up()
    (broken / "head.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtefactError, match="damaged"):
        artefact.load(str(broken))


@pytest.mark.parametrize("kind", ["embedding", "surface"])
def test_shipped_heads_are_whole(kind: str) -> None:
    judge = artefact.load(kind)
    assert isinstance(judge, Judge)
    assert judge.numbers_only
    judge.warm_up()
    data = (artefact.SHIPPED / kind / "head.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == judge.digest
    assert "gsm8k.jsonl" in (artefact.SHIPPED / kind / "README.md").read_text("utf-8")


def test_the_command_line_trains(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    plain = [{**row, "id": f"row{number}"} for number, row in enumerate(rows)]  # each is a source of its own
    file = written(tmp_path / "outcomes.jsonl", plain)
    asked = ["train", "check", "--data", str(file), "--out", str(tmp_path / "head"), "--kind", "surface"]
    result = CliRunner().invoke(cli, asked)
    assert result.exit_code == 0
    first, figures, rest, use = result.stdout.splitlines()[-4:]
    assert f"trained on {COUNT} rows" in first
    assert figures.startswith(f"  all: rows {COUNT}, ")
    assert rest == f"  and {COUNT} more, each of fewer than 20 rows"
    assert use.startswith("use it with")
    assert (tmp_path / "head" / "head.safetensors").is_file()


def test_rows_are_judged_by_heads_that_did_not_see_them() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(60, SurfaceEstimator().size)).astype(np.float32)
    features[:, -len(EVIDENCE) :] = np.nan
    quality = random.integers(0, 2, (60, 2)).astype(float)  # nothing to learn: only a head that saw it can know
    folds = np.arange(60) % 10
    blind = cross_fit(SurfaceEstimator, features, quality, folds)
    seeing = SurfaceEstimator()
    seeing.fit_features(features, quality)
    assert np.corrcoef(blind[:, 0], quality[:, 0])[0, 1] < 0.3
    assert np.corrcoef(seeing.predict_features(features)[:, 0], quality[:, 0])[0, 1] > 0.6
    assert seeing.weighs == (False, False, False)


def test_many_rows_need_few_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    features = random.normal(size=(200, SurfaceEstimator().size)).astype(np.float32)
    quality = np.column_stack([features[:, 0] > 0, features[:, 1] > -1]).astype(float)
    whole, thinned = SurfaceEstimator(), SurfaceEstimator()
    whole.fit_features(features, quality)
    monkeypatch.setattr("dynflow.nodes.answer_check.estimator.MOST_ANCHORS", 100)
    thinned.fit_features(features, quality)
    assert thinned.head is not None
    assert len(thinned.head.anchors) == 100
    predicted = [each.predict_features(features)[:, 0] for each in (whole, thinned)]
    assert np.corrcoef(*predicted)[0, 1] > 0.8
