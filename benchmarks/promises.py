"""Are promises kept, and at what price? Calibrations drawn many times from recorded outcomes whose truth is known.

    python benchmarks/promises.py [--data ../shared/data] [--draws 500] [--out benchmarks/results]

The graph is a cascade on GSM8K: the weak model's draft is checked, and the strong model is asked where the check doubts
it. 200 rows train the check (`answer_check`) and choose which thresholds are tried, in which order; the other rows are
the population. Each calibration gets n rows drawn from it with replacement, and is a violation where the population's
own mean breaks the promise. Beside that stands what the promise costs: how far the mean share of strong calls is from
that of the best threshold of all, which nobody knows (the oracle's).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import routing_cascade as cascade
from machine import machine
from numpy.typing import NDArray
from overhead import as_table
from routing_data import PRICES, Kept, Outcomes, Progress, data_folder, folds, labelled, read
from routing_trials import Entry

from dynflow.calibration.calibrate import thinned
from dynflow.calibration.curves import score_measures
from dynflow.calibration.promises import Kind, Promise, Sample, last_kept, variables
from dynflow.cli.progress import progress_bars

Array = NDArray[np.float64]
CONFIDENCE = 0.9
TRAINING_ROWS = 200
MAX_TOKENS = 1_500
"""Prompt and answer together: what no request of this set comes near, so that costs have a bound."""
CASES: Sequence[tuple[Kind, float]] = (("quality_of", 0.9), ("quality_of", 0.95), ("usd", 0.002), ("share", 0.3))
SIZES = (300, 1_000)
MOST_ABOVE = {("quality_of", 0.9, 300): 0.18, ("quality_of", 0.95, 300): 0.25} | {
    ("quality_of", 0.9, 1_000): 0.11,
    ("quality_of", 0.95, 1_000): 0.16,
}
"""What a promise of quality may cost above the oracle's share."""
FOLDS = 5


@dataclass(frozen=True)
class Result:
    """One promise at one sample size."""

    promise: str
    target: float
    n: int
    draws: int
    violations: float
    most_violations: float
    """10 % and two standard errors: what a sound method stays below."""
    refused: float
    share: float
    """Mean share of strong calls, on the population."""
    oracle: float
    above_oracle: float
    plain_violations: float
    """Of the plain way: the cheapest threshold that keeps the promise on the drawn rows themselves."""


@dataclass(frozen=True)
class Population:
    """Rows [n] with what thresholds on the check's score make of them [t, n], in the order of the tests."""

    weak: Array
    strong: Array
    score: Array
    usd_weak: Array
    usd_strong: Array
    thresholds: Array

    def under(self, thresholds: Sequence[float]) -> Population:
        """The same rows under other thresholds."""
        return replace(self, thresholds=np.array(thresholds))

    @cached_property
    def called(self) -> NDArray[np.bool_]:
        """Where the strong model is asked."""
        flags: NDArray[np.bool_] = self.score[None, :] >= self.thresholds[:, None]
        return flags

    def sample(self, rows: Any, backwards: bool) -> Sample:
        """Some rows of it; `backwards`: the weak end first."""
        called = self.called[:: -1 if backwards else 1][:, rows]
        quality = np.where(called, self.strong[rows], self.weak[rows])
        usd = self.usd_weak[rows] + np.where(called, self.usd_strong[rows], 0.0)
        return Sample(quality, usd, called, self.strong[rows], MAX_TOKENS * sum(PRICES.values()) / 1e6, True)


def population(rows: Outcomes, check: Entry, seed: int) -> Population:
    """Train the check on some rows; the others, under the thresholds that its doubts of the first suggest.

    Those doubts are cross-fitted: a head is surer of drafts that it has seen.
    """
    train, pool = labelled(rows.groups, TRAINING_ROWS, seed)
    seen = np.empty(len(train))
    for others, held_out in folds(rows.groups[train], FOLDS, seed):
        seen[held_out] = check(train[others], train[held_out], rows.groups[train[others]])
    cuts = np.unique(seen)
    tried = thinned([{"doubt": cut} for cut in np.concatenate([[-np.inf], (cuts[1:] + cuts[:-1]) / 2, [np.inf]])])
    assert rows.usd is not None
    return Population(
        rows.weak[pool],
        rows.strong[pool],
        check(train, pool, rows.groups[train]),
        rows.usd[pool, 0],
        rows.usd[pool, 1],
        np.array([setting["doubt"] for setting in tried]),
    )


def study(pool: Population, kind: Kind, target: float, n: int, draws: int, seed: int) -> Result:
    """Calibrate on many draws, and hold each against the population."""
    promise = Promise(kind, target, "strong", CONFIDENCE)
    rng = np.random.default_rng([seed, n])
    size = len(pool.weak)
    keeps, share = _truth(pool, promise)
    best_keeps, best_share = _truth(pool.under([-math.inf, *np.unique(pool.score), math.inf]), promise)
    # Of a promise of cost or share the best threshold is the one that makes most of it.
    oracle = float(best_share[best_keeps].min() if promise.begins_strong else best_share[best_keeps].max())
    broken = refused = plainly_broken = 0
    shares = []
    for _ in range(draws):
        rows = rng.integers(0, size, n)
        tested = variables(promise, pool.sample(rows, not promise.begins_strong))
        chosen = last_kept(tested.kept(CONFIDENCE))
        plain = last_kept(tested.values.mean(1) >= tested.limit)
        plainly_broken += plain >= 0 and not keeps[plain]
        refused += chosen < 0
        broken += chosen >= 0 and not keeps[chosen]
        shares.append(share[max(chosen, 0)])
    mean = float(np.mean(shares))
    return Result(
        kind,
        target,
        n,
        draws,
        broken / draws,
        0.1 + 2 * math.sqrt(0.09 / draws),
        refused / draws,
        mean,
        oracle,
        abs(mean - oracle),
        plainly_broken / draws,
    )


def _truth(pool: Population, promise: Promise) -> tuple[NDArray[np.bool_], Array]:
    """Which thresholds keep the promise on the whole population, and their shares of strong calls."""
    tested = variables(promise, pool.sample(np.arange(len(pool.weak)), not promise.begins_strong))
    share = pool.called[:: 1 if promise.begins_strong else -1].mean(1)
    return tested.values.mean(1) >= tested.limit - 1e-12, share


def run(data: Path, draws: int, pools: int, kind: str, progress: Progress) -> dict[str, Any]:
    """Every promise at every size, averaged over several splits into training rows and population."""
    rows = read(data / "routing" / "gsm8k.jsonl")
    check = cascade.check(kind, rows, Kept(), progress)
    found: list[Result] = []
    apgr = []
    for seed in range(pools):
        progress(seed, pools, "calibrations")
        pool = population(rows, check, seed)
        apgr.append(float(score_measures(pool.score, pool.weak, pool.strong)[0]))
        for promise, target in CASES:
            found += [study(pool, promise, target, n, draws // pools, seed) for n in SIZES]
    progress(pools, pools, "calibrations")
    merged = [_merged([each for each in found if (each.promise, each.target, each.n) == key], draws) for key in _keys()]
    return {
        "machine": machine(("dynflow", "numpy")),
        "check": kind,
        "rows": len(rows),
        "pools": pools,
        "draws": draws,
        "apgr": float(np.mean(apgr)),
        "results": [asdict(each) for each in merged],
    }


def _keys() -> list[tuple[str, float, int]]:
    return [(kind, target, n) for kind, target in CASES for n in SIZES]


def _merged(results: Sequence[Result], draws: int) -> Result:
    means = {
        name: float(np.mean([getattr(each, name) for each in results]))
        for name in ("violations", "refused", "share", "oracle", "above_oracle", "plain_violations")
    }
    first = results[0]
    return Result(
        first.promise, first.target, first.n, draws, most_violations=0.1 + 2 * math.sqrt(0.09 / draws), **means
    )


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    rows = []
    for row in results:
        most = MOST_ABOVE.get((row["promise"], row["target"], row["n"]))
        kept = row["violations"] <= row["most_violations"] and (most is None or row["above_oracle"] <= most)
        shares = [f"{row[key]:.3f}" for key in ("share", "oracle", "above_oracle")]
        parts = [f"{row[key]:.1%}" for key in ("violations", "most_violations", "plain_violations", "refused")]
        bar = "" if most is None else f"{most:.2f}"
        rows.append(
            [f"{row['promise']} {row['target']:g}", f"{row['n']:,}", *parts, *shares, bar, "yes" if kept else "**no**"]
        )
    head = ["promise", "n", "violations", "at most", "of the plain threshold", "refused", "strong share", "oracle's"]
    return as_table([*head, "off it", "at most", "kept"], rows)


def markdown(found: Mapping[str, Any]) -> str:
    """The whole result."""
    parts = [
        "# Promises",
        f"Made by `benchmarks/promises.py`: {found['draws']} calibrations at each size, over {found['pools']} "
        f"splits of {found['rows']} rows of GSM8K into {TRAINING_ROWS} that train and tune and a population; "
        f"confidence {CONFIDENCE:g}. The cascade's check is `answer_check`, `{found['check']}`; "
        f"its APGR is {found['apgr']:.3f}. The plain threshold is the cheapest that keeps the promise "
        "on the drawn rows themselves.",
        "\n".join(f"- {key}: {value}" for key, value in found["machine"].items()),
        table(found["results"]),
    ]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with routing/*.jsonl (default: ../shared/data)")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--pools", type=int, default=10, help="splits into training rows and population")
    parser.add_argument("--check", choices=cascade.KINDS, default="embedding", help="kind of the answer check")
    parser.add_argument("--out", type=Path, help="folder for promises.json and promises.md")
    given = parser.parse_args(arguments)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    with progress_bars() as progress:
        found = run(data_folder(given.data), given.draws, given.pools, given.check, progress)
    text = markdown(found)
    print(text)
    if given.out:
        (given.out / "promises.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        (given.out / "promises.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
