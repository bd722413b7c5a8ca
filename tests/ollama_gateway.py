"""Ollama's protocol before a server that speaks OpenAI's: a gateway that passes faults on as they come.

`ollama-proxy-plus` is no such gateway: it answers 200 whatever happened behind it, and retries on its own.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@contextmanager
def gateway(openai_url: str) -> Iterator[str]:
    """The address of a gateway to the server at `openai_url`."""
    behind = urlsplit(openai_url)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(behind.netloc, behind.path))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(netloc: str, path: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = {"model": asked["model"], "messages": asked["messages"], "stream": True}
            connection = http.client.HTTPConnection(netloc)
            try:
                headers = {"authorization": "Bearer x", "content-type": "application/json"}
                connection.request("POST", f"{path}/chat/completions", json.dumps(body), headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    self._refuse(answer)
                else:
                    self._pass_on(answer)
            except (http.client.HTTPException, ConnectionError):
                pass  # the answer ends where it broke off
            finally:
                connection.close()

        def _refuse(self, answer: http.client.HTTPResponse) -> None:
            error = json.loads(answer.read())["error"]
            self.send_response(answer.status)
            if wait := answer.getheader("retry-after"):
                self.send_header("retry-after", wait)
            self.end_headers()
            self.wfile.write(json.dumps({"error": error["message"]}).encode())

        def _pass_on(self, answer: http.client.HTTPResponse) -> None:
            self.send_response(200)
            self.end_headers()
            for line in answer:
                text = line.decode().strip().removeprefix("data: ")
                if text == "[DONE]":
                    break
                try:
                    event = json.loads(text or "{}")
                except ValueError:
                    self.wfile.write(line)  # what is no JSON there is none here
                    continue
                for choice in event.get("choices") or ():
                    self.wfile.write(json.dumps(_part(choice)).encode() + b"\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _part(choice: dict[str, Any]) -> dict[str, Any]:
    said = {"role": "assistant", "content": choice["delta"].get("content") or ""}
    ended = choice.get("finish_reason")
    counts = {"done_reason": ended, "prompt_eval_count": 1, "eval_count": 1} if ended else {}
    return {"model": "m", "message": said, "done": bool(ended), **counts}
