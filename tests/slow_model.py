"""A model on loopback that takes its time and counts what it is asked, for processes that are stopped or killed."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Model(ThreadingHTTPServer):
    """A model of Ollama's protocol that takes its time, and counts what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: Counter[str] = Counter()
        self.random = random.Random(7)
        self.lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed is nothing to tell of."""


class _Answers(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question = asked["messages"][-1]["content"]
        with self.server.lock:
            self.server.asked[question] += 1
            delay = self.server.random.uniform(0.0, 0.03)
        time.sleep(delay)
        self.send_response(200)
        self.send_header("content-type", "application/x-ndjson")
        self.end_headers()
        self._say({"content": answer(question)}, done=False)
        self._say({"content": ""}, done=True, done_reason="stop", prompt_eval_count=3, eval_count=5)

    def _say(self, message: dict[str, str], **more: object) -> None:
        part = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", **message}, **more}
        self.wfile.write(json.dumps(part).encode() + b"\n")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def answer(question: str) -> str:
    """Now and then one so long that its line cannot be written at once."""
    number = int(question.split()[1])
    return f"answer {number} " * (20_000 if number % 20 == 0 else 1)


@contextmanager
def serving() -> Iterator[Model]:
    """The model, answering until the end of the `with`."""
    with Model() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
