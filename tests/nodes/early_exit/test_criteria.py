"""Criteria: their numbers, and that a record of whole runs says what a run does."""

import math
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynflow.calibration.trajectories import Trajectories
from dynflow.nodes.early_exit_classifier import criteria
from dynflow.nodes.early_exit_classifier.criteria import CRITERIA, criterion_of, recorded
from dynflow.nodes.early_exit_classifier.criteria.criterion import probabilities
from tests.nodes.early_exit import tiny

THRESHOLDS = {
    "entropy": (0.4, 0.9),
    "confidence": (0.6, 0.8),
    "margin": (0.3, 0.7),
    "patience": (1, 2),
    "patience_and_confidence": (0.5, 0.7),
    "voting": (1.1, 1.5),
    "static": (1, 3),
}
HISTORY = [[0.7, 0.3], [0.4, 0.6], [0.2, 0.8]]


@pytest.mark.parametrize(
    ("given", "score", "leaves"),
    [
        ({"criterion": "entropy", "threshold": 0.51}, -(0.2 * math.log(0.2) + 0.8 * math.log(0.8)), True),
        ({"criterion": "entropy", "threshold": 0.5}, 0.500402, False),
        ({"criterion": "confidence", "threshold": 0.8}, 0.8, True),
        ({"criterion": "margin", "threshold": 0.61}, 0.6, False),
        ({"criterion": "patience", "threshold": 1}, 1, True),
        ({"criterion": "patience", "threshold": 2}, 1, False),
        ({"criterion": "patience_and_confidence", "threshold": 0.6}, 0.6, True),
        ({"criterion": "patience_and_confidence", "threshold": 0.6, "patience": 4}, -1, False),
        ({"criterion": "voting", "threshold": 1.2}, 2 / math.sqrt(3), False),
        ({"criterion": "static", "threshold": 5}, 5, True),
    ],
)
def test_scores(given, score, leaves):
    criterion = criterion_of(given)
    assert criterion.score(HISTORY, 5) == pytest.approx(score, abs=1e-6)
    assert criterion.leaves(HISTORY, 5) is leaves


def test_votes_decide_the_label_and_the_last_exit_between_as_many():
    voting = criterion_of({"criterion": "voting", "threshold": 9})
    place, shares = voting.answer(HISTORY)
    assert (place, list(shares)) == (1, pytest.approx([0.3, 0.7]))
    assert voting.answer([[0.9, 0.1, 0.0], [0.1, 0.5, 0.4]])[0] == 1
    assert voting.answer([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.1, 0.5, 0.4]])[0] == 0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"criterion": "entropie", "threshold": 1}, "did you mean 'entropy'"),
        ({"criterion": "entropy"}, "entropy needs a `threshold`: entropy of the probabilities at most"),
        ({"criterion": "margin", "threshold": 2}, "a threshold of margin is 0 to 1, not 2"),
        ({"criterion": "patience", "threshold": -1}, "a threshold of patience is 0 or more, not -1"),
        ({"criterion": "entropy", "threshold": math.nan}, "not nan"),
        ({"criterion": "patience_and_confidence", "threshold": 0.5, "patience": 0}, "1 or more"),
        ({"criterion": "static", "threshold": 1, "patience": 2}, "static takes no 'patience'"),
        ({"criterion": "static", "threshold": "3"}, "a threshold is a number, not '3'"),
        ({"criterion": "patience_and_confidence", "threshold": 0.5, "patience": 2.5}, "whole exits, not 2.5"),
        ({"threshold": 1}, "`criterion` is one of entropy, .*, not None"),
    ],
)
def test_what_is_no_criterion_is_told_in_words(given, says):
    with pytest.raises(ValueError, match=says):
        criterion_of(given)


def test_another_packages_criterion_plugs_in(monkeypatch):
    class Whim(criteria.Criterion):
        name = "whim"
        summary = "a whim, at least"

        def score(self, history, layer):
            return float(layer % 2)

    def installed(group, name):
        points = {"whim": EntryPoint(name, "tests:whim", group), "wham": EntryPoint(name, "tests:wham", group)}
        return [points[name]] if name in points else []

    monkeypatch.setattr(criteria, "entry_points", installed)
    monkeypatch.setattr(EntryPoint, "load", lambda point: Whim if point.name == "whim" else "no class")
    monkeypatch.setattr(criteria, "CRITERIA", dict(CRITERIA))
    assert criterion_of({"criterion": "whim", "threshold": 1}).leaves(HISTORY, 3)
    with pytest.raises(ValueError, match=r"the entry point 'wham' of dynflow\.exit_criteria is no Criterion"):
        criterion_of({"criterion": "wham", "threshold": 1})


@given(st.lists(st.floats(-1e30, 1e30), min_size=2, max_size=5))
def test_probabilities_add_up_however_large_the_logits(logits):
    shares = probabilities(logits)
    assert math.fsum(shares) == pytest.approx(1)
    assert shares[logits.index(max(logits))] == max(shares)
    for name, (threshold, _) in THRESHOLDS.items():
        score = criterion_of({"criterion": name, "threshold": threshold}).score([shares] * 3, 3)
        assert math.isfinite(score)


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_record_says_what_a_run_does(name):
    model, texts = tiny.model(), tiny.texts(60)
    trajectories = model.trajectories(texts)
    for threshold in THRESHOLDS[name]:
        criterion = criterion_of({"criterion": name, "threshold": threshold})
        run = model.classify(texts, criterion)
        left = recorded.exits(criterion, trajectories, model.layers)
        labels = recorded.answers(criterion, trajectories, model.layers, left)
        assert [each.layer for each in run] == [model.layers[place] for place in left]
        assert [each.label for each in run] == [tiny.LABELS[place] for place in labels]
        if name != "static":
            assert len(set(left)) > 1, "rows must leave at several exits"

        scores = recorded.scores(criterion, trajectories, model.layers)
        cost = np.tile(np.array(model.layers, dtype=float), (len(texts), 1))
        record = Trajectories(cost, scores, np.ones_like(cost))
        assert (record.stops([recorded.leaving_threshold(criterion)])[0] == left).all()
