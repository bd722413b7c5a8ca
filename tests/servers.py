"""Real peers of the tests: SmolLM2 behind llama.cpp's own HTTP server, which speaks the OpenAI protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dynflow.errors import MissingModel
from dynflow.models.embedded import locate

SERVER_KEY = "sk-local-5ecret"
"""What the server wants as `Authorization: Bearer …`."""


@contextmanager
def smollm2(context: int = 8192) -> Iterator[str]:
    """SmolLM2-135M behind HTTP on loopback, in this process; its base URL, which ends in `/v1`.

    It answers one request after another, so that a seeded request gives the same text whatever else is going on.
    """
    pytest.importorskip("xllamacpp")
    from dynflow.models.llama_cpp import _library  # with threads that sleep while they wait

    try:
        path = locate("embedded/smollm2-135m-instruct")
    except MissingModel as error:
        pytest.skip(str(error))
    xllamacpp = _library()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = context, 1, 1
    params.use_jinja, params.ui = True, False
    params.warmup, params.verbosity, params.cache_ram_mib = False, -1, 0
    params.api_keys = [SERVER_KEY]
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture(scope="session")
def smollm2_server() -> Iterator[str]:
    """The base URL of a real OpenAI-compatible server, up for the whole session; it wants `SERVER_KEY`."""
    with smollm2() as url:
        yield url
