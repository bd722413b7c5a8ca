"""How good are our routers beside others: RouteLLM's protocol on MMLU and GSM8K, latency, and robustness.

    python benchmarks/routing.py [--data ../shared/data] [--out benchmarks/results]

Everything runs offline on recorded outcomes (`prepare_data.py` makes them). What is computed once of each prompt, such
as its embedding, is kept in the user's cache folder: a run that was stopped goes on where it was. Writes
`routing.json`, `routing.md` and `routing.svg`; `--only` takes some of the parts anew and leaves the others of
`routing.json` as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", LITELLM_LOCAL_MODEL_COST_MAP="True")

import numpy as np
import routing_cascade as cascade
import routing_latency
import routing_questions as questions
import routing_report as report
import routing_rivals as rivals
import routing_robustness
from machine import machine
from routing_data import Kept, Outcomes, Progress, data_folder, labelled, read
from routing_protocol import Figures, Trial, judged
from routing_regrade import regraded
from routing_trials import Entries, crossed_trials, labelled_trials, topic_trials

from dynflow.cli.progress import progress_bars
from dynflow.learning.crossfitting import near_duplicates

DISTRIBUTIONS = ("dynflow", "numpy", "onnxruntime", "litellm", "cascadeflow", "scikit-learn")
LABELS = 1_500
"""Training labels on MMLU: as many as RouteLLM had."""
SAMPLE, SAMPLE_LABELS, SAMPLE_SEEDS = 1_500, 1_000, 3
"""Rows, training labels and splits of what is judged on a sample."""


def mmlu(data: Path, kept: Kept, progress: Progress) -> dict[str, Any]:
    """Routing by the question, on four kinds of splits."""
    outcomes = read(data / "routing" / "mmlu.jsonl")
    entries = questions.entries(outcomes, kept, progress)
    untuned = questions.entries(outcomes, kept, progress, tuned=False)
    fewer = {name: entry for name, entry in untuned.items() if name not in questions.SLOW}
    strict = near_duplicates(outcomes.prompts)
    quality, groups, topics = outcomes.quality, outcomes.groups, outcomes.topics

    def figures(trials: Sequence[Trial], units: Any) -> dict[str, Any]:
        return told(judged(trials, quality, np.asarray(units), rivals.PLAIN))

    return {
        **facts(outcomes),
        "random": figures(labelled_trials(entries, groups, LABELS, progress, "MMLU, random rows"), groups),
        "templates": figures(labelled_trials(entries, strict, LABELS, progress, "MMLU, templates whole"), strict),
        "topics": figures(topic_trials(fewer, topics, LABELS, progress, "MMLU, subjects held out"), groups),
        "topics_all": figures(topic_trials(fewer, topics, None, progress, "MMLU, subjects, all labels"), groups),
    }


def slow(data: Path, kept: Kept, progress: Progress) -> dict[str, Any]:
    """All estimators, those that take minutes too, on a sample of MMLU."""
    everything = read(data / "routing" / "mmlu.jsonl")
    outcomes = everything.only(np.sort(labelled(everything.groups, SAMPLE, 0)[0]))
    entries = questions.entries(outcomes, kept, progress, tuned=False, slow=True)
    trials = labelled_trials(
        entries, outcomes.groups, SAMPLE_LABELS, progress, "MMLU, a sample", seeds=SAMPLE_SEEDS, alone=True
    )
    return {
        **facts(outcomes),
        "seeds": SAMPLE_SEEDS,
        "labels": SAMPLE_LABELS,
        "random": told(judged(trials, outcomes.quality, outcomes.groups, rivals.PLAIN)),
    }


def gsm8k(data: Path, kept: Kept, progress: Progress) -> dict[str, Any]:
    """Routing by the question, and cascades that check a draft first."""
    recorded = read(data / "routing" / "gsm8k.jsonl")
    found: dict[str, Any] = facts(recorded)
    for labels, outcomes in (("recorded", recorded), ("regraded", anew(recorded))):
        found[f"{labels}_quality"] = outcomes.quality.mean(0).tolist()
        of_draft = cascade.entries(outcomes, kept, progress)
        of_question = questions.entries(outcomes, kept, progress, tuned=False)
        if outcomes is not recorded:
            of_question = {name: of_question[name] for name in (rivals.RANDOM, rivals.ORACLE)}
        entries: Entries = {**of_question, **of_draft}
        usd = cascade.usd_of(of_draft, entries, recorded.usd)
        entries = {**entries, f"{rivals.ORACLE}, a cascade": entries[rivals.ORACLE]}
        usd[f"{rivals.ORACLE}, a cascade"] = cascade.drafted(recorded.usd)
        splits = {
            labels: crossed_trials(entries, outcomes.groups, progress, f"GSM8K, {labels} labels, cross-fitted"),
            f"{labels}_few": labelled_trials(
                entries, outcomes.groups, cascade.LABELS, progress, f"GSM8K, {cascade.LABELS} {labels} labels"
            ),
        }
        for name, trials in splits.items():
            found[name] = told(judged(trials, outcomes.quality, outcomes.groups, cascade.HANDMADE, usd=usd))
    return found


def anew(outcomes: Outcomes) -> Outcomes:
    """The same rows, regraded."""
    return replace(outcomes, quality=regraded(outcomes.drafts, outcomes.strong_responses, outcomes.quality))


def facts(outcomes: Outcomes) -> dict[str, Any]:
    """What the rows are."""
    found: dict[str, Any] = {
        "rows": len(outcomes),
        "groups": len(np.unique(outcomes.groups)),
        "subjects": len(set(outcomes.topics)),
        "quality": outcomes.quality.mean(0).tolist(),
    }
    if outcomes.usd is not None:
        found["usd"] = outcomes.usd.mean(0).tolist()
    return found


def told(figures: Figures) -> dict[str, Any]:
    """Plain values."""
    return asdict(figures)


PARTS: dict[str, Callable[[Path, Kept, Progress], dict[str, Any]]] = {
    "mmlu": mmlu,
    "slow": slow,
    "gsm8k": gsm8k,
    "robustness": routing_robustness.run,
    "latency": routing_latency.run,
}


USUAL = [name for name in PARTS if name != "slow"]
PARTS_HELP = "parts to take anew; `slow` judges the estimators that take minutes, and is taken only where it is named"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with routing/*.jsonl (default: ../shared/data)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=USUAL, help=PARTS_HELP)
    given = parser.parse_args(arguments)
    data = data_folder(given.data)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "routing.json"
    results: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    with progress_bars() as progress:
        for name in given.only:
            results[name] = {"machine": machine(DISTRIBUTIONS), **PARTS[name](data, Kept(), progress)}
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report.picture(results, given.out / "routing.svg")
    text = report.markdown(results)
    (given.out / "routing.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
