"""Recorded outcomes for the routing benchmark: rows, groups, splits, and arrays kept between runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.outcomes import read_outcomes
from dynflow.learning.crossfitting import folds_of, near_duplicates
from dynflow.learning.kept import Progress, kept_rows
from dynflow.request import estimate_tokens

Array = NDArray[np.floating[Any]]
Rows = NDArray[np.intp]

PRICES = {"weak": 0.24, "strong": 24.7}
"""USD per million tokens, in and out, as RouteLLM has them."""
DATA = Path("../shared/data")
TEMPLATE = 20
"""Words in a row that more prompts than this share, as all of MMLU's moral_scenarios do, make no near-duplicates."""


@dataclass(frozen=True)
class Outcomes:
    """Rows [n] of one outcome file, by column. `groups`: near-duplicates share a number."""

    name: str
    prompts: list[str]
    topics: list[str]
    quality: Array
    """[n, 2]: the weak model's and the strong one's, 0…1."""
    groups: NDArray[np.int64]
    drafts: list[str] = field(default_factory=list)
    """The weak model's responses, where they are recorded."""
    usd: Array | None = None
    """[n, 2]: what each model's call cost; None without responses."""
    strong_responses: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.prompts)

    def only(self, rows: Rows) -> Outcomes:
        """Some of the rows."""

        def of(column: list[str]) -> list[str]:
            return [column[row] for row in rows] if column else []

        return Outcomes(
            self.name,
            of(self.prompts),
            of(self.topics),
            self.quality[rows],
            self.groups[rows],
            of(self.drafts),
            None if self.usd is None else self.usd[rows],
            of(self.strong_responses),
        )

    @property
    def weak(self) -> Array:
        return self.quality[:, 0]

    @property
    def strong(self) -> Array:
        return self.quality[:, 1]


def read(path: Path) -> Outcomes:
    """The rows of an outcome file with the outcomes `weak` and `strong`. Raises OutcomeError for a faulty file."""
    rows = read_outcomes(path).rows
    prompts = [str(row.input) for row in rows]
    responses = {name: [row.outcomes[name].response or "" for row in rows] for name in PRICES}
    usd = None
    if all(map(all, responses.values())):
        usd = np.array(
            [
                [
                    (estimate_tokens(prompt) + estimate_tokens(responses[name][index])) * price / 1e6
                    for name, price in PRICES.items()
                ]
                for index, prompt in enumerate(prompts)
            ]
        )
    return Outcomes(
        path.stem,
        prompts,
        [row.id.split("/")[1] for row in rows],
        np.array([[row.outcomes[name].quality for name in PRICES] for row in rows], dtype=np.float64),
        near_duplicates(prompts, TEMPLATE),
        responses["weak"] if usd is not None else [],
        usd,
        responses["strong"] if usd is not None else [],
    )


def labelled(groups: Sequence[Hashable] | NDArray[Any], count: int, seed: int) -> tuple[Rows, Rows]:
    """A random draw of about `count` training rows, groups whole, and all the other rows."""
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    order = np.random.default_rng(seed).permutation(int(place.max()) + 1)
    sizes = np.bincount(place)[order]
    taken = order[: int(np.searchsorted(np.cumsum(sizes), count)) + 1]
    chosen = np.isin(place, taken)
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def folds(groups: Sequence[Hashable] | NDArray[Any], count: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Training and test rows of each fold of a random division, groups whole; folds are about equally large."""
    fold = folds_of(groups, count, seed)
    for each in range(count):
        yield np.flatnonzero(fold != each), np.flatnonzero(fold == each)


def divided(groups: Sequence[Hashable], count: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """As `folds`, each fold with equally many groups instead of rows."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    fold = np.empty(len(names), dtype=np.int64)
    fold[np.random.default_rng(seed).permutation(len(names))] = np.arange(len(names)) % count
    for each in range(count):
        test = fold[place] == each
        yield np.flatnonzero(~test), np.flatnonzero(test)


class Kept:
    """Arrays kept between runs in the user's cache folder, under a hash of all that they depend on."""

    def __init__(self, folder: Path | None = None) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.folder = folder or Path(base) / "dynflow" / "benchmarks"

    def rows(
        self,
        label: str,
        depends: Sequence[str],
        items: Sequence[Any],
        make: Callable[[Sequence[Any]], Any],
        progress: Progress,
    ) -> Array:
        """`make(items)`, one row for each item, chunk by chunk: a run that was killed goes on where it was."""
        return kept_rows(items, make, self.folder, depends, progress, label)


def data_folder(given: Path | None) -> Path:
    """Where the outcome files lie. Exits with what to do where they do not."""
    folder = given or DATA
    if not (folder / "routing" / "mmlu.jsonl").is_file():
        sys.exit(f"no routing/mmlu.jsonl in {folder}: make it with `python benchmarks/prepare_data.py --out {folder}`")
    return folder
