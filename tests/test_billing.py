"""Charges: what an attempt at a model is settled at, however it ends."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from dynflow import BudgetExceeded, load
from dynflow.billing import Charge, settle, surely_unbilled, total
from dynflow.budgets import Budget, Reservation
from dynflow.errors import DeadlineExceeded, MissingModel, NodeTimeout, Overloaded
from dynflow.language.spec import Limits
from dynflow.ledger import Compute, Usage
from dynflow.models.settings import Price
from dynflow.prompt_size import PromptSize

PROMPT = PromptSize([HumanMessage("word " * 20)])
PRICE = Price(input=1.0, output=10.0)


def charge(price: Price | None = PRICE, limits: Limits | None = None, budget: Budget | None = None) -> Charge:
    budget = budget or Budget(limits or Limits(usd_per_request=1.0))
    max_tokens, reservation = budget.reserve("m", price, PROMPT, 100)
    return Charge("m", price, PROMPT, max_tokens, reservation)


RESERVED = (PROMPT.most + 1000) / 1e6


@pytest.mark.parametrize(
    "error",
    [
        ModelRateLimitError("429"),
        ModelAuthenticationError("401"),
        ModelInvalidRequestError("400"),
        ConnectionRefusedError("refused"),
        MissingModel("no such file"),
        Overloaded("queue is full"),
        BudgetExceeded("no money"),
    ],
)
def test_what_was_surely_not_billed_is_released(error: Exception) -> None:
    budget = Budget(Limits(usd_per_request=1.0))
    it = charge(budget=budget)
    it.receive("")
    it.failed(error)
    assert surely_unbilled(error)
    assert (it.usage, it.usd) == (None, 0.0)
    assert budget.request_left == 1.0


DOUBTFUL = [
    ModelTimeoutError("lost"),
    ModelConnectionError("reset"),
    NodeTimeout("late"),
    DeadlineExceeded("over"),
    None,
]


@pytest.mark.parametrize("error", [*DOUBTFUL, ValueError("a fault of our own")])
def test_what_may_have_been_billed_is_kept_in_full(error: Exception | None) -> None:
    budget = Budget(Limits(usd_per_request=1.0))
    it = charge(budget=budget)
    it.failed(error)
    assert it.usd == pytest.approx(RESERVED)
    assert budget.request_left == pytest.approx(1.0 - RESERVED)
    assert it.usage == Usage("m", PROMPT.tokens, 0, estimated=True)


@pytest.mark.parametrize("error", [*DOUBTFUL, ModelRateLimitError("429, midway"), ModelInvalidRequestError("no more")])
def test_what_came_before_it_broke_off_is_billed(error: Exception | None) -> None:
    budget = Budget(Limits(usd_per_request=1.0))
    it = charge(budget=budget)
    it.receive("")
    assert it.first_token_seconds is None
    it.receive("eight ch")
    it.failed(error)
    assert it.usage == Usage("m", PROMPT.tokens, 2, estimated=True)
    assert it.usd == pytest.approx((PROMPT.tokens + 20) / 1e6)
    assert budget.request_left == pytest.approx(1.0 - (PROMPT.tokens + 20) / 1e6)
    assert it.first_token_seconds is not None
    assert 0 <= it.first_token_seconds <= it.seconds


def test_the_first_settling_counts() -> None:
    budget = Budget(Limits(usd_per_request=1.0))
    it = charge(budget=budget)
    it.used(Usage("m", 10, 5))
    it.failed(None)
    it.failed(ModelRateLimitError("429"))
    it.used(Usage("m", 100, 50))
    assert it.usd == pytest.approx(60 / 1e6)
    assert budget.request_left == pytest.approx(1.0 - 60 / 1e6)


def test_an_answer_without_usage_is_billed_for_its_prompt_too() -> None:
    it = charge()
    it.used(Usage("m", output_tokens=3, estimated=True))
    assert it.usage == Usage("m", PROMPT.tokens, 3, estimated=True)
    assert it.usd == pytest.approx((PROMPT.tokens + 30) / 1e6)


def test_usage_below_nothing_gives_no_money_back() -> None:
    budget = Budget(Limits(usd_per_request=1.0))
    charge(budget=budget).used(Usage("m", -1_000_000, -1_000_000))
    assert budget.request_left == 1.0


def test_an_unknown_price_without_a_limit_costs_nobody_knows_what() -> None:
    it = charge(None, Limits())
    it.used(Usage("m", 10, 5))
    assert it.usd is None
    assert total([it]) == (Usage("m", 10, 5), None)


def test_attempts_are_billed_one_by_one() -> None:
    budget = Budget(Limits(usd_per_request=1.0))
    lost, refused, last = charge(budget=budget), charge(budget=budget), charge(budget=budget)
    lost.receive("four")
    lost.failed(ModelConnectionError("reset"))
    refused.failed(ModelRateLimitError("429"))
    usage, usd = settle([lost, refused, last], Usage("m", 20, 5), None, 1.0)
    assert usage == Usage("m", PROMPT.tokens + 20, 6, estimated=True)
    assert usd == pytest.approx((PROMPT.tokens + 10 + 20 + 50) / 1e6)
    assert budget.request_left == pytest.approx(1.0 - usd)


def test_a_visit_that_was_cut_off_leaves_no_charge_open() -> None:
    budget = Budget(Limits(usd_per_request=1.0))
    charges = [charge(budget=budget), charge(budget=budget)]
    settle(charges, None, None, 1.0)
    assert not any(it.open for it in charges)
    assert budget.request_left == pytest.approx(1.0 - 2 * RESERVED)


# Compute


def test_waiting_between_attempts_is_no_compute() -> None:
    price = Price(second=1.0)
    first = Charge("m", price, PROMPT, None, Reservation())
    first.failed(ModelConnectionError("reset"))
    time.sleep(0.05)
    second = Charge("m", price, PROMPT, None, Reservation())
    _, usd = settle([first, second], Usage("m", 1, 1), None, 60.0)
    assert usd is not None
    assert usd < 0.05


def test_a_share_of_a_batch_is_what_a_request_pays() -> None:
    it = Charge("m", Price(second=1.0), PROMPT, None, Reservation())
    time.sleep(0.02)
    settle([it], Usage("m", 1, 1), None, 0.001)
    assert it.usd == pytest.approx(0.001)


def test_a_model_that_tells_how_long_it_was_at_work_is_paid_for_that() -> None:
    it = Charge("m", Price(second=1.0, watts=10.0), PROMPT, None, Reservation())
    it.used(Usage("m", 1, 1, compute=Compute(3.0, cpu_seconds=5.0)))
    assert it.usd == pytest.approx(3.0)
    assert it.usage is not None
    assert it.usage.compute == Compute(3.0, 5.0, 50.0, "estimate")


# Prompts: reservations are for the most that they can be


def test_a_prompt_counts_what_goes_along_with_it() -> None:
    plain = PromptSize([HumanMessage("hello")])
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    assert PromptSize([HumanMessage("hello")], {"tools": tools}).most > plain.most + 600
    assert PromptSize([HumanMessage("hello")], {"tools": tools}).tokens > plain.tokens
    assert PromptSize([HumanMessage("hello")], {"response_format": {"a": "b" * 100}}).most > plain.most + 100
    assert PromptSize([HumanMessage("hello")], {"temperature": 1.0}).most == plain.most
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    pictured = PromptSize([HumanMessage([{"type": "text", "text": "hello"}, image])])
    assert pictured.most == plain.most + 6_000
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}}
    assert PromptSize([HumanMessage([sound])]).most > 100_000
    call = AIMessage("", tool_calls=[{"name": "f", "args": {"x": "y" * 100}, "id": "1"}])
    assert PromptSize([call]).most > 100
    assert PromptSize([SystemMessage("a"), HumanMessage("b")]).most > PromptSize([HumanMessage("ab")]).most


def _texts() -> Iterator[str]:
    import base64
    import random
    import string

    chance = random.Random(0)
    yield Path(__file__).read_text("utf-8")
    yield "It was the best of times, it was the worst of times, it was the age of wisdom. " * 20
    yield "我们今天去北京的大学看书。" * 40
    yield "هذا نص باللغة العربية للاختبار " * 20
    yield "Donaudampfschifffahrtsgesellschaftskapitänsmütze " * 20
    for letters in ("0123456789", "0123456789abcdef", string.ascii_lowercase, string.ascii_letters, "qxzjvkwfp "):
        yield "".join(chance.choice(letters) for _ in range(2000))
    yield "".join(chance.choice(string.punctuation) for _ in range(2000))
    yield base64.b64encode(chance.randbytes(1500)).decode()
    for first, last in ((0x4E00, 0x9FA5), (0x1F300, 0x1F6FF), (0x1000, 0x2000)):
        yield "".join(chr(chance.randrange(first, last)) for _ in range(700))
    yield "\n" * 500 + " " * 500 + "\t" * 500


def test_real_tokenizers_make_no_more_tokens_than_are_reserved() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    litellm = find_spec("litellm")
    if litellm is None or litellm.origin is None:
        pytest.skip("litellm brings the tokenizer")
    file = Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers" / "anthropic_tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    for text in _texts():
        found = len(tokenizer.encode(text).ids)
        assert found <= PromptSize([HumanMessage(text)]).most, text[:60]
        assert found > PromptSize([HumanMessage(text)]).most / 60, text[:60]


# A hundred calls, money for one

ONE = """
version: 1
models:
  m:
    provider: ollama
    model: tiny
    api_base: "http://127.0.0.1:{port}"
    max_tokens: 100
    price: {{input: 0, output: 10}}
nodes:
  a: {{type: chat, model: m}}
edges:
  - {{from: start, to: a}}
  - {{from: a, to: end}}
limits: {{usd_per_day: 0.0015}}
"""
"""The answer's 100 tokens cost 0.001: one call fits, two do not, and what the first costs leaves no room."""
AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from dynflow import BudgetExceeded, load
flow = load(sys.argv[1])
flow.warm_up()
def call(_):
    try:
        flow.invoke("q")
    except BudgetExceeded:
        return 0
    return 1
print("ready", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(25) as pool:
    print(sum(pool.map(call, range(25))), flush=True)
"""


class Upstream:
    """An Ollama server that writes as many tokens as it may, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        lock = threading.Lock()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with lock:
                    upstream.calls += 1
                self.rfile.read(int(self.headers["content-length"]))
                time.sleep(0.05)
                message = {"role": "assistant", "content": "word"}
                counts = {"prompt_eval_count": 1, "eval_count": 100}
                body = {"model": "tiny", "message": message, "done": True, "done_reason": "length", **counts}
                self.send_response(200)
                self.send_header("content-type", "application/x-ndjson")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode() + b"\n")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    pytest.importorskip("ollama")
    it = Upstream()
    yield it
    it.close()


@pytest.fixture
def graph(upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNFLOW_STATE", str(tmp_path / "state"))
    file = tmp_path / "one.yaml"
    file.write_text(ONE.format(port=upstream.server.server_port))
    return file


def test_a_hundred_threads_and_money_for_one(graph: Path, upstream: Upstream) -> None:
    flow = load(graph)

    def call(_: int) -> bool:
        try:
            flow.invoke("q")
        except BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(100) as pool:
        assert sum(pool.map(call, range(100))) == upstream.calls == 1
    flow.close()


async def test_a_hundred_tasks_and_money_for_one(graph: Path, upstream: Upstream) -> None:
    flow = load(graph)
    results = await asyncio.gather(*(flow.ainvoke("q") for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 99
    assert upstream.calls == 1
    flow.close()


def test_a_batch_of_a_hundred_and_money_for_one(graph: Path, upstream: Upstream) -> None:
    results = load(graph).batch(["q"] * 100, return_exceptions=True)
    assert sum(isinstance(result, BudgetExceeded) for result in results) == 99
    assert upstream.calls == 1


def test_four_processes_of_25_and_money_for_one(graph: Path, upstream: Upstream) -> None:
    command = [sys.executable, "-c", AT_ONCE, str(graph)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sum(map(int, outputs)) == upstream.calls == 1


def test_nothing_is_left_of_it_infinite() -> None:
    assert math.isinf(Budget(Limits()).request_left)
    assert math.isinf(Budget(Limits()).day_left)
