"""Early exit against encoders of a fixed depth, each trained for it, on rows that neither has seen.

    python benchmarks/early_exit_depths.py [--train ../shared/data/sst2/train.tsv] [--depths 1,2,3] [--seeds 3]
                                           [--work DIR] [--out benchmarks/results]

A static depth is the encoder cut off after so many layers and trained with one head, by the recipe by which the
early-exit model's encoder is trained alone; the full model is the same at full depth. Each seed parts the rows anew and
trains all contenders. Thresholds are chosen on one half of the clusters held out, and both are judged on the other:
at the same mean layers, and at a mean of 1 / 1.2 of them. Differences are paired by row; their intervals are of a
bootstrap that draws seeds, and within them clusters, with replacement. Trainings stay in `--work`; a run that was
killed goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from overhead import as_table

from dynflow.cli.progress import progress_bars
from dynflow.learning.containment import clusters
from dynflow.learning.kept import Progress
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.base import find_base, read_base
from dynflow.nodes.early_exit_classifier.criteria import CRITERIA
from dynflow.nodes.early_exit_classifier.criteria.recorded import scores
from dynflow.nodes.early_exit_classifier.train import MODEL, read_data, train
from dynflow.nodes.early_exit_classifier.training.figures import recorded
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

SST2 = Path("../shared/data/sst2/train.tsv")
HELD_OUT = 12_500
CRITERION = "entropy"
FASTER = 1.2
MARGIN = 0.005
"""How much worse still counts as no worse, of accuracy."""
REPLICATES = 2_000
Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Trial:
    """One seed's contenders on the rows held out: what is right [rows], and ours at each exit [rows, exits]."""

    ours: Right
    sure: NDArray[np.float64]
    layers: NDArray[np.intp]
    static: Mapping[int, Right]
    alone: float
    clusters: NDArray[np.intp]
    seed: int

    def at(self, layers: float) -> tuple[Right, float, NDArray[np.intp]]:
        """What is right on the rows judged, and the mean layers there, at the threshold that spends `layers` on the
        others; and the rows judged."""
        judged = self._judged()
        levels = np.unique(self.sure[~judged][:, :-1])
        low, high = 0, len(levels) - 1  # of a lower level, more rows leave early
        while low < high:
            middle = (low + high + 1) // 2
            if self.layers[self._left(levels[middle])][~judged].mean() <= layers:
                low = middle
            else:
                high = middle - 1
        left = self._left(levels[low])
        rows = np.flatnonzero(judged)
        return self.ours[rows, left[rows]], float(self.layers[left[rows]].mean()), rows

    def _left(self, level: float) -> NDArray[np.intp]:
        reached = self.sure >= level
        reached[:, -1] = True
        left: NDArray[np.intp] = reached.argmax(1)
        return left

    def _judged(self) -> Right:
        names = np.unique(self.clusters)
        chosen = np.random.default_rng(self.seed).permutation(names)[: len(names) // 2]
        judged: Right = np.isin(self.clusters, chosen)
        return judged


def main(command: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, judge, print and write the results."""
    given = arguments(command)
    torch.set_num_threads(given.threads)
    recipe = Recipe(held_out=HELD_OUT)
    with progress_bars() as progress:
        trials = [trial(given, replace(recipe, seed=seed), progress) for seed in range(given.seeds)]
    found = {depth: compared(trials, depth) for depth in given.depths}
    results = {
        "machine": machine(["dynflow", "torch", "transformers"]),
        "seeds": given.seeds,
        "rows": [len(each.ours) for each in trials],
        "full": [max(each.alone, float(each.ours[:, -1].mean())) for each in trials],
        "depths": {str(depth): each for depth, each in found.items()},
    }
    text = report(results)
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "early_exit_depths.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.out / "early_exit_depths.md").write_text(text + "\n", encoding="utf-8")


def arguments(command: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, default=SST2, help="labelled texts")
    parser.add_argument("--depths", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, default=Path("early-exit-depths"), help="where trainings are kept")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(command)


def trial(given: argparse.Namespace, recipe: Recipe, progress: Progress) -> Trial:
    """The contenders of one seed, trained if they are not."""
    data = read_data([given.train], recipe)
    texts, truth = data.texts(data.split.held_out), np.array(data.classes(data.split.held_out))
    one = replace(recipe, alone_epochs=0, epochs=recipe.alone_epochs)
    static = {}
    for depth in given.depths:
        logits, _ = judged(given, cut(depth, given.work), replace(one, exits=(depth,)), texts, progress)
        static[depth] = logits[:, -1].argmax(-1) == truth
    logits, facts = judged(given, MODEL, recipe, texts, progress)
    layers = np.array(facts.heads["layers"])
    return Trial(
        ours=logits.argmax(-1) == truth[:, None],
        sure=scores(CRITERIA[CRITERION](0.0), logits, layers.tolist()),
        layers=layers,
        static=static,
        alone=float(facts.training["alone"]),
        clusters=np.array(clusters(texts)),
        seed=recipe.seed,
    )


def cut(depth: int, work: Path) -> str:
    """A folder with the encoder's first layers."""
    folder = work / f"first-{depth}"
    if not (folder / "tokenizer_config.json").is_file():
        model, tokenizer = read_base(find_base(MODEL))
        model.encoder.layer = model.encoder.layer[:depth]
        model.config.num_hidden_layers = depth
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder.resolve())


def judged(
    given: argparse.Namespace, model: str, recipe: Recipe, texts: Sequence[str], progress: Progress
) -> tuple[NDArray[np.float32], artefact.Facts]:
    """Logits on `texts` [rows, exits, labels] of what this recipe makes of the model, and its facts."""
    out: Path = given.work / f"{Path(model).name}-{recipe.seed}"
    if not (out / artefact.DESCRIPTION).is_file():
        train([given.train], out, model=model, recipe=recipe, progress=progress)
    described = artefact.describe(str(out.resolve()))
    kept = out / f"{described.digest[:16]}.npy"
    if not kept.is_file():
        np.save(kept, recorded(artefact.read(described), texts, progress))
    logits: NDArray[np.float32] = np.load(kept)
    return logits, described.facts


def compared(trials: Sequence[Trial], depth: int) -> dict[str, Any]:
    """Ours against the encoder of this depth, at the same layers and at fewer."""
    found: dict[str, Any] = {}
    for name, layers in (("same", float(depth)), ("fewer", depth / FASTER)):
        gains, groups, spent, ours, theirs = [], [], [], [], []
        for each in trials:
            right, mean, rows = each.at(layers)
            other = each.static[depth][rows]
            gains.append(right.astype(float) - other)
            groups.append(each.clusters[rows])
            spent.append(mean)
            ours.append(float(right.mean()))
            theirs.append(float(other.mean()))
        low, high = interval(gains, groups)
        value = float(np.mean([gain.mean() for gain in gains]))
        found[name] = {
            "layers": float(np.mean(spent)),
            "ours": ours,
            "static": theirs,
            "gain": {"value": value, "low": low, "high": high},
        }
    return found


def interval(gains: Sequence[NDArray[np.float64]], groups: Sequence[NDArray[np.intp]]) -> tuple[float, float]:
    """Of the mean gain, 95 %."""
    rng = np.random.default_rng(0)
    sums = []
    for gain, group in zip(gains, groups, strict=True):
        _, place = np.unique(group, return_inverse=True)
        sums.append((np.bincount(place, gain), np.bincount(place)))
    drawn = np.zeros(REPLICATES)
    for turn in range(REPLICATES):
        means = []
        for seed in rng.integers(len(sums), size=len(sums)):
            total, count = sums[seed]
            rows = rng.integers(len(total), size=len(total))
            means.append(total[rows].sum() / count[rows].sum())
        drawn[turn] = np.mean(means)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def report(results: Mapping[str, Any]) -> str:
    """The results as markdown."""
    rows, verdicts = [], []
    for depth, found in results["depths"].items():
        for name, each in found.items():
            gain = each["gain"]
            rows.append(
                [
                    depth,
                    f"{each['layers']:.2f}",
                    f"{np.mean(each['ours']):.4f}",
                    f"{np.mean(each['static']):.4f}",
                    f"{100 * gain['value']:+.2f} [{100 * gain['low']:+.2f}, {100 * gain['high']:+.2f}]",
                    ", ".join(
                        f"{100 * (ours - theirs):+.2f}"
                        for ours, theirs in zip(each["ours"], each["static"], strict=True)
                    ),
                ]
            )
            kept = gain["low"] > (0 if name == "same" else -MARGIN)
            told = "better at the same mean layers" if name == "same" else f"no worse at {FASTER} times fewer"
            verdicts.append(f"{'held' if kept else 'MISSED'}: against {depth} layers, {told}")
    return "\n\n".join(
        [
            "# Early exit against trained static depths",
            ", ".join(f"{name}: {value}" for name, value in results["machine"].items()),
            f"{results['seeds']} seeds; {' / '.join(f'{count:,}' for count in results['rows'])} rows held out, half of "
            f"which judge; exits by {CRITERION}. Full accuracy: "
            f"{' / '.join(f'{value:.4f}' for value in results['full'])}.",
            as_table(
                ["static depth", "our mean layers", "ours", "static", "gain, points", "by seed"],
                rows,
            ),
            "\n".join(f"- {verdict}" for verdict in verdicts),
        ]
    )


if __name__ == "__main__":
    main()
