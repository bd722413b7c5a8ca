"""A node type that is better at many requests together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

from dynflow import node
from dynflow.language.types import integer
from dynflow.node import Call, Node, Output


class Lengths(Node):
    """Measures texts, and writes down which came together."""

    type = "lengths"
    batches = True
    ports: ClassVar[Any] = {"length": integer("characters")}
    batches_seen: ClassVar[list[list[str]]] = []
    fails: ClassVar[Any] = False

    def warm_up(self) -> None:
        if self.fails == "warm_up":
            raise OSError("no file")

    def run(self, call: Call) -> Output:
        return Output({"length": len(call.request.text)})

    def run_batch(self, calls: Sequence[Call]) -> list[Output | Exception]:
        self.batches_seen.append([call.request.text for call in calls])
        if self.fails == "run":
            raise OSError("broken")
        outputs: list[Output | Exception] = [self.run(call) for call in calls]
        if self.fails == "one":
            outputs[0] = ValueError("this one")
        return outputs[1:] if self.fails == "count" else outputs


@pytest.fixture
def batching(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Lengths]]:
    """A registered node type that batches."""
    registered = {
        **node._registered(),
        "lengths": EntryPoint("lengths", "tests.flow.batching_node:Lengths", "dynflow.nodes"),
    }
    monkeypatch.setattr(node, "_registered", lambda: registered)
    Lengths.batches_seen.clear()
    Lengths.fails = False
    yield Lengths
    node.node_type.cache_clear()
