"""How long one decision takes, and a row of a batch: all contenders in turn on the same requests, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import routing_rivals as rivals
from overhead import as_table
from routing_data import Kept, Outcomes, Progress, labelled, read
from routing_questions import LEARNT_IN_MINUTES, measured

from dynflow.models.encoder import Encoder
from dynflow.nodes.answer_check.artefact import load as load_check
from dynflow.nodes.answer_check.checks import CHECKS
from dynflow.nodes.answer_check.estimator import KINDS as CHECK_KINDS
from dynflow.nodes.answer_check.verdict import Case
from dynflow.nodes.difficulty_classifier.artefact import load
from dynflow.nodes.difficulty_classifier.estimators import KINDS, SHIPPED
from dynflow.nodes.difficulty_classifier.features import ending, normalise

ROWS = 200
ROUNDS = 3
BATCH = 50
LABELS = 1_500
FORWARD = "the encoder's forward pass, bare"
MOST_SURFACE, MOST_EMBEDDING, MOST_BATCH = 1.0, 1.2, 1.0

Decide = Callable[[Sequence[Any]], Any]
"""Decides on some requests."""
Times = Mapping[str, Mapping[str, float]]
"""Seconds, by contender."""


def run(data: Path, kept: Kept, progress: Progress) -> dict[str, Any]:
    """Seconds of a decision: median and 95th percentile, one by one and in batches, by contender."""
    mmlu, gsm8k = (read(data / "routing" / f"{name}.jsonl") for name in ("mmlu", "gsm8k"))
    rows = np.random.default_rng(0).permutation(len(mmlu))[:ROWS]
    prompts = [mmlu.prompts[row] for row in rows]
    pairs = [(gsm8k.prompts[row], gsm8k.drafts[row]) for row in range(ROWS)]
    contenders = {name: (decide, prompts) for name, decide in _of_prompts(mmlu, kept, progress).items()}
    contenders[FORWARD] = (Encoder.shared().embed, [ending(normalise(prompt)) for prompt in prompts])
    contenders |= {name: (decide, pairs) for name, decide in _of_drafts().items()}
    found = _measured(contenders, progress)
    return {"rows": ROWS, "rounds": ROUNDS, "found": found, "bars": _bars(found), "text": _text(found)}


def _of_prompts(outcomes: Outcomes, kept: Kept, progress: Progress) -> dict[str, Decide]:
    decide: dict[str, Decide] = {}
    train, _ = labelled(outcomes.groups, LABELS, 0)
    for kind, made in KINDS.items():
        if kind in SHIPPED:
            decide[kind] = load(kind).predict
        elif kind not in LEARNT_IN_MINUTES:
            estimator = made()
            estimator.fit_features(measured(kind, outcomes, kept, progress)[train], outcomes.quality[train])
            decide[f"{kind}, of {LABELS:,} rows"] = estimator.predict
    return {**decide, **rivals.prompt_scorers()}


def _of_drafts() -> dict[str, Decide]:
    def ours(kind: str) -> Decide:
        judge = load_check(kind)
        return lambda pairs: judge.judge([Case(prompt, draft, tuple(CHECKS)) for prompt, draft in pairs])

    return {**{f"answer_check, {kind}": ours(kind) for kind in CHECK_KINDS}, **rivals.answer_scorers()}


def _measured(contenders: Mapping[str, tuple[Decide, Sequence[Any]]], progress: Progress) -> Times:
    single: dict[str, list[float]] = {name: [] for name in contenders}
    batched: dict[str, list[float]] = {name: [] for name in contenders}
    for decide, requests in contenders.values():
        decide(requests[:2])  # what loads on first use
    for turn in range(ROUNDS):
        progress(turn, ROUNDS, "latency")
        for place in range(ROWS):
            for name, (decide, requests) in contenders.items():
                single[name].append(_seconds(decide, requests[place : place + 1]))
        for start in range(0, ROWS, BATCH):
            for name, (decide, requests) in contenders.items():
                batched[name].append(_seconds(decide, requests[start : start + BATCH]) / BATCH)
    progress(ROUNDS, ROUNDS, "latency")
    return {
        name: {
            "p50": float(np.median(single[name])),
            "p95": float(np.quantile(single[name], 0.95)),
            "mean": float(np.mean(single[name])),
            "batch": float(np.mean(batched[name])),
        }
        for name in contenders
    }


def _seconds(decide: Decide, requests: Sequence[Any]) -> float:
    began = time.perf_counter()
    decide(requests)
    return time.perf_counter() - began


def _bars(found: Times) -> list[tuple[str, float, str, float]]:
    bars = [
        ("`surface`: ms of a decision, p50", 1e3 * found["surface"]["p50"], "≤", MOST_SURFACE),
        (
            "`embedding`: decision against the bare forward pass, p50",
            found["embedding"]["p50"] / found[FORWARD]["p50"],
            "≤",
            MOST_EMBEDDING,
        ),
    ]
    for kind in SHIPPED:
        ratio = found[kind]["batch"] / found[kind]["mean"]
        bars.append((f"`{kind}`: a row of a batch against one by one", ratio, "≤", MOST_BATCH))
    return bars


def _text(found: Times) -> list[str]:
    forward = found[FORWARD]["p50"]
    rows = [
        [
            name,
            *(f"{1e3 * each[key]:.2f}" for key in ("p50", "p95")),
            f"{each['p50'] / forward:.2f}",
            f"{1e3 * each['mean']:.2f}",
            f"{1e3 * each['batch']:.2f}",
            f"{each['batch'] / each['mean']:.2f}",
        ]
        for name, each in found.items()
    ]
    head = ["", "ms, p50", "ms, p95", "of the bare pass, p50", "ms, mean", f"ms a row of {BATCH}", "of one by one"]
    return [
        f"{ROWS} requests, {ROUNDS} rounds, wall time, the contenders in turn. Routers read questions of MMLU, checks "
        "questions and drafts of GSM8K; the bare forward pass has the text as `embedding` reads it.",
        as_table(head, rows),
    ]
