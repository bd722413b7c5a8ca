"""A cascade whose requests end in every way there is, and the ways to run it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynflow import Flow, loads
from dynflow.trace_file import TraceFile, read_trace

CANARY = "canary"
"""Stands in every request, answer and error of a provider; no record may hold it."""

CASCADE = """
version: 1
name: cascade
params:
  trust_above: {default: 0.5, min: 0, max: 1}
  short_below: {default: 3, min: 0, max: 100}
models:
  small: {provider: host, price: {input: 1, output: 2}}
  large: {provider: host, price: {input: 10, output: 20}}
nodes:
  local: {type: chat, model: small}
  check:
    type: runnable
    name: check
    role: signal
    input: ${local.text}
    ports: {confidence: number}
  cloud: {type: chat, model: large}
edges:
  - {from: start, to: cloud, when: input.tokens < params.short_below}
  - {from: start, to: local}
  - {from: local, to: cloud, when: local.failed}
  - {from: local, to: check}
  - {from: check, to: cloud, when: check.failed or check.confidence < params.trust_above}
  - {from: check, to: end}
  - {from: cloud, to: end, when: cloud.failed and local.ok}
  - {from: cloud, to: end}
baseline: cloud
"""
QUESTION = f"what is the meaning of {CANARY}, if you please?"


def cascade(small: Any, large: Any, confidence: float = 0.2, *, text: str = CASCADE, **options: Any) -> Flow:
    """The cascade with these models; its check gives this confidence."""
    return loads(
        text,
        models={"small": small, "large": large},
        runnables={"check": lambda _: {"confidence": confidence}},
        **options,
    )


def records(path: Path) -> list[Mapping[str, Any]]:
    """The records of a file, all of which must be whole."""
    found = [record for _, record in read_trace(path)]
    assert all(isinstance(record, Mapping) for record in found), found
    return found  # type: ignore[return-value]


def traced(path: Path, *, content: bool = False) -> TraceFile:
    return TraceFile(path, content=content)


async def _astream(flow: Flow, value: Any, config: Any) -> None:
    async for _ in flow.astream(value, config):
        pass


Style = Callable[[Flow, Any, Any], Any]
STYLES: Mapping[str, Style] = {
    "run": lambda flow, value, config: flow.run(value, config),
    "invoke": lambda flow, value, config: flow.invoke(value, config),
    "ainvoke": lambda flow, value, config: asyncio.run(flow.ainvoke(value, config)),
    "arun": lambda flow, value, config: asyncio.run(flow.arun(value, config)),
    "stream": lambda flow, value, config: list(flow.stream(value, config)),
    "astream": lambda flow, value, config: asyncio.run(_astream(flow, value, config)),
    "batch": lambda flow, value, config: flow.batch([value], config),
    "abatch": lambda flow, value, config: asyncio.run(flow.abatch([value], config)),
}


def ends(style: str, flow: Flow, value: Any, config: Any = None) -> None:
    """Run a request to its end, whatever that is."""
    with contextlib.suppress(Exception):
        STYLES[style](flow, value, config)
