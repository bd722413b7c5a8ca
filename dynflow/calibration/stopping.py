"""Set when a node may stop early, so that a promise is kept on new texts: from whole runs alone, each made once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from dynflow.calibration import curves
from dynflow.calibration.artefacts import fingerprints
from dynflow.calibration.bounds import Array, clopper_pearson_upper
from dynflow.calibration.columns import Flags, Floats
from dynflow.calibration.contamination import FEWEST_ROWS
from dynflow.calibration.drift import spread
from dynflow.calibration.earlier import earlier_params, replaced
from dynflow.calibration.promises import Kind, Promise, Sample, Tested, last_kept, sides, variables
from dynflow.calibration.rules import the_one
from dynflow.calibration.saved import Calibration
from dynflow.calibration.signals import Progress
from dynflow.calibration.trajectories import Runs
from dynflow.errors import CalibrationError, InputError
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.calibration.rules import StopRule
    from dynflow.flow import Flow
    from dynflow.language.spec import ParamBody
    from dynflow.learning.labelled import Labelled

_EVEN = 300
"""Values of the param that are tried: so many at even distances, and about as many ever nearer to its strict end, where
scores of a sure model lie close together. They are the same whatever the rows are."""
_NEAREST = 1e-5
CELLS = 2**22
"""Settings times rows that are tested at once: some 200 MB."""
_RESAMPLES = 500
_SHOWN = 20
_AUDITED = 0.99
"""Confidence of the rate of disagreement that audits are held against, where none is promised."""


@dataclass(frozen=True)
class Stopping:
    """A calibration that succeeded, and what is to be known of it."""

    calibration: Calibration
    notes: tuple[str, ...] = ()


def calibrate_stopping(
    flow: Flow,
    rows: Sequence[Labelled],
    *,
    kind: Kind,
    target: float,
    of: str | None = None,
    confidence: float = 0.9,
    within: float = 0.03,
    timed: bool = False,
    names: Mapping[str, str] | None = None,
    data_sha256: str = "",
    progress: Progress = lambda done, total, what: None,
) -> Stopping:
    """The loosest value of the param that a node stops early by, of those that are shown to keep the promise.

    `kind`: `gap` (needs the rows' labels, which `names` translates into the node's), `disagreement` or `budget`, which
    `timed` makes one of milliseconds. `of` is the node, where the graph has several. Raises `CalibrationError` where
    nothing can be promised: `no_knob`, `contaminated`, `too_little_data`, `broken_promise`; `InputError` for rows that
    cannot be used, naming all.
    """
    node, rule = stop_rule(flow, of)
    body = flow.params[rule.param]
    rows, trained_on = _without_training_rows(flow, node, rows)
    _check_texts(rule, rows)
    truth = _truth(rule, rows, names or {}) if kind == "gap" else None
    order = np.random.default_rng(0).permutation(len(rows))  # a sorted file would mislead a gambler
    runs = rule.runs([rows[place].text for place in order], progress, timed)
    values = grid(body, rule)
    if kind == "budget":
        unit = "milliseconds" if timed else rule.unit
        promise = Promise(kind, target, node, confidence, within=within, unit=unit)
    else:
        promise = Promise(kind, target, node, confidence, unit=rule.unit)
    tried = Tried(promise, rule, runs, values, None if truth is None else [truth[place] for place in order])
    chosen = tried.chosen()
    agreement = tried.agreement(chosen)
    params = {**earlier_params(flow), rule.param: values[chosen]}
    return Stopping(
        Calibration(
            graph_hash=flow.graph_hash,
            params=params,
            promise=_promise_dict(promise),
            statement=promise.statement(),
            n=len(rows),
            tuning_rows=0,
            trained_on=trained_on,
            bound=tried.bound(chosen),
            expected=_expected(tried, chosen, agreement),
            signals=spread({f"{node}.{port}": tried.at(found, chosen) for port, found in runs.ports.items()}),
            data_sha256=data_sha256,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            dynflow=version("dynflow"),
            audit={
                "node": node,
                "limit": target if kind == "disagreement" else round(clopper_pearson_upper(1 - agreement, _AUDITED), 6),
                "promised": kind == "disagreement",
            },
            artefacts=fingerprints(flow),
        ),
        (*replaced(flow, params), *tried.notes(chosen)),
    )


def stop_rule(flow: Flow, of: str | None) -> tuple[str, StopRule]:
    """The node that stops early by a tunable param, and how. Raises `CalibrationError` (`no_knob`)."""
    params = {name: body.default for name, body in flow.params.items()}
    found: dict[str, StopRule] = {}
    for name in flow.checked.nodes:
        rule = flow.resources.cold_node(name).stop_rule(params)
        if rule is not None and flow.params[rule.param].tune:
            found[name] = rule
    return the_one(
        found,
        of,
        "stops early by a param marked `tune: true`",
        "stop early",
        "no node stops early by a param marked `tune: true`: give an early_exit_classifier `exit: {criterion: "
        "entropy, threshold: ${params.NAME}}`, and NAME as {default: 0.2, min: 0, max: 0.69, tune: true}",
    )


def grid(body: ParamBody, rule: StopRule) -> list[Any]:
    """Values of the param to try, the strictest first. They depend on the graph alone, never on rows."""
    assert body.min is not None
    assert body.max is not None
    low, high = max(body.min, 0.0), min(body.max, rule.most)
    if not low < high:
        raise CalibrationError(
            f"the param {rule.param!r} ranges from {body.min:g} to {body.max:g}; what it decides takes 0 to "
            f"{rule.most:g}: mend its `min` and `max`",
            "no_knob",
        )
    steps = np.unique(np.concatenate([np.linspace(0, 1, _EVEN + 1), np.geomspace(_NEAREST, 1, _EVEN)]))
    found = low + (high - low) * steps if rule.falling else high - (high - low) * steps
    if isinstance(body.default, int):
        whole = np.arange(math.ceil(low), math.floor(high) + 1)
        if len(whole) < 2:
            raise CalibrationError(
                f"the param {rule.param!r} takes whole numbers, as its default is one, and of what makes sense, "
                f"{low:g} to {high:g}, that leaves nothing to choose: write its default as {body.default}.0",
                "no_knob",
            )
        whole = np.unique(np.clip(np.round(found), whole[0], whole[-1]))
        return [int(value) for value in (whole if rule.falling else whole[::-1])]
    return [float(value) for value in np.clip(found, low, high)]


class Tried:
    """What each value of the param [t], the strictest first, makes of whole runs on n texts."""

    def __init__(
        self, promise: Promise, rule: StopRule, runs: Runs, values: Sequence[float], truth: Sequence[str] | None
    ) -> None:
        self.promise = promise
        self.runs = runs
        self.truth = truth
        self._thresholds = np.asarray(values, dtype=np.float64) * (-1.0 if rule.falling else 1.0)
        self._trajectories = runs.against(runs.whole if truth is None else truth)
        self.cost, self._kept = self._walked()

    def _walked(self) -> tuple[Floats, list[Flags]]:
        """The mean cost [t], and for each hypothesis which settings [t] are shown to keep it; in parts, for memory."""
        several = self.promise.kind == "budget"
        cost: list[Floats] = []
        kept: list[Flags] = []
        parts = math.ceil(self._thresholds.size * len(self.runs.whole) / CELLS)
        for settings in np.array_split(self._thresholds, parts):
            sample = self._trajectories.under(settings, self.runs.cap)
            cost.append(sample.usd.mean(1))
            if several or not kept or kept[-1].all():  # of one sequence nothing counts after its first failure
                kept.append(np.stack([each.kept(self._level) for each in self._tested(sample)]))
            else:
                kept.append(np.zeros((1, len(settings)), dtype=bool))
        return np.concatenate(cost), list(np.concatenate(kept, axis=1))

    @property
    def _level(self) -> float:
        """The confidence of each test: the two of a budget share the doubt."""
        return (1 + self.promise.confidence) / 2 if self.promise.kind == "budget" else self.promise.confidence

    def _tested(self, sample: Sample) -> tuple[Tested, ...]:
        return sides(self.promise, sample) if self.promise.kind == "budget" else (variables(self.promise, sample),)

    def sample(self, setting: int) -> Sample:
        """What one setting does: [1, n]."""
        return self._trajectories.under(self._thresholds[[setting]], self.runs.cap)

    def tested(self, setting: int) -> tuple[Tested, ...]:
        """The hypotheses on one setting; a budget has two."""
        return self._tested(self.sample(setting))

    def at(self, found: Array, setting: int) -> Floats:
        """What a record [n, k] has where one setting stops [n]."""
        stops = self._trajectories.stops(self._thresholds[[setting]])[0]
        column: Floats = np.asarray(found)[np.arange(len(stops)), stops]
        return column

    def agreement(self, setting: int) -> Floats:
        """1 where the output is that of the whole run [n]."""
        same: Floats = (self.at(self.runs.output, setting) == self.runs.whole).astype(np.float64)
        return same

    def chosen(self) -> int:
        """The setting to take. Raises `CalibrationError`."""
        return self._within_budget() if self.promise.kind == "budget" else self._loosest()

    def _loosest(self) -> int:
        chosen = last_kept(self._kept[0])
        if chosen < 0:
            [tested] = self.tested(0)
            what = "more is wrong" if self.promise.kind == "gap" else "is said otherwise"
            told = f"{100 * tested.mean(0):.3g} % {what} than by whole runs, where the least stops early"
            raise _refusal(told, tested.rows_needed(0, self._level), tested, self.promise)
        return chosen

    def _within_budget(self) -> int:
        """The setting nearest to the budget, of those shown to be neither too dear nor too cheap."""
        promise, cost = self.promise, self.cost
        if not cost.min() <= promise.target <= cost.max():
            raise CalibrationError(
                f"{promise.of} takes {cost.min():.3g} to {cost.max():.3g} {promise.unit} on average, whatever its "
                f"threshold: {promise.target:g} is not among these",
                "broken_promise",
            )
        cheap_enough, dear_enough = self._kept
        chosen = nearest_within(cost, promise.target, cheap_enough, dear_enough)
        if chosen >= 0:
            return chosen
        nearest = int(np.argmin(np.abs(cost - promise.target)))
        sides = self.tested(nearest)
        needed = [tested.rows_needed(0, self._level) for tested in sides]
        told = f"at the setting nearest to it, {promise.of} takes {cost[nearest]:.4g} {promise.unit}"
        most = None if None in needed else max(count for count in needed if count is not None)
        raise _refusal(told, most, sides[0], promise)

    def bound(self, setting: int) -> dict[str, Any]:
        """What a calibration file tells of the bound."""
        promise = self.promise
        if promise.kind == "budget":
            above, below = self.tested(setting)
            return {
                "method": above.method,
                "of": promise.unit,
                "value": round(above.bound(0, self._level), 6),
                "limit": round(promise.target * (1 + promise.within), 6),
                "least": round(below.bound(0, self._level), 6),
                "least_limit": round(promise.target * (1 - promise.within), 6),
            }
        [tested] = self.tested(setting)
        name = "share of further mistakes" if promise.kind == "gap" else "share of other answers"
        value = round(tested.bound(0, self._level), 6)
        return {"method": tested.method, "of": name, "value": value, "limit": promise.target}

    def notes(self, setting: int) -> tuple[str, ...]:
        """What is to be known where next to nothing is gained."""
        whole = self.runs.cost[:, -1].mean()
        if self.promise.kind == "budget" or self.cost[setting] < 0.99 * whole:
            return ()
        worth = np.flatnonzero(self.cost < 0.9 * whole)[:: max(1, len(self.cost) // 20)]
        needed = [self.tested(int(place))[0].rows_needed(0, self._level) for place in worth]
        rows = [count for count in needed if count is not None]
        if not rows:
            return ("the promise leaves next to nothing to stop early",)
        more = max(min(rows) - len(self.runs.whole), len(self.runs.whole) // 10)
        return (f"the promise leaves next to nothing to stop early; about {more:,} rows more may change that",)


def nearest_within(cost: Array, target: float, cheap_enough: Flags, dear_enough: Flags) -> int:
    """The setting whose mean cost [t] is nearest to the target, of those shown to be cheap and dear enough [t]; or -1.

    Settings are in order, the strictest and dearest first. Cheap enough is tested from the last one, dear enough from
    the first one, each up to the first failure: fixed sequences both, and what both reach keeps both.
    """
    first, last = len(cost) - 1 - last_kept(cheap_enough[::-1]), last_kept(dear_enough)
    if first > last:
        return -1
    return first + int(np.argmin(np.abs(cost[first : last + 1] - target)))


def _refusal(told: str, needed: int | None, tested: Tested, promise: Promise) -> CalibrationError:
    draws = tested.values.shape[1]
    if needed is None:
        return CalibrationError(
            f"no setting keeps the promise on {draws:,} rows: {told}; promise less", "broken_promise"
        )
    more = max(needed - draws, math.ceil(0.1 * draws))
    return CalibrationError(
        f"{draws:,} rows are too few for this promise at {100 * promise.confidence:g} % confidence: {told}; it takes "
        f"about {more:,} rows more to be sure. Give more, or promise less",
        "too_little_data",
    )


def _promise_dict(promise: Promise) -> dict[str, Any]:
    told = {"kind": promise.kind, "target": promise.target, "of": promise.of, "confidence": promise.confidence}
    return {**told, "unit": promise.unit, "within": promise.within} if promise.kind == "budget" else told


def _without_training_rows(flow: Flow, node: str, rows: Sequence[Labelled]) -> tuple[Sequence[Labelled], int]:
    """The rows that the node's artefact was not trained on, and how many others there were.

    Raises `CalibrationError` (`contaminated`) where too few remain.
    """
    reader = flow.resources.cold_node(node)
    kept = [row for row in rows if not reader.trained_on(Request(row.text))]
    if len(kept) < len(rows) and len(kept) < FEWEST_ROWS:
        raise CalibrationError(
            f"{len(rows) - len(kept):,} of {len(rows):,} rows were trained on ({node!r}), and {len(kept)} are too few: "
            "give rows that training never saw, or train again without these",
            "contaminated",
        )
    return kept, len(rows) - len(kept)


def _check_texts(rule: StopRule, rows: Sequence[Labelled]) -> None:
    """Raises `InputError` with every text that the node cannot read."""
    faults = [f"  line {row.line}: {fault}" for row in rows if (fault := rule.fault(row.text)) is not None]
    if faults:
        more = [f"  … and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
        raise InputError("\n".join([f"{len(faults):,} texts cannot be read:", *faults[:_SHOWN], *more]))


def _truth(rule: StopRule, rows: Sequence[Labelled], names: Mapping[str, str]) -> list[str]:
    """The rows' labels as the node calls them. Raises `InputError` where they are others."""
    found = [names.get(row.label, row.label) for row in rows]
    if unknown := sorted(set(found) - set(rule.outputs)):
        told = ", ".join(map(repr, unknown[:_SHOWN]))
        raise InputError(
            f"the rows have the label{'s' if len(unknown) > 1 else ''} {told}; the node tells apart "
            f"{', '.join(map(repr, rule.outputs))}: say which is which, --name {unknown[0]}={rule.outputs[0]}"
        )
    return found


def _expected(tried: Tried, chosen: int, agreement: Floats) -> dict[str, Any]:
    weights = curves.resamples(len(agreement), _RESAMPLES, 0)
    sample = tried.sample(chosen)

    def figure(values: Array) -> Mapping[str, float | None]:
        return curves.mean_interval(values, weights).as_dict()

    right = {} if tried.truth is None else {"quality": figure(sample.quality[0])}
    whole = {} if tried.truth is None else {"quality": figure(sample.reference)}
    return {
        **right,
        "agreement": figure(agreement),
        "cost": figure(sample.usd[0]),
        "unit": tried.promise.unit,
        "reference": {**whole, "cost": figure(tried.runs.cost[:, -1])},
    }
