"""Are promises of early exit kept, and at what price? Calibrations drawn many times from rows whose truth is known.

    python benchmarks/early_exit_promises.py [--train ../shared/data/sst2/train.tsv] [--graph graphs/sentiment.yaml]
                                             [--draws 500] [--splits 100] [--out benchmarks/results]

The pool are the rows that the training of the graph's artefact held out; its whole runs are kept in the user's cache
folder. Each calibration gets n rows drawn from the pool with replacement, and is a violation where the pool's own mean
breaks the promise: a gap to the labels, or a disagreement with the whole model. Saving is of layers; beside it stands
that of the best threshold on the pool itself, which nobody knows. A budget of layers is calibrated on one half of the
pool and judged on the other, for many halvings.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from overhead import as_table
from routing_data import Kept, Progress

import dynflow
from dynflow.calibration.promises import Kind, Promise, Sample, last_kept, sides, variables
from dynflow.calibration.rules import StopRule
from dynflow.calibration.stopping import grid, nearest_within, stop_rule
from dynflow.calibration.trajectories import Runs, Trajectories
from dynflow.cli.progress import progress_bars
from dynflow.errors import InputError
from dynflow.learning.labelled import label_names
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.train import read_data
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

SST2 = Path("../shared/data/sst2/train.tsv")
CONFIDENCE = 0.95
EPSILONS = (0.01, 0.02)
KINDS: Sequence[Kind] = ("gap", "disagreement")
N = 5_000
KEPT = 0.7
"""Of the saving of the best threshold on the pool, at least."""
BUDGETS = (1 / 3, 1 / 2, 2 / 3)
"""Parts of the whole model's layers."""
WITHIN = 0.03
LEARNT = 0.2
"""Part of the rows held out that criteria may have learnt from since, at most: these are left out."""
_AT_ONCE = 10
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Whole runs of the rows held out, with their labels, and the values of the threshold to try."""

    runs: Runs
    truth: NDArray[Any]
    thresholds: Array

    def trajectories(self, kind: Kind) -> Trajectories:
        return self.runs.against(self.truth if kind == "gap" else self.runs.whole)


@dataclass(frozen=True)
class Result:
    """One promise over all draws; layers are means on the pool."""

    promise: str
    target: float
    n: int
    draws: int
    violations: float
    most_violations: float
    plain_violations: float
    """Of the plain way: the loosest threshold that keeps the promise on the drawn rows themselves."""
    refused: float
    layers: float
    best_layers: float
    whole_layers: float
    kept: float
    """Share of the best threshold's saving."""


@dataclass(frozen=True)
class Budgeted:
    """A budget of layers over all halvings: how far the mean of fresh rows is from it, as a part of it."""

    layers: float
    rows: int
    fresh: int
    halvings: int
    refused: float
    first: float
    within: float
    """Share of the halvings whose fresh rows are within 3 %."""
    chance: float
    """What that share would be if the threshold were exactly right: fresh rows themselves vary."""
    spread: float
    """Standard deviation over the halvings."""
    violations: float
    """Share of the halvings in which the pool's own mean is off by more than 3 %."""


def read_pool(train: Path, graph: Path, progress: Progress) -> tuple[Pool, dict[str, Any]]:
    """The pool, and what is to be told of it. Raises InputError where rows of it were trained on."""
    flow = dynflow.load(graph)
    name, rule = stop_rule(flow, None)
    node = flow.resources.cold_node(name)
    settings = flow.resources.model_settings(node.options.model)
    described = artefact.describe(settings.model, flow.resources.folder)
    training = described.facts.training
    data = read_data([train], Recipe(**{name: training["recipe"][name] for name in ("held_out", "seed")}))
    known = artefact.training_hashes(described)
    held_out = [row for row in data.split.held_out if artefact.row_hash(data.rows[row].text) not in known]
    if (leaked := len(data.split.held_out) - len(held_out)) > LEARNT * len(data.split.held_out):
        raise InputError(f"{leaked:,} of the rows held out are among those that {settings.model} was trained on")
    texts = data.texts(held_out)
    runs = _kept_runs(rule, texts, [described.digest, json.dumps(node.options.exit, default=str)], progress)
    truth = np.array(rule.outputs, dtype=object)[data.classes(held_out)]
    values = np.array(grid(flow.params[rule.param], rule), dtype=np.float64)
    told = {
        "model": settings.model,
        "exit": {key: str(value) for key, value in node.options.exit.items()},
        "rows": len(texts),
        "labels": dict(zip(label_names(data.rows), rule.outputs, strict=True)),
        "right": float((runs.whole == truth).mean()),
    }
    return Pool(runs, truth, -values if rule.falling else values), told


def _kept_runs(rule: StopRule, texts: Sequence[str], depends: Sequence[str], progress: Progress) -> Runs:
    """Whole runs, or those kept of an earlier time."""
    places = {output: place for place, output in enumerate(rule.outputs)}
    index = np.vectorize(places.__getitem__, otypes=[np.float64])

    def make(chunk: Sequence[str]) -> Array:
        runs = rule.runs(chunk, lambda done, total, what: None, False)
        whole = np.broadcast_to(index(runs.whole)[:, None], runs.cost.shape)
        return np.stack([runs.cost, runs.score, index(runs.output), whole], 1)

    cost, score, output, whole = Kept().rows("whole runs", depends, texts, make, progress).swapaxes(0, 1)
    names = np.array(rule.outputs, dtype=object)
    return Runs(cost, score, names[output.astype(int)], names[whole[:, 0].astype(int)], {}, float(cost.max()))


def study(pool: Pool, kind: Kind, target: float, n: int, draws: int, progress: Progress) -> Result:
    """Calibrate on many draws, and hold each against the pool."""
    promise = Promise(kind, target, "the whole model", CONFIDENCE)
    trajectories = pool.trajectories(kind)
    whole = trajectories.under(pool.thresholds, pool.runs.cap)
    lost = _lost(kind, whole)
    layers = whole.usd.mean(1)
    every = trajectories.under(np.unique(np.concatenate([pool.thresholds, trajectories.thresholds(1_000)])))
    best = float(every.usd.mean(1)[_lost(kind, every) <= target].min(initial=pool.runs.cap))
    # Beyond three times the loss no test is passed: leaving these out changes nothing but the time it takes.
    reach = int(np.argmax(lost > 3 * target)) or len(lost)
    quality = whole.quality[:reach].astype(np.float32)
    rng = np.random.default_rng([n, round(1e6 * target)])
    broken = plain = refused = 0
    found = []
    for start in range(0, draws, _AT_ONCE):
        progress(start, draws, f"{kind}, {target:g}")
        rows = rng.integers(0, len(pool.truth), (min(_AT_ONCE, draws - start), n))
        drawn = quality[:, rows].swapaxes(0, 1)
        sample = Sample(drawn, drawn, drawn > 0, whole.reference[rows][:, None, :], whole.cap, True)
        tested = variables(promise, sample)
        for flags, means in zip(tested.kept(CONFIDENCE), tested.values.mean(-1), strict=True):
            chosen, plainly = last_kept(flags), last_kept(means >= tested.limit)
            broken += chosen >= 0 and lost[chosen] > target
            plain += plainly >= 0 and lost[plainly] > target
            refused += chosen < 0
            found.append(float(layers[chosen]) if chosen >= 0 else pool.runs.cap)
    progress(draws, draws, f"{kind}, {target:g}")
    mean, depth = float(np.mean(found)), pool.runs.cap
    most = 1 - CONFIDENCE + 2 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / draws)
    kept = (depth - mean) / (depth - best) if best < depth else 1.0
    rates = (broken / draws, most, plain / draws, refused / draws)
    return Result(kind, target, n, draws, *rates, mean, best, depth, kept)


def _lost(kind: Kind, sample: Sample) -> Array:
    """What each setting loses on all rows of a sample [t]."""
    reference = sample.reference.mean() if kind == "gap" else 1.0
    lost: Array = reference - sample.quality.mean(1) - 1e-12
    return lost


def budgeted(pool: Pool, part: float, halvings: int, progress: Progress) -> Budgeted:
    """A budget calibrated on one half of the pool and judged on the other, many times."""
    depth, rows = pool.runs.cap, len(pool.truth)
    target = depth * part
    promise = Promise("budget", target, "early exit", CONFIDENCE, within=WITHIN, unit="layers")
    cost = pool.trajectories("disagreement").under(pool.thresholds, depth).usd
    means = cost.mean(1)
    near = np.flatnonzero(np.abs(means / target - 1) < 0.3)  # what is further off is told apart in any case
    right = int(np.argmin(np.abs(means - target)))
    half = (1 + CONFIDENCE) / 2
    rng = np.random.default_rng([7, round(1e6 * part)])
    off: list[float] = []
    exact: list[float] = []
    missed = refused = 0
    for turn in range(halvings):
        progress(turn, halvings, f"{target:g} layers")
        order = rng.permutation(rows)
        given, fresh = order[: rows // 2], order[rows // 2 :]
        spent = cost[np.ix_(near, given)]
        nothing = np.zeros_like(spent)
        above, below = sides(promise, Sample(nothing, spent, nothing > 0, nothing[0], depth))
        chosen = nearest_within(spent.mean(1), target, above.kept(half), below.kept(half))
        if chosen < 0:
            refused += 1
            continue
        setting = int(near[chosen])
        off.append(float(cost[setting, fresh].mean() / target - 1))
        exact.append(float(cost[right, fresh].mean() / target - 1))
        missed += abs(means[setting] / target - 1) > WITHIN
    progress(halvings, halvings, f"{target:g} layers")
    if not off:
        return Budgeted(target, rows // 2, rows - rows // 2, halvings, 1.0, math.nan, 0.0, 0.0, math.nan, 0.0)
    shares = [float(np.mean(np.abs(each) <= WITHIN)) for each in (off, exact)]
    told = (refused / halvings, off[0], *shares, float(np.std(off)), missed / len(off))
    return Budgeted(target, rows // 2, rows - rows // 2, halvings, *told)


def report(results: Mapping[str, Any]) -> str:
    """The results as markdown."""
    told = results["pool"]
    promises = [Result(**each) for each in results["promises"]]
    budgets = [Budgeted(**each) for each in results["budgets"]]
    head = [
        "promise",
        "violations",
        "at most",
        "of a plain threshold",
        "refused",
        "mean layers",
        "best possible",
        "saving kept",
    ]
    rule = ", ".join(f"{key} {value}" for key, value in told["exit"].items())
    parts = [
        "# Promises of early exit",
        f"`{told['model']}` with {rule} on {told['rows']:,} rows held out, of which the whole model gets "
        f"{100 * told['right']:.2f} % right. Made by `benchmarks/early_exit_promises.py`: {promises[0].draws} "
        f"calibrations for each promise, each on {promises[0].n:,} rows drawn from these with replacement; confidence "
        f"{CONFIDENCE:g}. A violation: the pool's own mean breaks the promise. The best possible is the threshold that "
        "keeps it on the pool itself; the plain one keeps it on the drawn rows. Saving is of layers; in brackets: how "
        "many times fewer they are.",
        "\n".join(f"- {key}: {value}" for key, value in results["machine"].items()),
        as_table(
            head,
            [
                [
                    f"{each.promise} {100 * each.target:g} %",
                    *(f"{100 * x:.1f} %" for x in (each.violations, each.most_violations)),
                    *(f"{100 * x:.1f} %" for x in (each.plain_violations, each.refused)),
                    *(f"{x:.2f} ({_times(each.whole_layers, x)})" for x in (each.layers, each.best_layers)),
                    f"{100 * each.kept:.1f} %",
                ]
                for each in promises
            ],
        ),
        f"A budget of layers, calibrated on one half of the pool and judged on the other ({budgets[0].fresh:,} fresh "
        f"rows), over {budgets[0].halvings} halvings. *Off*: fresh rows' mean against the budget. *By chance*: what "
        "share would be within 3 % if the threshold were exactly right, since fresh rows vary themselves.",
        as_table(
            [
                "budget",
                "first halving off by",
                "within 3 %",
                "by chance",
                "standard deviation",
                "pool off by more",
                "refused",
            ],
            [
                [
                    f"{each.layers:g} layers",
                    f"{100 * each.first:+.2f} %",
                    *(f"{100 * x:.0f} %" for x in (each.within, each.chance)),
                    f"{100 * each.spread:.2f} %",
                    *(f"{100 * x:.1f} %" for x in (each.violations, each.refused)),
                ]
                for each in budgets
            ],
        ),
        "\n".join(f"- {line}" for line in bars(promises, budgets)),
    ]
    return "\n\n".join(parts)


def bars(promises: Sequence[Result], budgets: Sequence[Budgeted]) -> list[str]:
    """What was to be shown, and whether it is."""
    lines = []
    for each in promises:
        name = f"{each.promise} {100 * each.target:g} %"
        violations = f"violations {100 * each.violations:.1f} %, at most {100 * each.most_violations:.1f} %"
        lines.append(_bar(each.violations <= each.most_violations, f"{name}: {violations}"))
        saving = f"{100 * each.kept:.1f} % of the best possible saving, at least {100 * KEPT:g} %"
        lines.append(_bar(each.kept >= KEPT, f"{name}: {saving}"))
    for budget in budgets:
        off = f"{100 * budget.first:+.2f} % off on {budget.fresh:,} fresh rows, at most 3 %"
        lines.append(_bar(abs(budget.first) <= WITHIN, f"budget of {budget.layers:g} layers: {off}"))
    return lines


def _times(depth: float, layers: float) -> str:
    """How many times fewer layers; the embeddings alone are none."""
    return f"{depth / layers:.1f}" if layers else "no layer"


def _bar(kept: bool, line: str) -> str:
    return f"{'kept' if kept else 'MISSED'}: {line}"


def main(command: Sequence[str] | None = None) -> int:
    """Run, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=SST2, help="what the model was trained on, and more")
    parser.add_argument("--graph", type=Path, default=Path(__file__).parents[1] / "graphs" / "sentiment.yaml")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--rows", type=int, default=N, help="of each calibration")
    parser.add_argument("--splits", type=int, default=100, help="halvings, for budgets")
    parser.add_argument("--out", type=Path, help="folder for early_exit_promises.json and .md")
    given = parser.parse_args(command)
    torch.set_num_threads(1)
    with progress_bars() as progress:
        pool, told = read_pool(given.train, given.graph, progress)
        one = partial(study, pool, n=given.rows, draws=given.draws, progress=progress)
        results = {
            "machine": machine(("dynflow", "torch", "numpy")),
            "pool": told,
            "promises": [asdict(one(kind, target)) for kind in KINDS for target in EPSILONS],
            "budgets": [asdict(budgeted(pool, part, given.splits, progress)) for part in BUDGETS],
        }
    text = report(results)
    print(text)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "early_exit_promises.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.out / "early_exit_promises.md").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
