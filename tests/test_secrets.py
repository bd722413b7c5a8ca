"""A key is shown nowhere: one canary in every place a key may stand, over every way that a call may end."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import logging
import pickle
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumpd, dumps
from langchain_core.tracers.context import collect_runs

import dynflow
from dynflow import Flow
from dynflow.cli.app import cli
from dynflow.models.settings import ModelSettings

pytest.importorskip("litellm")
pytest.importorskip("ollama")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm uses what pydantic is about to drop

CANARY = "canary"
"""Part of every key below."""
LITERAL = "sk-canary-literal-1/+=%"
IN_ENVIRONMENT = "sk-canary-environment-2"
UNTOLD = "sk-canary-untold-3"
"""Only in the environment: the client library finds it there by itself."""
PASSWORD = "canary-password-4"
QUESTION = "What is in store?"


# The server


class Peer:
    """Ends each request as the model's name says, and repeats whatever it was sent."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.closing = threading.Event()
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
                echo = f"{dict(self.headers)} {self.path}"
                peer.seen.append(_unwrapped(echo))
                with suppress(BrokenPipeError, ConnectionResetError):
                    ANSWERS[asked["model"]](self, peer, asked, _unwrapped(echo))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def _unwrapped(echo: str) -> str:
    """With the user and password that a Basic header holds written out beside it."""
    for part in echo.split("'"):
        if part.startswith("Basic "):
            echo += base64.b64decode(part.removeprefix("Basic ")).decode()
    return echo


Answer = Callable[[BaseHTTPRequestHandler, Peer, dict[str, Any], str], None]


def _head(handler: BaseHTTPRequestHandler, status: int = 200, echo: str = "") -> None:
    handler.send_response(status)
    handler.send_header("content-type", "application/json" if status != 200 else "text/event-stream")
    if echo:
        handler.send_header("www-authenticate", echo.replace("\n", " "))
    handler.end_headers()


def _status(status: int) -> Answer:
    def answer(handler: BaseHTTPRequestHandler, peer: Peer, asked: dict[str, Any], echo: str) -> None:
        _head(handler, status, echo)
        error: Any = f"no: {echo}" if handler.path.startswith("/api/") else {"message": f"no: {echo}", "code": None}
        handler.wfile.write(json.dumps({"error": error}).encode())

    return answer


def _word(asked: dict[str, Any], ollama: bool, text: str, done: bool = False) -> bytes:
    if ollama:
        counts = {"prompt_eval_count": 3, "eval_count": 1} if done else {}
        message = {"role": "assistant", "content": text}
        return json.dumps({"model": "m", "message": message, "done": done, **counts}).encode() + b"\n"
    kind, part = ("chat.completion.chunk", "delta") if asked.get("stream") else ("chat.completion", "message")
    choice = {"index": 0, part: {"role": "assistant", "content": text}, "finish_reason": "stop" if done else None}
    body = {"id": "x", "object": kind, "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n" if asked.get("stream") else json.dumps(body).encode()


def _good(handler: BaseHTTPRequestHandler, peer: Peer, asked: dict[str, Any], echo: str) -> None:
    _head(handler)
    handler.wfile.write(_word(asked, handler.path.startswith("/api/"), "Bread.", done=True))


def _cut(handler: BaseHTTPRequestHandler, peer: Peer, asked: dict[str, Any], echo: str) -> None:
    _head(handler)
    handler.wfile.write(_word(asked, handler.path.startswith("/api/"), "Bread")[:-8])


def _malformed(handler: BaseHTTPRequestHandler, peer: Peer, asked: dict[str, Any], echo: str) -> None:
    _head(handler)
    handler.wfile.write(f"data: {{{echo}\n\n".encode())


def _error_midway(handler: BaseHTTPRequestHandler, peer: Peer, asked: dict[str, Any], echo: str) -> None:
    ollama = handler.path.startswith("/api/")
    _head(handler)
    handler.wfile.write(_word(asked, ollama, "Bread"))
    error = json.dumps({"error": f"lost {echo}" if ollama else {"message": f"lost {echo}"}})
    handler.wfile.write(error.encode() + b"\n" if ollama else f"data: {error}\n\n".encode())


def _silent(handler: BaseHTTPRequestHandler, peer: Peer, asked: dict[str, Any], echo: str) -> None:
    peer.closing.wait(20)


def _hung_up(handler: BaseHTTPRequestHandler, peer: Peer, asked: dict[str, Any], echo: str) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


ANSWERS: dict[str, Answer] = {
    "good": _good,
    **{f"status{status}": _status(status) for status in (400, 401, 403, 404, 429, 500, 503)},
    "cut": _cut,
    "malformed": _malformed,
    "midway": _error_midway,
    "silent": _silent,
    "hungup": _hung_up,
}
ENDS = (*ANSWERS, "refused", "budget", "cancelled")


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


# Where keys stand


@dataclass
class Key:
    """One place for a key, and what the graph says of it."""

    name: str
    canary: str
    option: str = ""
    user: str = ""
    environment: dict[str, str] = field(default_factory=dict)


KEYS = (
    Key("literal", LITERAL, f"api_key: {LITERAL}"),
    Key("environment", IN_ENVIRONMENT, "api_key: ${env:SHOP_ACCESS}", environment={"SHOP_ACCESS": IN_ENVIRONMENT}),
    Key("untold", UNTOLD, environment={"OPENAI_API_KEY": UNTOLD, "OLLAMA_API_KEY": UNTOLD}),
    Key("address", PASSWORD, user=f"shop:{PASSWORD}@"),
)


def graph(peer: Peer, provider: str, key: Key, end: str) -> str:
    name = end if end in ANSWERS else "silent" if end == "cancelled" else "good"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        netloc = f"127.0.0.1:{nobody.getsockname()[1]}" if end == "refused" else peer.netloc
    path, model = ("/v1", f"openai/{name}") if provider == "litellm" else ("", name)
    limits = "limits: {usd_per_request: 0.0000001}" if end == "budget" else ""
    return f"""
version: 1
models:
  large:
    provider: {provider}
    model: {model}
    api_base: "http://{key.user}{netloc}{path}"
    retries: 0
    price: {{input: 1, output: 1}}
    max_tokens: 50
    {key.option}
nodes:
  answer: {{type: chat, model: large, timeout: {"400ms" if end == "silent" else "20s"}}}
edges:
  - {{from: start, to: answer}}
  - {{from: answer, to: end}}
{limits}
"""


# Where they must not show


@dataclass
class Shown:
    """All that was shown, by where."""

    parts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, what: Any) -> None:
        self.parts.append((where, what.decode("latin-1") if isinstance(what, bytes) else str(what)))

    def add_error(self, error: BaseException) -> None:
        """The error and all that it came of, with the variables of its frames, as error collectors show them."""
        self.add("traceback", "".join(traceback.format_exception(error)))
        whole = traceback.TracebackException.from_exception(_ours(error), capture_locals=True)
        self.add("locals", "".join(whole.format()))
        beneath: BaseException | None = error
        while beneath is not None:
            for where, what in (("str", str(beneath)), ("repr", repr(beneath)), ("vars", vars(beneath))):
                self.add(f"{where} of {type(beneath).__name__}", what)
            self.add("pickle", pickle.dumps(beneath))
            beneath = beneath.__cause__ or beneath.__context__

    def add_flow(self, flow: Flow) -> None:
        for where, what in (
            ("repr", repr(flow)),
            ("graph", flow.graph),
            ("dump", flow.model_dump(exclude={"trace"})),
            ("dumps", dumps(flow)),
            ("dumpd", dumpd(flow)),
            ("pickle", pickle.dumps(flow)),
            ("spec", repr(flow.checked.spec)),
            ("warnings", [problem.render() for problem in flow.warnings]),
            ("hash", flow.graph_hash),
        ):
            self.add(f"flow: {where}", what)
        model = flow.resources.chat_model("large")
        for where, what in (
            ("repr", repr(model)),
            ("dump", model.model_dump()),
            ("JSON", model.model_dump_json()),
            ("dumpd", dumpd(model)),
            ("identity", model._identifying_params),
        ):
            self.add(f"model: {where}", what)

    def check(self) -> None:
        found = [(where, what[max(0, at - 120) : at + 60]) for where, what in self.parts if (at := _at(what)) >= 0]
        assert not found, found


def _at(text: str) -> int:
    return text.find(CANARY)


def _ours(error: BaseException) -> BaseException:
    """The error without the frames of this file, whose variables hold the canaries themselves."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return copy.copy(error).with_traceback(trace)


# The calls


async def _cancelled(flow: Flow) -> None:
    task = asyncio.create_task(flow.ainvoke(QUESTION))
    await asyncio.sleep(0.1)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        raise RuntimeError("cancelled") from error


async def _streamed(flow: Flow) -> None:
    async for _ in flow.astream(QUESTION):
        pass


def call(flow: Flow, end: str) -> list[BaseException]:
    """Every way to call it; what they raised."""
    ways: list[Callable[[], Any]] = [
        lambda: flow.invoke(QUESTION),
        lambda: list(flow.stream(QUESTION)),
        lambda: asyncio.run(_streamed(flow)),
    ]
    if end == "cancelled":
        ways = [lambda: asyncio.run(_cancelled(flow))]
    raised = []
    for way in ways:
        try:
            way()
        except Exception as error:
            raised.append(error)
    return raised


@pytest.fixture
def cache() -> Iterator[InMemoryCache]:
    cache = InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OLLAMA_API_KEY", "SHOP_ACCESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that anybody logs."""
    import litellm  # noqa: F401 - its loggers are there with it

    levels = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    caplog.set_level(logging.DEBUG)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger("LiteLLM").propagate = True
    yield caplog
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@pytest.mark.parametrize("provider", ["litellm", "ollama"])
@pytest.mark.parametrize("end", ENDS)
def test_no_key_is_shown(
    peer: Peer,
    provider: str,
    key: Key,
    end: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    all_logs: pytest.LogCaptureFixture,
    cache: InMemoryCache,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in key.environment.items():
        monkeypatch.setenv(name, value)
    records = tmp_path / "records.jsonl"
    flow = dynflow.loads(graph(peer, provider, key, end))
    traced = Flow(graph=graph(peer, provider, key, end), trace=str(records))
    peer.seen.clear()
    shown = Shown()
    with collect_runs() as runs:
        raised = [*call(flow, end), *call(traced, end)]
    assert bool(raised) is (end != "good")
    if end in ANSWERS and end != "good":
        assert any(key.canary in seen for seen in peer.seen), "the canary never went out"
    for error in raised:
        shown.add_error(error)
    shown.add_flow(flow)
    for run in runs.traced_runs:
        shown.add("runs", run.model_dump_json(fallback=str) if hasattr(run, "model_dump_json") else repr(run))
        shown.add("runs", repr(run))
    shown.add("logs", all_logs.text)
    shown.add("log records", [(record.getMessage(), record.exc_text) for record in all_logs.records])
    shown.add("cache", repr(cache._cache))
    shown.add("records", records.read_text() if records.exists() else "")
    shown.add("terminal", "".join(capfd.readouterr()))
    shown.check()
    flow.close()
    traced.close()


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@pytest.mark.parametrize("end", ["good", "status401", "malformed", "refused"])
def test_the_command_line_shows_no_key(
    peer: Peer, key: Key, end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in key.environment.items():
        monkeypatch.setenv(name, value)
    file, rows, out = tmp_path / "shop.yaml", tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(graph(peer, "litellm", key, end))
    rows.write_text(json.dumps({"id": "1", "input": QUESTION}) + "\n")
    shown = Shown()
    for arguments in (
        ["check", str(file)],
        ["explain", str(file), QUESTION],
        ["run", str(file), QUESTION, "--trace", str(tmp_path / "records.jsonl")],
        ["--debug", "run", str(file), QUESTION],
        ["batch", str(file), "--input", str(rows), "--output", str(out)],
    ):
        result = CliRunner().invoke(cli, arguments)
        shown.add(" ".join(arguments), result.output)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            shown.add_error(result.exception)
    assert out.exists()
    for path in tmp_path.iterdir():
        if path != file and path.is_file():
            shown.add(path.name, path.read_bytes())
    shown.check()


def test_a_key_given_for_a_model_of_the_host(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    text = """
version: 1
models:
  large: {provider: host, api_key: sk-canary-host-5}
nodes:
  answer: {type: chat, model: large}
edges:
  - {from: start, to: answer}
  - {from: answer, to: end}
"""
    flow = dynflow.loads(text, models={"large": FakeListChatModel(responses=["Bread."])})
    shown = Shown()
    with collect_runs() as runs:
        shown.add("answer", flow.invoke(QUESTION))
    shown.add_flow(flow)
    shown.add("runs", repr(runs.traced_runs))
    shown.add("logs", caplog.text)
    shown.check()


def test_a_copy_without_its_key_says_what_to_set() -> None:
    flow = dynflow.loads(graph_of_nobody())
    with pytest.raises(dynflow.MissingEnvironment, match="export LARGE_API_KEY"):
        pickle.loads(pickle.dumps(flow)).invoke(QUESTION)
    assert copy.deepcopy(flow).resources.chat_model("large").settings.api_key.get_secret_value() == LITERAL  # type: ignore[attr-defined]


def graph_of_nobody() -> str:
    return f"""
version: 1
x-key: &key "{LITERAL}"  # {LITERAL}
models:
  large: {{provider: litellm, model: openai/m, api_key: *key, api_base: "http://127.0.0.1:9/v1"}}
nodes:
  answer: {{type: chat, model: large}}
edges:
  - {{from: start, to: answer}}
  - {{from: answer, to: end}}
"""


def test_an_anchored_key_and_one_in_a_comment_stay_out_of_dumps() -> None:
    flow = dynflow.loads(graph_of_nobody())
    shown = Shown()
    shown.add_flow(flow)
    shown.check()


def test_settings_with_a_key_are_not_pickled() -> None:
    settings = ModelSettings(provider="litellm", model="m", api_key=LITERAL)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(settings)
    assert copy.deepcopy(settings) == settings


def test_the_environment_is_read_at_each_call(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was changed is used, also where the client library reads it by itself."""
    for option in ("api_key: ${env:SHOP_ACCESS}", ""):
        flow = dynflow.loads(graph(peer, "litellm", Key("changing", "", option), "good"))
        for value in ("sk-first-00001", "sk-second-0002"):
            monkeypatch.setenv("SHOP_ACCESS", value)
            monkeypatch.setenv("OPENAI_API_KEY", value)
            flow.invoke(QUESTION)
            assert value in peer.seen[-1]
        flow.close()
