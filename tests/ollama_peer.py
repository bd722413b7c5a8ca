"""A real peer of the Ollama provider: `ollama-proxy-plus` in front of SmolLM2's server."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import SERVER_KEY

OLLAMA_MODEL = "local/smollm2"
"""The proxy's name for it."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"ollama-proxy did not come up: {log.read_text()}")


@pytest.fixture(scope="session")
def ollama_server(smollm2_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that speaks Ollama's protocol, on loopback, up for the whole session."""
    if importlib.util.find_spec("ollama_proxy") is None:  # not imported: that would set up logging for all
        pytest.skip("needs ollama-proxy-plus")
    folder = tmp_path_factory.mktemp("ollama_proxy")
    port, log = _free_port(), folder / "log"
    settings = {"PROVIDERS_LOCAL_API_KEY": SERVER_KEY, "PROVIDERS_LOCAL_BASE_URL": smollm2_server}
    command = [sys.executable, "-m", "ollama_proxy", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **settings}
        )
        try:
            _wait_for(port, process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)
