"""Set a graph's params so that a promise is kept on new requests, with a stated confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration import curves
from dynflow.calibration.artefacts import fingerprints
from dynflow.calibration.columns import Floats
from dynflow.calibration.contamination import without_training_rows
from dynflow.calibration.cost_cap import most_usd
from dynflow.calibration.drift import spread
from dynflow.calibration.earlier import earlier_params, kept_audit, replaced
from dynflow.calibration.evaluate import TUNING_SHARE, Ends, cost_notes, ends_of, failure_notes, name_notes
from dynflow.calibration.independence import check_independent
from dynflow.calibration.kept import KeptOutputs
from dynflow.calibration.measurements import measured
from dynflow.calibration.outcomes import Fault, OutcomeFile, outcome_error
from dynflow.calibration.paths import check_read, path
from dynflow.calibration.promises import Kind, Promise, Sample, Tested, last_kept, variables
from dynflow.calibration.recorded import Bindings
from dynflow.calibration.replay import Replay
from dynflow.calibration.saved import Calibration
from dynflow.calibration.signals import Progress
from dynflow.calibration.walked import Params, Walked
from dynflow.errors import CalibrationError
from dynflow.hashes import content_hash
from dynflow.money import precise_dollars

if TYPE_CHECKING:
    from dynflow.flow import Flow

FEWEST_TUNING = 20
_RESAMPLES = 500
_SETTINGS = 200
"""Settings that are tested, at most: more would not be told apart."""


@dataclass(frozen=True)
class Calibrated:
    """A calibration that succeeded, and what is to be known of it."""

    calibration: Calibration
    ends: Ends
    notes: tuple[str, ...] = ()


def calibrate(
    flow: Flow,
    file: OutcomeFile,
    bindings: Bindings | None = None,
    *,
    kind: Kind,
    target: float,
    of: str | None = None,
    confidence: float = 0.9,
    tuning: OutcomeFile | None = None,
    turns: int | None = None,
    progress: Progress = lambda done, total, what: None,
    kept: KeptOutputs | None = None,
) -> Calibrated:
    """The cheapest (for a promise of cost or share: the best) params that keep the promise.

    Which settings are tried, and in which order, comes from `tuning` rows: those of another file, or a fifth of these.
    Where rows tell their conversations, these are the independent draws, and their first `turns` requests are what is
    promised of; default: as many as the longest of the tuning rows has. Raises `CalibrationError` where the promise
    cannot be made: `contaminated`, `too_little_data`, `broken_promise`, `no_cap`, `no_knob`, `dependent`;
    `OutcomeError` with every faulty row.
    """
    check_independent(flow, file)
    file, trained_on = without_training_rows(flow, file)
    apart = tuning is not None
    if tuning is None:
        tuning, file = file.split(TUNING_SHARE)
    else:
        _check_apart(tuning, file)
    conversational = file.conversational or tuning.conversational
    unit = "conversations" if conversational else "rows"
    if apart and tuning.drawn < FEWEST_TUNING:
        raise CalibrationError(
            f"{tuning.drawn:,} {unit} are too few to choose settings on: give at least {FEWEST_TUNING}"
        )
    if tuning.drawn < FEWEST_TUNING or not file.rows:
        given = tuning.drawn + file.drawn
        raise CalibrationError(
            f"{given:,} {unit} are too few to choose settings on one part and test them on another: give at least "
            f"{math.ceil(max(FEWEST_TUNING / TUNING_SHARE, 1.2 * given))}"
        )
    if turns is not None and not conversational:
        raise CalibrationError('no row says its "conversation", of which so many turns would count: leave `turns` out')
    whole = len(file.rows)
    turns = (turns or 1 + max(tuning.turns)) if conversational else None
    if turns is not None:
        tuning, file = tuning.first(turns), file.first(turns)
    first = Replay(flow, tuning, bindings, progress, kept)
    check_read(first)
    ends = ends_of(first, of)
    settings = thinned(path(first, ends.strong))
    replay = Replay(flow, file.shuffled(), bindings, progress, kept)  # a sorted file would mislead a gambler
    promise = Promise(kind, target, ends.strong, confidence, turns)
    if not promise.begins_strong:
        settings = settings[::-1]
    walked = replay.walk(settings)
    most = cost_cap(flow, ends, target) if kind == "usd" else math.inf
    sample = sample_of(replay, walked, ends, most)
    if kind == "usd":
        _check_costs(replay, walked, most)
    tested = variables(promise, sample)
    chosen = last_kept(tested.kept(confidence))
    if chosen < 0:
        raise _refusal(promise, tested, ends, unit)
    notes = [*name_notes(replay), *(cost_notes(replay, ends) if kind == "usd" else ()), *failure_notes(replay)]
    if later := whole - len(file.rows):
        notes.append(f"{later:,} requests after the first {turns:,} of their conversations were not counted")
    if chosen == 0:
        notes.append(_nothing_gained(promise, tested, ends, unit))
    params = {
        **earlier_params(flow),
        **{name: flow.params[name].default for name in replay.stopping},
        **settings[chosen],
    }
    notes += replaced(flow, params)
    return Calibrated(
        Calibration(
            graph_hash=flow.graph_hash,
            params=params,
            promise={
                "kind": kind,
                "target": target,
                "of": ends.strong,
                "confidence": confidence,
                **({"turns": turns} if turns is not None else {}),
            },
            statement=promise.statement(),
            n=file.drawn,
            tuning_rows=tuning.drawn,
            trained_on=trained_on,
            bound=_bound(promise, tested, chosen),
            expected=_expected(replay, walked, ends, chosen),
            signals=spread(measured(replay.walking([settings[chosen]])), file.drawn / len(file.rows)),
            data_sha256=file.sha256,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            dynflow=version("dynflow"),
            requests=len(file.rows) if conversational else None,
            audit=kept_audit(flow, params),
            artefacts=fingerprints(flow),
        ),
        ends,
        tuple(notes),
    )


def _check_apart(tuning: OutcomeFile, file: OutcomeFile) -> None:
    """Raises `OutcomeError` where rows that choose what is tried would test it too."""
    known = {content_hash(row.input) for row in tuning.rows if row.conversation is None}
    named = {row.conversation for row in tuning.rows} - {None}
    faults = [
        Fault(row.line, f"tuning has this {'request' if row.conversation is None else 'conversation'} too")
        for row in file.rows
        if (content_hash(row.input) in known if row.conversation is None else row.conversation in named)
    ]
    if faults:
        raise outcome_error(file.path, faults)


def thinned(settings: list[Params], most: int = _SETTINGS) -> list[Params]:
    """Not more settings than can be told apart, with the first and the last."""
    if len(settings) <= most:
        return settings
    return [settings[place] for place in np.unique(np.linspace(0, len(settings) - 1, most).astype(int))]


def sample_of(replay: Replay, walked: Walked, ends: Ends, most_usd: float = math.inf) -> Sample:
    """What promises are tested on."""
    reference = replay.outcome_quality(ends.strong)
    recorded = [replay.outcome_quality(name) for name in replay.recorded_nodes]
    known = np.concatenate([quality[~np.isnan(quality)] for quality in recorded])
    binary = bool(np.isin(known, (0.0, 1.0)).all())
    called = walked.called[ends.strong]
    return Sample(walked.quality, walked.usd, called, reference, most_usd, binary, replay.file.draws)


def cost_cap(flow: Flow, ends: Ends, target: float) -> float:
    """USD that one request can cost at most. Raises `CalibrationError` where nothing says so, or nothing costs."""
    most = most_usd(flow)
    if not most:
        raise CalibrationError(f"{ends.strong!r} costs nothing, and so does {ends.weak!r}: give `price:`", "no_cap")
    if target > most:
        raise CalibrationError(
            f"no request costs more than {precise_dollars(most)}, whatever the params: there is nothing to promise "
            "above that"
        )
    return most


def _check_costs(replay: Replay, walked: Walked, most: float) -> None:
    """Raises `CalibrationError` where costs are unknown, or contradict what is said to be the most."""
    if np.isnan(walked.usd).any():
        raise CalibrationError("some costs are unknown: give the outcomes a `usd`, or each model a `price:`", "no_cap")
    bare = [name for name, node in replay.recorded_nodes.items() if node.without_response]
    if bare:
        names = " and ".join(map(repr, bare))
        raise CalibrationError(
            f"outcomes of {names} have neither `usd` nor `response`: what they cost cannot be estimated", "no_cap"
        )
    dearest = float(walked.usd.max())
    if replay.graph.spec.limits.usd_per_request is None and dearest > most * (1 + 1e-9):  # a limit cuts them off
        raise CalibrationError(
            f"a recorded request cost {precise_dollars(dearest)}, and by prices and `max_tokens` none costs more than "
            f"{precise_dollars(most)}: "
            "mend these, or set `limits: {usd_per_request: …}`",
            "no_cap",
        )


def _refusal(promise: Promise, tested: Tested, ends: Ends, unit: str) -> CalibrationError:
    """Why not even the setting that keeps the promise most surely is shown to keep it."""
    surest = f"always {ends.strong if promise.begins_strong else ends.weak}"
    needed, draws = tested.rows_needed(0, promise.confidence), tested.values.shape[1]
    what = {"quality_of": "quality less the promised part", "quality": "quality", "usd": "USD", "share": "share"}
    told = f"with {surest}, or the nearest that the params allow, mean {what[promise.kind]} is {tested.mean(0):.4g}"
    if needed is None:
        return CalibrationError(
            f"no setting keeps the promise: {told} on {draws:,} {unit}; promise less", "broken_promise"
        )
    more = max(needed - draws, math.ceil(0.1 * draws))
    return CalibrationError(
        f"{draws:,} {unit} are too few for this promise at {100 * promise.confidence:g} % confidence: {told}, which "
        f"takes about {more:,} {unit} more to be sure of; give more, or promise less",
        "too_little_data",
    )


def _nothing_gained(promise: Promise, tested: Tested, ends: Ends, unit: str) -> str:
    """What it would take to go further than the surest setting."""
    last, draws = len(tested.values) - 1, tested.values.shape[1]
    places = sorted({1 + place * (last - 1) // 20 for place in range(21)}) if last > 0 else []
    needed = [count for place in places if (count := tested.rows_needed(place, promise.confidence)) is not None]
    surest = f"always {ends.strong if promise.begins_strong else ends.weak}"
    if not needed:
        return f"only {surest} keeps the promise"
    more = max(min(needed) - draws, draws // 10)
    return f"only {surest} is shown to keep the promise; about {more:,} {unit} more may change that"


def _bound(promise: Promise, tested: Tested, chosen: int) -> dict[str, Any]:
    names = {
        "quality_of": f"quality - {promise.target:g} x quality of {promise.of}",
        "quality": "quality",
        "usd": "USD",
        "share": f"share of {promise.of}",
    }
    limit = 0.0 if promise.kind == "quality_of" else promise.target
    return {
        "method": tested.method,
        "of": names[promise.kind],
        "value": round(tested.bound(chosen, promise.confidence), 6),
        "limit": limit,
    }


def _expected(replay: Replay, walked: Walked, ends: Ends, chosen: int) -> dict[str, Any]:
    weights = curves.resamples(replay.file.drawn, _RESAMPLES, 0)[:, replay.file.draws]

    def figure(values: Floats) -> Mapping[str, float | None]:
        return curves.mean_interval(values, weights).as_dict()

    return {
        "quality": figure(walked.quality[chosen]),
        "usd": figure(walked.usd[chosen]),
        "strong_share": figure(walked.called[ends.strong][chosen].astype(np.float64)),
        "reference": {
            "quality": figure(replay.outcome_quality(ends.strong)),
            "usd": figure(replay.outcome_usd(ends.strong)),
        },
    }
