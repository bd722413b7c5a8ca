"""Calibration files: params that keep a promise, with what it rests on. `graph.yaml` has `graph.calibration.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dynflow.errors import ArtefactError

if TYPE_CHECKING:
    from dynflow.language.spec import ParamBody

FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """What a calibration file holds."""

    graph_hash: str
    """Of the graph that it was made for (`dynflow.hashes.graph_hash`)."""
    params: Mapping[str, Any]
    promise: Mapping[str, Any]
    """`kind` (as `Promise` has it), `target`, `of`, `confidence`; of conversations also `turns`: how many requests of
    each are promised of; of a budget also `unit` and `within`."""
    statement: str
    """What is promised, in words."""
    n: int
    """Independent draws that it was tested on: requests, or conversations."""
    tuning_rows: int
    """Further draws, which chose what was tested."""
    trained_on: int
    """Rows that were left out because an artefact was trained on them."""
    bound: Mapping[str, Any]
    """`method`, `of` (what was bounded), `value`, and its `limit`, which it had to reach; of a budget also `least` and
    `least_limit`, on the other side."""
    expected: Mapping[str, Any]
    """`quality`, `usd`, `strong_share` with intervals, and the `reference`'s, on the rows that it was tested on; of a
    node that stops early `quality` (where labels are known), `agreement` with whole runs, `cost` and its `unit`."""
    signals: Mapping[str, Any]
    """How the numbers that decide were spread over these rows: by `node.port`, `n` (draws), and `shares`: values, each
    with the share of requests that had less, and of those that had no more."""
    data_sha256: str
    made: str
    """Date and time, ISO 8601, UTC."""
    dynflow: str
    requests: int | None = None
    """Requests that were counted of the conversations drawn; None: each draw was a request."""
    audit: Mapping[str, Any] | None = None
    """Of a node that stops early: the `node`, and the `limit` of the share of its answers that are others than those
    of whole runs: what is promised, else what the calibration's rows allow for; and which of the two: `promised`."""
    artefacts: Mapping[str, str] = field(default_factory=dict)
    """Of each node that has an artefact, what tells that one from others: with another it is not applied."""

    @property
    def tested_on(self) -> str:
        """What it was tested on, in words."""
        return f"{self.n:,} rows" if self.requests is None else conversations(self.n, self.requests)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `ArtefactError` where the file is none, or is damaged."""
        mend = "calibrate again, or delete the file"
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(body, dict) or not isinstance(body.get("format"), int):
                raise ArtefactError(f"{path} is no calibration file: {mend}")
            if body.pop("format") > FORMAT:
                raise ArtefactError(f"{path} was written by a later dynflow: install a newer one, or {mend}")
            found = cls(**body)
            mappings = (found.params, found.artefacts)
            if not all(isinstance(each, dict) for each in mappings) or not isinstance(found.graph_hash, str):
                raise ArtefactError(f"{path} is damaged: {mend}")
        except (OSError, ValueError, TypeError) as error:
            raise ArtefactError(f"{path} is damaged ({error}): {mend}") from error
        return found

    def checked(self, params: Mapping[str, ParamBody]) -> dict[str, Any]:
        """The params, each of its type and range. Raises `ArtefactError`."""
        found: dict[str, Any] = {}
        for name, value in self.params.items():
            if name not in params:
                raise ArtefactError(f"the calibration sets {name!r}, which the graph does not have: calibrate again")
            try:
                found[name] = params[name].check(value)
            except ValueError as error:
                raise ArtefactError(f"the calibration's {name}: {error}: calibrate again") from None
        return found


def conversations(draws: int, requests: int) -> str:
    """So many conversations of so many requests altogether, in words; a request that stands alone is one."""
    return f"{draws:,} conversations of {requests:,} requests"


def path_for(graph: Path) -> Path:
    """Where a graph file's calibration lies."""
    return graph.with_name(f"{graph.stem}.calibration.json")
