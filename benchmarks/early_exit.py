"""Early exit on the rows that an artefact's training held out: accuracy kept against layers and wall-clock saved.

    python benchmarks/early_exit.py [--train ../shared/data/sst2/train.tsv] [--model embedded/sst2-minilm] [--dev FILE]
                                    [--rows 1000] [--rounds 3] [--threads 1] [--quick] [--out benchmarks/results]

`--model` names any artefact that `dynflow train early-exit` has made from `--train`; its recipe says which rows were
held out. Accuracy and layers are of all of them. Wall-clock is of `--rows` of them, drawn at random, at batch 1 and 32,
against the stock transformers model with the same weights and the same last head, in one process, in float32, the
contenders in turn; reading the texts is in neither's time. `--dev` opens a development set beside it, with the
thresholds as they were chosen on the rows held out.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from overhead import as_table

from dynflow.cli.progress import progress_bars
from dynflow.errors import InputError
from dynflow.learning.kept import Progress
from dynflow.learning.labelled import label_names, read_labelled
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.base import load_base
from dynflow.nodes.early_exit_classifier.criteria import CRITERIA
from dynflow.nodes.early_exit_classifier.criteria.recorded import answers, exits
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.reading import Tokens
from dynflow.nodes.early_exit_classifier.train import read_data
from dynflow.nodes.early_exit_classifier.training.figures import Figures, judge, recorded
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

SST2 = Path("../shared/data/sst2/train.tsv")
KEPT = (0.99, 0.98)
BARS = {0.99: 2.4, 0.98: 3.0}
"""Times faster than the stock model, by the share of its accuracy that is kept."""
TIMED = "entropy"
BATCH = 32
Run = Callable[[Sequence[Tokens]], Any]


class Stock:
    """The model as transformers runs it, all layers, with the artefact's last head."""

    def __init__(self, described: artefact.Described, model: EarlyExitModel) -> None:
        self._encoder = load_base(described.facts.base, described.folder)[0].base_model
        self._encoder.load_state_dict(model.encoder.state_dict())
        self._encoder.eval()
        self._model = model

    @torch.inference_mode()
    def __call__(self, tokens: Sequence[Tokens]) -> list[int]:
        """The place of each row's label; the rows are one batch."""
        model = self._model
        ids, mask = model.reader.batch(tokens)
        hidden = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        labels: list[int] = model.heads(model.architecture.depth, hidden, mask).argmax(-1).tolist()
        return labels


def main(command: Sequence[str] | None = None) -> None:
    """Measure, print and write the results."""
    given = arguments(command)
    torch.set_num_threads(given.threads)
    described = artefact.describe(given.model)
    model = artefact.read(described)
    recipe = Recipe(**{name: described.facts.training["recipe"][name] for name in ("held_out", "seed")})
    with progress_bars() as progress:
        data = read_data([given.train], recipe)
        texts, truth = data.texts(data.split.held_out), data.classes(data.split.held_out)
        if leaked := artefact.training_hashes(described) & {artefact.row_hash(text) for text in texts}:
            raise InputError(f"{len(leaked)} of the rows held out are among those that {given.model} was trained on")
        if given.quick:
            texts, truth = texts[: given.rows], truth[: given.rows]
        logits = recorded(model, texts, progress)
        figures = judge(logits, truth, model.layers)
        results: dict[str, Any] = {"machine": machine(["dynflow", "torch", "transformers"]), "model": given.model}
        results["held out"] = asdict(figures)
        if given.dev is not None:
            results["dev"] = on_dev(model, given.dev, label_names(data.rows), figures, progress)
        results["wall-clock"] = timed(model, Stock(described, model), texts, figures, given, progress)
    text = report(results, figures, given)
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "early_exit.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.out / "early_exit.md").write_text(text + "\n", encoding="utf-8")


def arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=SST2, help="what the model was trained on, and more")
    parser.add_argument("--model", default="embedded/sst2-minilm")
    parser.add_argument("--rows", type=int, default=1000, help="that wall-clock is taken on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dev", type=Path, help="a development set")
    parser.add_argument("--quick", action="store_true", help="judge on --rows rows only: for a look, not for figures")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(command)


def on_dev(
    model: EarlyExitModel, file: Path, labels: Sequence[str], figures: Figures, progress: Progress
) -> dict[str, Any]:
    """Accuracy of each exit on the development set, and what the chosen thresholds give there: a shift."""
    rows = read_labelled(file)
    truth = np.array([labels.index(row.label) for row in rows])
    logits = recorded(model, [row.text for row in rows], progress)
    accuracy = (logits.argmax(-1) == truth[:, None]).mean(0)
    chosen: dict[str, Any] = {}
    for name, kind in CRITERIA.items():
        for kept in KEPT:
            point = figures.cheapest(name, kept)
            if point is not None:
                criterion = kind(point.threshold)
                left = exits(criterion, logits, model.layers)
                right = answers(criterion, logits, model.layers, left) == truth
                layers = float(np.asarray(model.layers)[left].mean())
                chosen[f"{name}, {100 * kept:g} %"] = {"layers": layers, "kept": float(right.mean() / accuracy[-1])}
    return {"rows": len(rows), "accuracy": accuracy.tolist(), "chosen": chosen}


def timed(
    model: EarlyExitModel,
    stock: Stock,
    texts: Sequence[str],
    figures: Figures,
    given: argparse.Namespace,
    progress: Progress,
) -> dict[str, Any]:
    """Seconds a row of the stock model and of ours at each chosen point, by way of batching."""
    drawn = random.Random(0).sample(list(texts), min(given.rows, len(texts)))
    tokens = [model.reader.read(text) for text in drawn]
    points = {kept: figures.cheapest(TIMED, kept) for kept in KEPT}
    contenders: dict[str, Run] = {"stock": stock, "all layers": partial(model.classify_tokens, criterion=None)}
    for kept, point in points.items():
        if point is not None:
            contenders[f"{TIMED}, {100 * kept:g} %"] = partial(
                model.classify_tokens, criterion=CRITERIA[TIMED](point.threshold)
            )
    ordered = sorted(tokens, key=len)
    ways = {
        "batch 1": [[each] for each in tokens],
        f"batch {BATCH}": [tokens[at : at + BATCH] for at in range(0, len(tokens), BATCH)],
        f"batch {BATCH}, sorted by length": [ordered[at : at + BATCH] for at in range(0, len(ordered), BATCH)],
    }
    return {
        "rows": len(tokens),
        "layers": {f"{TIMED}, {100 * kept:g} %": point.layers for kept, point in points.items() if point is not None},
        "seconds": {way: _seconds(contenders, batches, given.rounds, way, progress) for way, batches in ways.items()},
    }


def _seconds(
    contenders: Mapping[str, Run], batches: Sequence[Sequence[Tokens]], rounds: int, way: str, progress: Progress
) -> dict[str, float]:
    """Seconds of all batches, by contender: of each batch the median over the rounds, so that a hitch counts for
    nothing; the contenders take turns at each batch."""
    for run in contenders.values():
        run(batches[0])
    found = {name: np.zeros((rounds, len(batches))) for name in contenders}
    for turn in range(rounds):
        for place, batch in enumerate(batches):
            if place % 50 == 0:
                progress(turn * len(batches) + place, rounds * len(batches), way)
            for name, run in contenders.items():
                began = time.perf_counter()
                run(batch)
                found[name][turn, place] = time.perf_counter() - began
    progress(rounds * len(batches), rounds * len(batches), way)
    return {name: float(np.median(taken, axis=0).sum()) for name, taken in found.items()}


def report(results: Mapping[str, Any], figures: Figures, given: argparse.Namespace) -> str:
    """The results as markdown."""
    depth = figures.layers[-1]
    parts = [
        "# Early exit",
        ", ".join(f"{name}: {value}" for name, value in results["machine"].items()),
        f"`{given.model}` on {figures.rows:,} rows held out" + ("; a quick look, no figures" if given.quick else ""),
        as_table(
            ["layers", "accuracy", "of the whole model's"],
            [
                [str(layer), f"{share:.4f}", f"{100 * share / figures.full:.2f} %"]
                for layer, share in zip(figures.layers, figures.accuracy, strict=True)
            ],
        ),
        "Layers of the whole model over the mean layers run, where that share of its accuracy is kept:",
        as_table(
            ["criterion", *(f"{100 * kept:g} %" for kept in KEPT)], [_savings(name, figures) for name in CRITERIA]
        ),
    ]
    if "dev" in results:
        dev = results["dev"]
        parts += [
            f"On the {dev['rows']} rows of the development set, with the same thresholds: whole model "
            f"{dev['accuracy'][-1]:.4f}.",
            as_table(
                ["threshold of", "times fewer layers", "of the whole model's accuracy"],
                [
                    [name, _times(depth, each["layers"]), f"{100 * each['kept']:.2f} %"]
                    for name, each in dev["chosen"].items()
                ],
            ),
        ]
    clock = results["wall-clock"]
    names = list(next(iter(clock["seconds"].values())))
    parts += [
        f"Wall-clock, times faster than the stock model, {clock['rows']:,} rows, {given.threads} thread(s):",
        as_table(
            ["", *names],
            [
                [way, *(f"{taken['stock'] / taken[name]:.2f}" for name in names)]
                for way, taken in clock["seconds"].items()
            ],
        ),
    ]
    parts += [
        f"{'held' if faster >= bar else 'MISSED'}: {way} at {100 * kept:g} % is {faster:.2f} times faster, bar {bar}"
        for kept, bar in BARS.items()
        for way, taken in clock["seconds"].items()
        if (name := f"{TIMED}, {100 * kept:g} %") in taken
        for faster in [taken["stock"] / taken[name]]
    ]
    return "\n\n".join(parts)


def _savings(name: str, figures: Figures) -> list[str]:
    points = [figures.cheapest(name, kept) for kept in KEPT]
    return [name, *("none" if point is None else _times(figures.layers[-1], point.layers) for point in points)]


def _times(depth: int, layers: float) -> str:
    """How many times fewer layers; the embeddings alone are none."""
    return f"{depth / layers:.2f}" if layers else "no layer"


if __name__ == "__main__":
    main()
