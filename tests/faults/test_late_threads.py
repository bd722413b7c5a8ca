"""Threads that are left behind at a deadline: what they still do costs nothing and calls nobody."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from dynflow import NodeTimeout, loads
from dynflow.models.attempts import Attempts
from dynflow.testing import FakeChat
from tests.faults.cells import reservations, spent

GRAPH = """
version: 1
models: {m: {provider: host, max_tokens: 10, price: {input: 1, output: 1}}}
nodes: {a: {type: chat, model: m, timeout: 50ms}}
edges: [{from: start, to: a}, {from: a, to: end}]
limits: {usd_per_day: 1}
"""


def test_a_thread_that_is_late_reserves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, ended = Attempts._attempt, threading.Event()

    def late(self: Attempts, *args: Any) -> Any:
        monkeypatch.setattr(self.call, "called_off", lambda: False)  # it looked a moment before
        time.sleep(0.1)
        try:
            return attempt(self, *args)
        finally:
            ended.set()

    monkeypatch.setattr(Attempts, "_attempt", late)
    model = FakeChat()
    flow = loads(GRAPH, models={"m": model})
    with pytest.raises(NodeTimeout):
        flow.invoke("x")
    assert ended.wait(2)
    assert model.calls == []
    assert reservations(flow) == 0
    assert spent(flow) == 0
