"""What holds for every test: no network but loopback, and no tracing service."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from dynflow.models.health import forget_all
from tests.flow.batching_node import batching  # noqa: F401 - a fixture
from tests.servers import smollm2_server  # noqa: F401 - a fixture
from tests.tool_peer import smollm2_with_tools  # noqa: F401 - a fixture

# The build tries the same examples each time; a run by hand, or `make soak`, looks for new ones.
settings.register_profile("build", derandomize=True)
settings.load_profile("build" if os.environ.get("CI") else "default")

for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING"):
    os.environ[name] = "false"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["DYNFLOW_STATE"] = tempfile.mkdtemp(prefix="dynflow-state-")

HERE = Path(__file__).parent
ALONE = (
    *("batch_file/", "faces/", "faults/", "flow/", "models/", "soak/", "cli/test_batch.py", "cli/test_run.py"),
    *("nodes/test_speculative_generator.py", "test_benchmarks.py", "test_graphs.py", "test_readme.py"),
)
"""Tests that watch the clock, or run a model that works every core."""
BESIDE = ("faces/test_langchain_suites.py", "models/test_transformers_speculation.py")
"""Those among them that do neither."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what must not run beside other tests."""
    for item in items:
        place = item.path.relative_to(HERE).as_posix()
        if place.startswith(ALONE) and not place.startswith(BESIDE):
            item.add_marker(pytest.mark.alone)


def _is_loopback(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a socket file
    host = address[0]
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection beyond loopback fails at once, naming its address."""
    real_connect, real_connect_ex = socket.socket.connect, socket.socket.connect_ex

    def connect(self: socket.socket, address: Any) -> None:
        if not _is_loopback(address):
            raise ConnectionRefusedError(f"tests may not connect to {address}")
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        if not _is_loopback(address):
            raise ConnectionRefusedError(f"tests may not connect to {address}")
        return real_connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect_ex)


@pytest.fixture(autouse=True)
def _fresh_models() -> None:
    """No test meets a circuit breaker that an earlier one opened."""
    forget_all()
