"""The fault matrix: every fault, call style and graph; each cell's outcome, upstream hits, bill, time, and leftovers.

What each cell should come to stands in `cells.py`; `docs/failures.md` shows it as a table.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynflow import Flow, loads
from dynflow.models.health import forget_all
from tests.faults.cells import DEADLINE, FAULTS, PATIENCE, Cell, Fault, cells, graph, run, settled
from tests.faults.page import PAGE, page
from tests.faults.server import CUT_AFTER, WORDS, FaultServer, serving
from tests.pace import slowness

pytest.importorskip("litellm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop
PARTIAL = "".join(WORDS[:CUT_AFTER])
"""What goes out of an answer that breaks off."""
SLACK = 0.25
"""Seconds that a request may take beyond its deadline."""
CLOSED_WITHIN = 0.1
"""Seconds within which an upstream connection is closed that nobody reads any more."""


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with serving() as server:
        yield server


FOR_OLLAMA = frozenset(
    {"good", "drip", "refused", "reset", "empty", "web_page", "status_400", "status_404", "status_429", "status_500"}
    | {"stall", "stall_midway", "cut", "unfinished", "malformed", "long_length", "error_midway"}
)
"""A part of the faults: what does not touch a provider's own protocol is the same for both."""
CASES = [("litellm", fault) for fault in FAULTS] + [("ollama", fault) for fault in FAULTS if fault.name in FOR_OLLAMA]


@pytest.fixture(scope="module", autouse=True)
def _imported(server: FaultServer) -> None:
    """A first call takes seconds."""
    for provider in ("litellm", "ollama"):
        warm_up(server, provider)


def warm_up(server: FaultServer, provider: str) -> None:
    flow = loads(graph(server, provider, Fault("good", "to warm up"), "none", 0.0))
    flow.invoke("Are you there?")
    flow.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once, and no model is remembered for its failures."""
    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.01)
    forget_all()


@pytest.mark.parametrize(("provider", "fault"), CASES, ids=lambda case: getattr(case, "name", case))
async def test_the_fault_matrix(server: FaultServer, provider: str, fault: Fault) -> None:
    for edge, row in cells(fault):
        factor = slowness()
        flow = loads(graph(server, provider, fault, edge, PATIENCE * factor))
        try:
            for cell in row:
                await check(server, flow, cell, provider, factor)
        finally:
            flow.close()
            await settled(lambda: server.open == 0, 2.0)
        assert server.open == 0, f"{provider}: {fault.name}/{edge} left {server.open} connections open"


async def check(server: FaultServer, flow: Flow, cell: Cell, provider: str, factor: float) -> None:
    """Run a cell, and compare."""
    forget_all()
    fault, expected, requests = cell.fault, cell.expected, cell.requests
    gone = len(server.left.get(fault.name, ()))
    found = await run(server, flow, cell)
    told = f"{provider}: {cell}: {found}"
    assert found.outcomes == (expected.outcome,) * requests, told
    assert found.partial == (PARTIAL if expected.outcome == "interrupted" else ""), told
    assert found.hits == expected.hits * requests, told
    assert found.usd == pytest.approx(expected.usd * requests, abs=1e-9), told
    late = found.seconds - (PATIENCE * factor if fault.silent and cell.edge == "none" else DEADLINE)
    assert late <= SLACK * factor or late <= SLACK * slowness(), told
    assert found.unfinished == (), told
    assert found.threads == (), told
    assert found.tasks == 0, told
    assert found.reservations == 0, told
    if fault.silent:
        await settled(lambda: len(server.left.get(fault.name, ())) >= gone + found.hits, 5.0)
        closed = server.left[fault.name][gone:]
        assert len(closed) == found.hits, told
        late = max(closed) - found.ended if cell.edge == "none" else 0.0
        assert late <= CLOSED_WITHIN * factor or late <= CLOSED_WITHIN * slowness(), told


def test_the_table_in_the_docs_is_up_to_date() -> None:
    """`make generated`"""
    assert PAGE.read_text("utf-8") == page()
