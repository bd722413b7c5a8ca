"""A graph for batches, their files, and a model that is out of service for a while."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dynflow import Flow, loads
from dynflow.batch_file import BatchRun, Report
from dynflow.models.failures import CircuitOpen
from dynflow.testing import FakeChat

GRAPH = """
version: 1
params: {easy_below: 3}
models:
  small: {provider: host, price: {input: 0, output: 0}}
  large: {provider: host, max_tokens: 10, price: {input: 0, output: 100000}}
nodes:
  local: {type: chat, model: small}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: local, when: input.tokens < params.easy_below}
  - {from: start, to: cloud}
  - {from: local, to: end}
  - {from: cloud, to: end}
baseline: cloud
LIMITS
"""
EASY, HARD = "easy", "a hard question"


def flow(limits: str = "", **models: Any) -> Flow:
    fakes = {"small": FakeChat(replies=["short"]), "large": FakeChat(replies=["long long"])}
    return loads(GRAPH.replace("LIMITS", limits), models={**fakes, **models})


def calls(flow: Flow) -> int:
    return sum(len(flow.models[name].calls) for name in ("small", "large"))


class Files:
    """An input and an output."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "in.jsonl"
        self.target = folder / "out.jsonl"

    def write(self, inputs: Iterable[Any], first: int = 0) -> None:
        with self.source.open("w", encoding="utf-8") as file:
            for number, input in enumerate(inputs, first):
                file.write(f"{json.dumps({'id': number, 'input': input})}\n")

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.target.read_text("utf-8").splitlines()]

    def ids(self) -> list[Any]:
        return sorted(row["id"] for row in self.rows())

    async def run(self, flow: Flow, **options: Any) -> Report:
        with BatchRun(flow, self.source, self.target, **options) as batch:
            return await batch.run()


class Outage(FakeChat):
    """Out of service for so many calls."""

    calls_left: int = 0
    error: Any = CircuitOpen("large", 0.01)

    async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        if self.calls_left > 0:
            self.calls_left -= 1
            raise self.error
        return await super()._agenerate(messages, *args, **kwargs)


TWO_STEPS = """
version: 1
models:
  small: {provider: host, price: {input: 0, output: 1000}}
  large: {provider: host, price: {input: 0, output: 1000}}
nodes:
  draft: {type: chat, model: small, role: signal}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: draft}
  - {from: draft, to: cloud}
  - {from: cloud, to: end}
"""
