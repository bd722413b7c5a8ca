"""Early exit on the rows that an artefact's training held out: accuracy kept against layers and wall-clock saved.

    python benchmarks/early_exit.py [--train ../shared/data/sst2/train.tsv] [--model embedded/sst2-minilm] [--dev FILE]
                                    [--shift FILE] [--rows 1000] [--rounds 3] [--threads 1] [--quick]
                                    [--out benchmarks/results]

`--model` names any artefact that `dynflow train early-exit` has made from `--train`, over BERT-base, RoBERTa-base or
ALBERT-base just so (`dynflow train early-exit --model google-bert/bert-base-uncased …`); its recipe says which rows
were held out. Accuracy and layers are of all of them. *Full* is the better of the last exit and the same encoder
trained alone. Wall-clock is of `--rows` of them, drawn at random, at batch 1 and 32, against the stock transformers
model with the same weights and the same last head, in one process, in float32, the contenders in turn; reading the
texts is in nobody's time. `--dev` opens a development set beside it, and `--shift` the source distribution of
vaderSentiment, with the thresholds as they were chosen on the rows held out. `early_exit_depths.py` compares with
trained static depths, `early_exit_promises.py` judges promises, `early_exit_attacks.py` slows it down.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from early_exit_clock import ONE_BY_ONE, SORTED, STOCK, UNSORTED, Stock, timed
from early_exit_shift import read_shift
from machine import machine
from overhead import as_table

from dynflow.calibration.plots import Axis, Plot, around, plain
from dynflow.cli.progress import progress_bars
from dynflow.errors import InputError
from dynflow.learning.kept import Progress
from dynflow.learning.labelled import label_names, read_labelled
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.base import load_base
from dynflow.nodes.early_exit_classifier.criteria import Criterion, criterion_of
from dynflow.nodes.early_exit_classifier.criteria.recorded import answers, exits
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.teach import unseen
from dynflow.nodes.early_exit_classifier.train import Data, read_data
from dynflow.nodes.early_exit_classifier.training.card import draw
from dynflow.nodes.early_exit_classifier.training.figures import Figures, curve, judge, recorded
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

SST2 = Path("../shared/data/sst2/train.tsv")
KEPT = (0.99, 0.98)
BARS = {0.99: 2.4, 0.98: 3.0}
"""Times faster than the stock model, by the share of the full accuracy that is kept."""
TIMED = "entropy"
BATCH_KEEPS = 0.85
"""Of the layers' saving, as wall-clock at batch 32."""
POSITIVE = "positive"


def main(command: Sequence[str] | None = None) -> None:
    """Measure, print and write the results."""
    given = arguments(command)
    torch.set_num_threads(given.threads)
    described = artefact.describe(given.model)
    model = artefact.read(described)
    training = described.facts.training
    recipe = Recipe(**{name: training["recipe"][name] for name in ("held_out", "seed")})
    with progress_bars() as progress:
        data = read_data([given.train], recipe)
        held_out = unseen(data, described)
        texts, truth = data.texts(held_out), data.classes(held_out)
        if leaked := artefact.training_hashes(described) & {artefact.row_hash(text) for text in texts}:
            raise InputError(f"{len(leaked)} of the rows held out are among those that {given.model} was trained on")
        bag = embeddings_alone(described, model, data)
        if given.quick:
            texts, truth = texts[: given.rows], truth[: given.rows]
        figures = all_criteria(model, texts, truth, training.get("alone"), progress)
        chosen = points(model, figures)
        results: dict[str, Any] = {"machine": machine(["dynflow", "torch", "transformers"]), "model": given.model}
        results["held out"] = {**asdict(figures), "full": figures.full, "embeddings alone": bag}
        shifts = {}
        if given.dev is not None:
            rows = read_labelled(given.dev)
            places = label_names(data.rows)
            shifts["development set"] = ([row.text for row in rows], [places.index(row.label) for row in rows])
        if given.shift is not None:
            place = model.labels.index(POSITIVE)
            for domain, (sentences, positive) in read_shift(given.shift).items():
                shifts[domain] = (sentences, [place if each else 1 - place for each in positive])
        results["shift"] = {name: shifted(model, *rows, chosen, progress) for name, rows in shifts.items()}
        results["wall-clock"] = timed(model, Stock(described, model), texts, chosen, given.rows, given.rounds, progress)
    text = report(results, figures, given)
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "early_exit.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.out / "early_exit.md").write_text(text + "\n", encoding="utf-8")
        (given.out / "early_exit.svg").write_text(draw(figures), encoding="utf-8")
        (given.out / "early_exit_threshold.svg").write_text(draw_thresholds(figures), encoding="utf-8")


def arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=SST2, help="what the model was trained on, and more")
    parser.add_argument("--model", default="embedded/sst2-minilm")
    parser.add_argument("--rows", type=int, default=1000, help="that wall-clock is taken on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dev", type=Path, help="a development set")
    parser.add_argument("--shift", type=Path, help="vaderSentiment's source distribution")
    parser.add_argument("--quick", action="store_true", help="judge on --rows rows only: for a look, not for figures")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(command)


def all_criteria(
    model: EarlyExitModel, texts: Sequence[str], truth: Sequence[int], alone: float | None, progress: Progress
) -> Figures:
    """The figures, with the curves of the criteria that the model was taught."""
    figures = judge(recorded(model, texts, progress), truth, model.layers)
    curves = dict(figures.curves)
    for name in model.learnt:
        logits = recorded(model, texts, progress, criterion=name)
        found = curve(at(model, name, 0.0), logits, np.array(truth), model.layers)
        curves |= {name: found} if found else {}
    return replace(figures, curves=curves, alone=alone)


def at(model: EarlyExitModel, name: str, threshold: float) -> Criterion:
    """A criterion with this threshold."""
    return criterion_of({"criterion": name, "threshold": threshold}, model.learnt)


def points(model: EarlyExitModel, figures: Figures) -> dict[str, Criterion]:
    """Each criterion at the threshold of fewest layers that keeps each share, where there is one."""
    return {
        told(name, kept): at(model, name, point.threshold)
        for name in figures.curves
        for kept in KEPT
        if (point := figures.cheapest(name, kept)) is not None
    }


def told(criterion: str, kept: float) -> str:
    """A point's name."""
    return f"{criterion}, {100 * kept:g} %"


def embeddings_alone(described: artefact.Described, model: EarlyExitModel, data: Data) -> float:
    """Accuracy of logistic regression on the mean of the untrained word embeddings: no layer at all."""
    from sklearn.linear_model import LogisticRegression

    embeddings = load_base(described.facts.base, described.folder)[0].get_input_embeddings().weight.detach().numpy()

    def bags(rows: Sequence[int]) -> Any:
        return np.stack([embeddings[model.reader.read(text).ids].mean(0) for text in data.texts(rows)])

    train, held_out = data.split.train, unseen(data, described)
    fitted = LogisticRegression(C=100.0, max_iter=1000).fit(bags(train), data.classes(train))
    return float(fitted.score(bags(held_out), data.classes(held_out)))


def shifted(
    model: EarlyExitModel,
    texts: Sequence[str],
    truth: Sequence[int],
    chosen: Mapping[str, Criterion],
    progress: Progress,
) -> dict[str, Any]:
    """Accuracy of each exit on other rows, and what the chosen thresholds give there."""
    plain_logits = recorded(model, texts, progress)
    accuracy = (plain_logits.argmax(-1) == np.array(truth)[:, None]).mean(0)
    read = {name: recorded(model, texts, progress, criterion=name) for name in model.readouts}
    found: dict[str, Any] = {}
    for name, criterion in chosen.items():
        logits = read.get(criterion.name, plain_logits)
        left = exits(criterion, logits, model.layers)
        right = answers(criterion, logits, model.layers, left) == truth
        found[name] = {
            "layers": float(np.asarray(model.layers)[left].mean()),
            "kept": float(right.mean() / accuracy[-1]),
        }
    return {"rows": len(texts), "accuracy": accuracy.tolist(), "chosen": found}


def draw_thresholds(figures: Figures) -> str:
    """The article's figure: accuracy, and how many times fewer layers, against the entropy threshold."""
    curve = sorted(figures.curves[TIMED], key=lambda point: point.threshold)
    axis = Axis(0, float(np.log(2)), "entropy threshold, nats", plain)
    parts = []
    for top, (name, title, values) in enumerate(
        (
            ("accuracy", "accuracy", [point.accuracy for point in curve]),
            ("saving", "layers of the whole model over layers run", [_fewer(figures, point.layers) for point in curve]),
        )
    ):
        plot = Plot(name, f"{title} against the entropy threshold", "", axis, around(values, title, plain, 0))
        plot.line(zip((point.threshold for point in curve), values, strict=True), "curve")
        parts.append(plot.svg().replace("<svg ", f'<svg y="{330 * top}" width="460" height="330" ', 1))
    style = "text{font:12px system-ui,sans-serif;fill:#57606a}.grid{stroke:#d0d7de}.curve{stroke:#1f6feb;fill:none}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 460 660" style="background:#fff">'
        f"<style>{style}</style>{''.join(parts)}</svg>\n"
    )


def report(results: Mapping[str, Any], figures: Figures, given: argparse.Namespace) -> str:
    """The results as markdown."""
    alone = "" if figures.alone is None else f" The encoder trained alone: {figures.alone:.4f}."
    parts = [
        "# Early exit",
        ", ".join(f"{name}: {value}" for name, value in results["machine"].items()),
        f"`{given.model}` on {figures.rows:,} rows held out" + ("; a quick look, no figures" if given.quick else "."),
        as_table(
            ["layers", "accuracy", "of full"],
            [
                [str(layer), f"{share:.4f}", f"{100 * share / figures.full:.2f} %"]
                for layer, share in zip(figures.layers, figures.accuracy, strict=True)
            ],
        ),
        f"Full, the better of the last exit and the encoder trained alone: {figures.full:.4f}.{alone} Logistic "
        f"regression on word embeddings: {results['held out']['embeddings alone']:.4f}.",
        "Layers of the whole model over the mean layers run, where that share of full is kept:",
        as_table(
            ["criterion", *(f"{100 * kept:g} %" for kept in KEPT)],
            [_savings(name, figures) for name in figures.curves],
        ),
        *(_shift(name, shift, figures) for name, shift in results["shift"].items()),
    ]
    clock = results["wall-clock"]
    names = [name for name in next(iter(clock["seconds"].values())) if name != STOCK]
    parts += [
        f"Wall-clock, times faster than the stock model, {clock['rows']:,} rows, {given.threads} thread(s):",
        as_table(
            ["", *clock["seconds"]],
            [[name, *(f"{taken[STOCK] / taken[name]:.2f}" for taken in clock["seconds"].values())] for name in names],
        ),
        "\n".join(f"- {verdict}" for verdict in verdicts(clock, figures.layers[-1])),
    ]
    return "\n\n".join(parts)


def verdicts(clock: Mapping[str, Any], depth: int) -> list[str]:
    """The bars."""
    found = []
    for kept, bar in BARS.items():
        name = told(TIMED, kept)
        if name not in clock["layers"]:
            found.append(f"MISSED: {TIMED} keeps {100 * kept:g} % at no threshold")
            continue
        faster = {way: taken[STOCK] / taken[name] for way, taken in clock["seconds"].items()}
        for way in (ONE_BY_ONE, UNSORTED, SORTED):
            found.append(f"{_kept(faster[way] >= bar)}: {way}, {name}: {faster[way]:.2f} times faster; bar {bar}")
        saving = depth / clock["layers"][name] if clock["layers"][name] else float("inf")
        share = faster[SORTED] / saving
        found.append(
            f"{_kept(share >= BATCH_KEEPS)}: {SORTED}, {name}: {share:.2f} of the {saving:.2f} times fewer layers; "
            f"bar {BATCH_KEEPS}"
        )
    return found


def _kept(holds: bool) -> str:
    return "kept" if holds else "MISSED"


def _shift(name: str, shift: Mapping[str, Any], figures: Figures) -> str:
    rows = [
        [chosen, _times(figures, each["layers"]), f"{100 * each['kept']:.2f} %"]
        for chosen, each in shift["chosen"].items()
    ]
    return "\n\n".join(
        [
            f"A shift, {name}: {shift['rows']:,} rows, the same thresholds; last exit {shift['accuracy'][-1]:.4f}.",
            as_table(["threshold of", "times fewer layers", "of the last exit's accuracy"], rows),
        ]
    )


def _savings(name: str, figures: Figures) -> list[str]:
    found = [figures.cheapest(name, kept) for kept in KEPT]
    return [name, *("none" if point is None else _times(figures, point.layers) for point in found)]


def _fewer(figures: Figures, layers: float) -> float:
    return figures.layers[-1] / layers if layers else float(figures.layers[-1] * 20)


def _times(figures: Figures, layers: float) -> str:
    """How many times fewer layers; the embeddings alone are none."""
    return f"{figures.layers[-1] / layers:.2f}" if layers else "no layer"


if __name__ == "__main__":
    main()
