"""Early exit under slow-down attacks: how deep texts go that are made to defeat it, and what the worst of them cost.

    python benchmarks/early_exit_attacks.py [--train ../shared/data/sst2/train.tsv] [--model embedded/sst2-minilm]
                                            [--criterion entropy] [--rows 100] [--rounds 5] [--threads 1]
                                            [--out benchmarks/results]

An attack can cost two things: the saving, which the mean layers tell, and time beyond that of the plain model, which no
text should. Rows are drawn from those that the model's training held out; the threshold keeps 99 % of the accuracy on
the others of them. `early_exit_slowdown.py` says how the texts are made. Wall-clock is against the stock transformers
model with the same weights and the same last head on the same texts, in one process, in float32, at batch 1 and 32;
reading the texts is in nobody's time. The two take turns at each batch, and of each batch the median over the rounds
counts. Beside the attacks stands what no attack can surpass: criteria that never are sure, so that every exit is paid
and none is taken; and batches that one row leaves at each layer, which are made smaller over and over for little.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from early_exit_clock import Stock
from early_exit_slowdown import Attacker
from machine import machine
from overhead import as_table

from dynflow.cli.progress import progress_bars
from dynflow.learning.kept import Progress
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.criteria import CRITERIA, Criterion, LearntCriterion, criterion_of, recorded
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.reading import Tokens
from dynflow.nodes.early_exit_classifier.teach import data_of, unseen
from dynflow.nodes.early_exit_classifier.training.figures import curve
from dynflow.nodes.early_exit_classifier.training.figures import recorded as whole_runs

SST2 = Path("../shared/data/sst2/train.tsv")
KEPT = 0.99
MOST = 1.10
"""Times the stock model's wall-clock that the worst case may take."""
BATCHES = (1, 32)
LENGTHS = (4, 12, 32, 120)
"""Words of the texts on which no criterion is sure."""
_JUDGED = 2000
"""Rows that the threshold is chosen on."""
_ALIKE = range(8, 25)
"""Words of texts that stand in one batch, so that padding has no part in it."""
_TIMED = 64
"""Texts of each kind that are timed."""


def main(command: Sequence[str] | None = None) -> None:
    """Attack, measure, print and write the results."""
    given = arguments(command)
    torch.set_num_threads(given.threads)
    described = artefact.describe(given.model)
    model = artefact.read(described)
    with progress_bars() as progress:
        texts, labels = held_out(described, given.train)
        criterion = chosen(model, given.criterion, texts[given.rows :], labels[given.rows :], progress)
        attacked = attacks(model, criterion, texts, labels, given.rows, progress)
        results: dict[str, Any] = {
            "machine": machine(["dynflow", "torch", "transformers"]),
            "model": given.model,
            "criterion": {"name": criterion.name, "threshold": criterion.threshold},
            "rows": given.rows,
            "threads": given.threads,
            "texts": {name: each[:5] for name, each in attacked.items()},
            "depth": {name: depth(model, criterion, each) for name, each in attacked.items()},
        }
        clock = Clock(model, Stock(described, model), given.rounds, progress)
        results["seconds"] = {
            name: clock.seconds({name: criterion}, each[:_TIMED])[name] for name, each in attacked.items()
        }
        results["seconds"] |= worst_cases(model, criterion, attacked, texts, clock)
    text = report(results)
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "early_exit_attacks.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.out / "early_exit_attacks.md").write_text(text + "\n", encoding="utf-8")


def arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=SST2, help="what the model was trained on, and more")
    parser.add_argument("--model", default="embedded/sst2-minilm")
    parser.add_argument("--criterion", default="entropy", help="that the attacks are made against")
    parser.add_argument("--rows", type=int, default=100, help="that are attacked")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    return parser.parse_args(command)


def held_out(described: artefact.Described, train: Path) -> tuple[list[str], list[int]]:
    """Rows that the model was not trained on, and the places of their labels, in an order drawn at random."""
    data = data_of(described, [train])
    rows = list(unseen(data, described))
    random.Random(0).shuffle(rows)
    return data.texts(rows), data.classes(rows)


def chosen(
    model: EarlyExitModel, name: str, texts: Sequence[str], labels: Sequence[int], progress: Progress
) -> Criterion:
    """The criterion at its cheapest threshold that keeps the accuracy on these rows."""
    truth = np.array(labels[:_JUDGED])
    logits = whole_runs(model, texts[:_JUDGED], progress, criterion=name)
    points = curve(criterion_of({"criterion": name, "threshold": 0.0}, model.learnt), logits, truth, model.layers)
    full = float((logits[:, -1].argmax(-1) == truth).mean())
    good = [point for point in points if point.accuracy >= KEPT * full]
    best = min(good or points, key=lambda point: point.layers)
    return criterion_of({"criterion": name, "threshold": best.threshold}, model.learnt)


def attacks(
    model: EarlyExitModel,
    criterion: Criterion,
    texts: Sequence[str],
    labels: Sequence[int],
    rows: int,
    progress: Progress,
) -> dict[str, list[str]]:
    """Texts by attack; the first are as they came."""
    plain, classes = list(texts[:rows]), labels[:rows]
    attacker = Attacker(model, criterion, texts)
    suffix = attacker.suffix(texts[rows:], progress)
    return {
        "none": plain,
        "words replaced": attacker.words_replaced(plain, progress),
        f"one suffix for all, '{suffix.strip()}'": [f"{text}{suffix}" for text in plain],
        "contradictions": attacker.contradictions(plain, classes, rows),
        "contradictions, as long as can be": attacker.long_contradictions(plain, classes, rows),
        "words that say nothing": attacker.nothing_said(rows),
        "signs alone": attacker.signs(rows),
    }


def depth(model: EarlyExitModel, criterion: Criterion, texts: Sequence[str]) -> dict[str, float]:
    """Mean layers, and the share of texts that take all."""
    logits = model.trajectories(texts, criterion=criterion.name)
    layers = np.asarray(model.layers)[recorded.exits(criterion, logits, model.layers)]
    return {"layers": float(layers.mean()), "all": float((layers == model.layers[-1]).mean())}


def worst_cases(
    model: EarlyExitModel,
    criterion: Criterion,
    attacked: Mapping[str, Sequence[str]],
    texts: Sequence[str],
    clock: Clock,
) -> dict[str, dict[str, list[float]]]:
    """Seconds where every exit is paid and none is taken; and where batches shrink by one row at each layer."""
    names = [
        name
        for name, kind in CRITERIA.items()
        if name != "static" and (name in model.learnt or not issubclass(kind, LearntCriterion))
    ]
    whole = " ".join(texts).split()
    found = {}
    for words in LENGTHS:
        count = min(_TIMED, max(BATCHES[-1], _TIMED * LENGTHS[0] // words))
        drawn = [text for at in range(count) if (text := " ".join(whole[at * words : (at + 1) * words]))]
        found |= clock.seconds({f"{name}, never sure, {words} words": unsure(model, name) for name in names}, drawn)
    pool = [text for each in attacked.values() for text in each if len(text.split()) in _ALIKE]
    if batch := trickle(model, criterion, pool):
        found |= clock.seconds({"one row leaves at each layer": criterion}, batch, BATCHES[1:])
    return found


def unsure(model: EarlyExitModel, name: str) -> Criterion:
    """A criterion that is never sure, and pays for finding that out."""
    criterion = criterion_of({"criterion": name, "threshold": 0.0}, model.learnt)
    criterion.threshold = -1.0 if criterion.falling else float("inf")
    return criterion


def trickle(model: EarlyExitModel, criterion: Criterion, pool: Sequence[str]) -> list[str]:
    """A batch of texts that take all layers, but for one that leaves at each layer, as far as there are such."""
    if not pool:
        return []
    logits = model.trajectories(pool, criterion=criterion.name)
    left = recorded.exits(criterion, logits, model.layers)
    deep = [text for text, place in zip(pool, left, strict=True) if place == len(model.layers) - 1]
    single = [next((text for text, at in zip(pool, left, strict=True) if at == place), None) for place in set(left)]
    leaving = [text for text in single if text is not None and text not in deep]
    drawn = random.Random(0).sample(deep, min(BATCHES[1] - len(leaving), len(deep)))
    return leaving + drawn


class Clock:
    """Times the stock model and ours in turns."""

    def __init__(self, model: EarlyExitModel, stock: Stock, rounds: int, progress: Progress) -> None:
        self._model = model
        self._stock = stock
        self._rounds = rounds
        self._progress = progress

    def seconds(
        self, criteria: Mapping[str, Criterion], texts: Sequence[str], batches: Sequence[int] = BATCHES
    ) -> dict[str, dict[str, list[float]]]:
        """Seconds of all texts, the stock model's and ours, by name of the criterion and batch size."""
        tokens = sorted((self._model.reader.read(text) for text in texts), key=len)
        found: dict[str, dict[str, list[float]]] = {name: {} for name in criteria}
        for size in batches:
            parts = [tokens[at : at + size] for at in range(0, len(tokens), size)]
            stock, *ours = self._in_turns(parts, criteria)
            for name, taken in zip(criteria, ours, strict=True):
                found[name][str(size)] = [stock, taken]
        return found

    def _in_turns(self, batches: Sequence[Sequence[Tokens]], criteria: Mapping[str, Criterion]) -> list[float]:
        """Of each batch the median over the rounds, in which who is first changes."""
        ours = [partial(self._model.classify_tokens, criterion=criterion) for criterion in criteria.values()]
        runs: list[Callable[[Sequence[Tokens]], Any]] = [self._stock, *ours]
        taken = np.zeros((len(runs), self._rounds, len(batches)))
        for run in runs:
            run(batches[0])
        for turn in range(self._rounds):
            self._progress(turn, self._rounds, next(iter(criteria)))
            for place, batch in enumerate(batches):
                for which in np.roll(np.arange(len(runs)), turn + place):
                    began = time.perf_counter()
                    runs[which](batch)
                    taken[which, turn, place] = time.perf_counter() - began
        self._progress(self._rounds, self._rounds, next(iter(criteria)))
        return [float(each) for each in np.median(taken, axis=1).sum(1)]


def report(results: Mapping[str, Any]) -> str:
    """The results as markdown."""
    depths, seconds = results["depth"], results["seconds"]
    named = results["criterion"]
    parts = [
        "# Early exit under slow-down attacks",
        ", ".join(f"{name}: {value}" for name, value in results["machine"].items()),
        f"`{results['model']}`, {named['name']} with the threshold {named['threshold']:.4g}, {results['rows']} texts "
        f"of each kind, {results['threads']} thread(s). Times are over the stock model's on the same texts.",
        as_table(
            ["attack", "mean layers", "take all layers", *(f"time, batch {size}" for size in BATCHES)],
            [
                [name, f"{each['layers']:.2f}", f"{100 * each['all']:.0f} %", *times(seconds[name])]
                for name, each in depths.items()
            ],
        ),
        "What no attack can surpass:",
        as_table(
            ["worst case", *(f"time, batch {size}" for size in BATCHES)],
            [[name, *times(each)] for name, each in seconds.items() if name not in depths],
        ),
    ]
    for size in map(str, BATCHES):
        ratios = {name: ours / stock for name, each in seconds.items() if size in each for stock, ours in [each[size]]}
        worst = max(ratios, key=lambda name: ratios[name])
        kept = "kept" if ratios[worst] <= MOST else "MISSED"
        parts.append(
            f"{kept}: at batch {size} the worst case takes {ratios[worst]:.2f} times the stock model's time, at most "
            f"{MOST:.2f}: {worst}"
        )
    return "\n\n".join(parts)


def times(taken: Mapping[str, Sequence[float]]) -> list[str]:
    """Ours over the stock model's, by batch size."""
    return [f"{taken[str(size)][1] / taken[str(size)][0]:.2f}" if str(size) in taken else "" for size in BATCHES]


if __name__ == "__main__":
    main()
