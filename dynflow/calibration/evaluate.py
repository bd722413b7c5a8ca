"""How good a graph is on recorded outcomes: its curve of quality over cost, its figures, and what stands beside it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration import curves
from dynflow.calibration.columns import Floats
from dynflow.calibration.contamination import FEWEST_ROWS, without_training_rows
from dynflow.calibration.curves import Interval
from dynflow.calibration.drift import Drift, drift_of
from dynflow.calibration.independence import memory_notes
from dynflow.calibration.kept import KeptOutputs
from dynflow.calibration.measurements import Scores, measured, predictions, scores
from dynflow.calibration.outcomes import OutcomeFile
from dynflow.calibration.paths import path
from dynflow.calibration.recorded import Bindings
from dynflow.calibration.reliability import Reliability, reliability
from dynflow.calibration.replay import Replay
from dynflow.calibration.signals import Progress
from dynflow.calibration.walked import Walked
from dynflow.errors import CalibrationError, OutcomeError
from dynflow.language.source import did_you_mean

if TYPE_CHECKING:
    from dynflow.flow import Flow

TUNING_SHARE = 0.2
"""Part of the rows that a path through several params is fitted on; it is then judged on the others."""
RESAMPLES = 1_000
_NEAR = 0.75
"""How alike the name of an outcome that nobody asked for is to one asked for, to be taken for misspelt (0 to 1)."""
_POINTS = 200
"""Points of a curve that are told, at most."""


@dataclass(frozen=True)
class Ends:
    """The two paths that a graph chooses between: the answer that promises refer to, and the cheapest other one."""

    strong: str
    weak: str


@dataclass
class Evaluation:
    """What `dynflow evaluate` tells; shares and CPT are 0…1, intervals are of 95 % (bootstrap)."""

    n: int
    """Independent draws: requests, or conversations."""
    ends: Ends
    params: Mapping[str, Any]
    """As the graph has them now."""
    figures: Mapping[str, Interval]
    """`apgr`, `cpt50`, `cpt80` and their `_exact` forms of the curve; `quality`, `usd`, `strong_share` as it is now."""
    baselines: Mapping[str, Mapping[str, Interval]]
    """`random`, `prompt_length`, `oracle` by the curve's figures; `always_weak`, `always_strong` by quality and USD."""
    points: Sequence[Mapping[str, Any]] = ()
    """The curve: params, `strong_share`, `quality`, `usd`."""
    baseline_curves: Mapping[str, curves.Curve] = field(default_factory=dict)
    """Curves of `random`, `prompt_length` and `oracle`, for pictures."""
    tuning_rows: int = 0
    """Further draws, which the path through several params was fitted on."""
    trained_on: int = 0
    """Rows that were left out because an artefact was trained on them."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """How often signals failed."""
    notes: Sequence[str] = ()
    scores: Sequence[Scores] = ()
    """The numbers that decide, as the graph is now."""
    reliability: Sequence[Reliability] = ()
    """How true the probabilities are that signals give."""
    drift: Sequence[Drift] = ()
    """How far these rows are from those that the graph was calibrated on."""
    requests: int | None = None
    """Requests of these conversations; None: each draw is a request."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "n": self.n,
            **({} if self.requests is None else {"requests": self.requests}),
            **{name: figure.as_dict() for name, figure in self.figures.items()},
            "strong": self.ends.strong,
            "weak": self.ends.weak,
            "params": dict(self.params),
            "baselines": {
                name: {figure: interval.as_dict() for figure, interval in figures.items()}
                for name, figures in self.baselines.items()
            },
            "curve": [dict(point) for point in self.points],
            "reliability": {each.signal: each.as_dict() for each in self.reliability},
            "drift": {each.port: each.as_dict() for each in self.drift},
            "tuning_rows": self.tuning_rows,
            "left_out": {"trained_on": self.trained_on},
            "failures": dict(self.failures),
            "notes": list(self.notes),
        }


def evaluate(
    flow: Flow,
    file: OutcomeFile,
    bindings: Bindings | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    of: str | None = None,
    seed: int = 0,
    times: int = RESAMPLES,
    progress: Progress = lambda done, total, what: None,
    kept: KeptOutputs | None = None,
) -> Evaluation:
    """Replay a graph over outcomes, with its params as they are and over their whole range.

    `params` stand in for those that the graph has. `of` is the strong path's answer; default: the graph's baseline,
    else the dearest answer. Raises `OutcomeError` with every faulty row, and `CalibrationError` where too few are left.
    """
    file, trained_on = without_training_rows(flow, file)
    replay = Replay(flow, file, bindings, progress, kept)
    tuning = None
    if len(replay.knobs) > 1:
        first, rest = file.split(TUNING_SHARE)
        tuning = Replay(flow, first, bindings, progress, kept) if first.rows else None
        replay = Replay(flow, rest, bindings, progress, kept)
    for name in params or {}:
        if (node := name.partition("/")[0]) != name and node not in replay.inside:
            raise OutcomeError(f"{name!r} cannot be set: outcomes of {node!r} are read as a whole")
    drawn = replay.file.drawn
    unit = "conversation" if replay.file.conversational else "row"
    if drawn < 2:
        raise CalibrationError(f"{drawn} {unit}{'' if drawn == 1 else 's'} to evaluate on: give {FEWEST_ROWS} or more")
    ends = ends_of(replay, of)
    weak, strong = replay.outcome_quality(ends.weak), replay.outcome_quality(ends.strong)
    weights = curves.resamples(drawn, times, seed)[:, replay.file.draws]
    now = replay.walk([params or {}])
    length = np.array([len(request.text) for request in replay.requests], dtype=np.float64)
    figures = dict.fromkeys(curves.MEASURES, Interval(math.nan, math.nan, math.nan))
    points: list[dict[str, Any]] = []
    notes = [*memory_notes(flow, file), *name_notes(replay), *cost_notes(replay, ends)]
    if drawn < FEWEST_ROWS:
        notes.append(f"intervals from {drawn} {unit}s are too narrow: give {FEWEST_ROWS} or more")
    if replay.knobs:
        walked = replay.walk(path(tuning or replay, ends.strong))
        called = walked.called[ends.strong]
        value = curves.swept_measures(called, walked.quality, weak, strong)
        figures = curves.with_intervals(value, curves.swept_measures(called, walked.quality, weak, strong, weights))
        points = _points(walked, ends)
        if np.isnan(value).all():
            notes.append(f"{ends.strong} is no better than {ends.weak} on these rows: there is no gap to recover")
    else:
        notes.append("no param is marked `tune: true`, so there is no curve; the figures are of the graph as it is")
    figures |= {
        "quality": curves.mean_interval(now.quality[0], weights),
        "usd": curves.mean_interval(now.usd[0], weights),
        "strong_share": curves.mean_interval(now.called[ends.strong][0], weights),
    }
    walk = replay.walking([params or {}])
    drifts = [] if flow.calibration is None else drift_of(flow.calibration, measured(walk))
    return Evaluation(
        drawn,
        ends,
        {**{name: flow.params[name].default for name in (*replay.defaults, *replay.knobs)}, **(params or {})},
        figures,
        _baselines(replay, ends, length, weak, strong, weights),
        points,
        _curves(replay, ends, length),
        tuning.file.drawn if tuning else 0,
        trained_on,
        dict(replay.failures),
        [*notes, *failure_notes(replay), *(str(each) for each in drifts if each.drifted)],
        scores(walk),
        [reliability(each) for each in predictions(walk, ends.weak, ends.strong)],
        drifts,
        len(replay) if replay.file.conversational else None,
    )


def ends_of(replay: Replay, of: str | None) -> Ends:
    """The strong and the weak answer. Raises `OutcomeError` where there are no two, or `of` is none."""
    answers = replay.answers
    if of is not None and of not in answers:
        hint = did_you_mean(of, answers)
        raise OutcomeError(f"{of!r} is no answer that the graph can come to{hint}: there are {', '.join(answers)}")
    usd = {name: float(np.mean(replay.outcome_usd(name))) for name in answers}
    unknown = any(math.isnan(value) for value in usd.values())
    strong = of or (replay.baseline if replay.baseline in answers else None)
    if strong is None and unknown and len(answers) > 1:
        raise OutcomeError(
            "what the answers cost is unknown, so the strong one is not: say which with --of, "
            "give `baseline:` in the graph, or a `price:` to each model"
        )
    strong = strong or max(answers, key=usd.__getitem__)
    others = [name for name in answers if name != strong]
    if not others:
        raise OutcomeError(f"{strong!r} is the only answer that the graph can come to: there is nothing to compare")
    cheap = min(others, key=(lambda name: float(np.mean(replay.outcome_quality(name)))) if unknown else usd.__getitem__)
    return Ends(strong, cheap)


def cost_notes(replay: Replay, ends: Ends) -> list[str]:
    """What is to be known of the costs."""
    notes: list[str] = []
    for name in (ends.weak, ends.strong):
        node = replay.recorded_nodes[name]
        if np.isnan(replay.outcome_usd(name)).any():
            model = replay.plan(name).model
            notes.append(f"the cost of {name} is unknown: give the model {model!r} a `price:`, or the outcomes a `usd`")
        elif node.estimated:
            part = f", for {node.without_response:,} of the prompt alone, as there is no response"
            text = f"the cost of {name} is estimated from its price for {node.estimated:,} of {len(replay):,} rows"
            notes.append(text + (part if node.without_response else ""))
    return notes


def name_notes(replay: Replay) -> list[str]:
    """Outcomes that no node has, under a name so near to one looked for that it may be misspelt."""
    notes: list[str] = []
    for name in replay.file.names:
        near = difflib.get_close_matches(name, sorted(replay.looked_for), n=1, cutoff=_NEAR)
        if near and name not in replay.looked_for:
            notes.append(f"no node has the outcomes of {name!r} (did you mean {near[0]!r}?)")
    return notes


def failure_notes(replay: Replay) -> list[str]:
    """Signals that failed, and how. Raises the first failure of one that never did anything else."""
    notes: list[str] = []
    for name, count in replay.failures.items():
        first = replay.first_failure[name]
        if name not in replay.succeeded:
            first.add_note(f"in node {name!r}, on every row")
            raise first
        notes.append(f"{name} failed {count:,} times; first: {type(first).__name__}: {first}")
    return notes


def _baselines(
    replay: Replay, ends: Ends, length: Floats, weak: Floats, strong: Floats, weights: Any
) -> dict[str, Mapping[str, Interval]]:
    found: dict[str, Mapping[str, Interval]] = {}
    for name, score in curves.BASELINES.items():
        values = score(length, weak, strong)
        figures = curves.score_measures(values, weak, strong)
        found[name] = curves.with_intervals(figures, curves.score_measures(values, weak, strong, weights))
    for name, node, quality in (("always_weak", ends.weak, weak), ("always_strong", ends.strong, strong)):
        usd = curves.mean_interval(replay.outcome_usd(node), weights)
        found[name] = {"quality": curves.mean_interval(quality, weights), "usd": usd}
    return found


def _curves(replay: Replay, ends: Ends, length: Floats) -> dict[str, curves.Curve]:
    """Quality and USD of the baselines, over their share of strong calls."""
    found: dict[str, curves.Curve] = {}
    weak, strong = replay.outcome_quality(ends.weak), replay.outcome_quality(ends.strong)
    for name, score in curves.BASELINES.items():
        values = score(length, weak, strong)
        curve = curves.score_curve(values, weak, strong)
        usd = curves.score_curve(values, replay.outcome_usd(ends.weak), replay.outcome_usd(ends.strong)).quality
        found[name] = curves.Curve(curve.share, curve.quality, usd)
    return found


def _points(walked: Walked, ends: Ends) -> list[dict[str, Any]]:
    share, quality = walked.called[ends.strong].mean(1), walked.quality.mean(1)
    usd = walked.usd.mean(1)
    places = np.unique(np.linspace(0, len(share) - 1, _POINTS).astype(int))
    return [
        {
            "params": dict(walked.settings[place]),
            "strong_share": float(share[place]),
            "quality": float(quality[place]),
            "usd": None if math.isnan(usd[place]) else float(usd[place]),
        }
        for place in places
    ]
