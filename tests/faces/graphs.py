"""Graphs that the tests of the faces use, on the real local server."""

from __future__ import annotations

from tests.servers import SERVER_KEY

ONE_MODEL = f"""
version: 1
name: local
description: Answers questions of general knowledge.
models:
  small:
    provider: litellm
    model: openai/smollm2
    api_base: {{url}}
    api_key: {SERVER_KEY}
    temperature: 0
    max_tokens: 64
nodes:
  answer: {{{{type: chat, model: small}}}}
edges:
  - {{{{from: start, to: answer}}}}
  - {{{{from: answer, to: end}}}}
"""
