"""Are promises kept, and at what price? Calibrations drawn many times from recorded outcomes whose truth is known.

    python benchmarks/promises.py [--data ../shared/data] [--draws 500] [--out benchmarks/results/promises.json]

The graph is a cascade on GSM8K: the weak model's draft is checked, and the strong model is asked where the check doubts
it. 200 rows train the check and choose which thresholds are tried, in which order; the other rows are the population.
Each calibration gets n rows drawn from it with replacement, and is a violation where the population's own mean breaks
the promise. Beside that stands what the promise costs: the mean share of strong calls above that of the best threshold
of all, which nobody knows (the oracle's). The check is a ridge regression on a dozen features of the draft.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.calibrate import thinned
from dynflow.calibration.curves import score_measures
from dynflow.calibration.outcomes import Row, read_outcomes
from dynflow.calibration.promises import Kind, Promise, Sample, last_kept, variables
from dynflow.request import estimate_tokens

Array = NDArray[np.float64]
CONFIDENCE = 0.9
TRAINING_ROWS = 200
PRICES = {"weak": 0.24, "strong": 24.7}
"""USD per million tokens, as RouteLLM has them."""
MAX_TOKENS = 1_500
"""Prompt and answer together: what no request of this set comes near, so that costs have a bound."""
CASES: Sequence[tuple[Kind, float]] = (("quality_of", 0.9), ("quality_of", 0.95), ("usd", 0.002), ("share", 0.3))
SIZES = (300, 1_000)
_EQUATION = re.compile(r"([-+*/().\d\s$%,]+)=\s*[$]?\s*(-?[\d,]*\.?\d+)")


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


def features(prompt: str, response: str) -> list[float]:
    """What a draft shows of itself."""
    text = response.strip()
    good = bad = 0
    for right in _equations(text):
        good, bad = good + right, bad + (not right)
    numbers = re.findall(r"\d[\d,]*\.?\d*", text)
    final = re.search(r"####\s*\$?(-?[\d,.]+)", text)
    asked = set(re.findall(r"\d+", prompt))
    used = set(re.findall(r"\d+", text))
    return [
        float(final is not None),
        float(text[-1:].isdigit() or text[-1:] == "."),
        float(good),
        float(bad > 0),
        math.log1p(len(text)),
        math.log1p(len(prompt)),
        float(len(numbers)),
        len(asked & used) / max(1, len(asked)),
        float("." in final[1].rstrip(".")) if final else 0.0,
        float(text.count("\n")),
        float(len(asked)),
        float(any(word in text.lower() for word in ("assum", "however", "not clear", "cannot"))),
    ]


def _equations(text: str) -> Iterator[bool]:
    """Whether each equation that is written out comes out."""
    for left, right in _EQUATION.findall(text):
        terms = re.fullmatch(r"\s*([\d.]+)\s*([-+*/])\s*([\d.]+)\s*", re.sub(r"[$,%]", "", left))
        if terms is None:
            continue
        try:
            one, other, result = float(terms[1]), float(terms[3]), float(right.replace(",", ""))
            value = {"+": one + other, "-": one - other, "*": one * other, "/": one / other if other else math.nan}
        except ValueError:
            continue
        yield math.isclose(value[terms[2]], result, rel_tol=1e-2, abs_tol=1e-2)


def ridge(x: Array, y: Array, penalty: float = 10.0) -> Any:
    """A predictor of y from features, by ridge regression on standardised ones."""
    mean, scale = x.mean(0), x.std(0) + 1e-9
    standard = (x - mean) / scale
    weights = np.linalg.solve(standard.T @ standard + penalty * np.eye(x.shape[1]), standard.T @ (y - y.mean()))
    return lambda new: (new - mean) / scale @ weights + y.mean()


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


def population(rows: Sequence[Row], seed: int) -> Population:
    """Train the check on some rows; the others, under the thresholds that these suggest."""
    order = np.random.default_rng(seed).permutation(len(rows))
    x = np.array([features(row.input, row.outcomes["weak"].response or "") for row in rows])
    quality = {name: np.array([row.outcomes[name].quality for row in rows], dtype=float) for name in PRICES}
    tokens = {
        name: np.array(
            [estimate_tokens(row.input) + estimate_tokens(row.outcomes[name].response or "") for row in rows]
        )
        for name in PRICES
    }
    train, pool = order[:TRAINING_ROWS], order[TRAINING_ROWS:]
    gain = quality["strong"] - quality["weak"]
    predict = ridge(x[train], gain[train])
    seen = np.sort(np.unique(predict(x[train])))
    tried = thinned([{"doubt": value} for value in np.concatenate([[-np.inf], (seen[1:] + seen[:-1]) / 2, [np.inf]])])
    usd = {name: tokens[name][pool] * price / 1e6 for name, price in PRICES.items()}
    thresholds = np.array([setting["doubt"] for setting in tried])
    quality = {name: values[pool] for name, values in quality.items()}
    return Population(quality["weak"], quality["strong"], predict(x[pool]), usd["weak"], usd["strong"], thresholds)


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


def run(data: Path, draws: int, pools: int) -> dict[str, Any]:
    """Every promise at every size, averaged over several splits into training rows and population."""
    rows = read_outcomes(data / "routing" / "gsm8k.jsonl").rows
    found: list[Result] = []
    apgr = []
    for seed in range(pools):
        pool = population(rows, seed)
        apgr.append(float(score_measures(pool.score, pool.weak, pool.strong)[0]))
        for kind, target in CASES:
            found += [study(pool, kind, target, n, draws // pools, seed) for n in SIZES]
    merged = [_merged([each for each in found if (each.promise, each.target, each.n) == key], draws) for key in _keys()]
    return {
        "rows": len(rows),
        "pools": pools,
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
    head = (
        "| promise | n | violations | most allowed | plain threshold's | refused | strong share | oracle's | above it |"
    )
    lines = [head, "|---" * 9 + "|"]
    lines += [
        f"| {row['promise']} {row['target']:g} | {row['n']:,} | {row['violations']:.1%} | {row['most_violations']:.1%} "
        f"| {row['plain_violations']:.1%} | {row['refused']:.1%} | {row['share']:.3f} | {row['oracle']:.3f} "
        f"| {row['above_oracle']:.3f} |"
        for row in results
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--pools", type=int, default=10, help="splits into training rows and population")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args(arguments)
    found = run(given.data, given.draws, given.pools)
    print(f"{found['rows']} rows, {found['pools']} splits; the check's APGR is {found['apgr']:.3f}\n")
    print(table(found["results"]))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
