"""LiteLLM's auto router: the route whose example requests a request resembles, by embeddings made on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from dynflow.errors import MissingDependency
from dynflow.models.background import wait_for
from dynflow.models.encoder import Encoder

_NAME = "dynflow"
_NO_MATCH = "\0"
"""The model that LiteLLM names where nothing is alike; no node is called so."""


class AutoRouter:
    """LiteLLM's own class, asked for a route alone; the shipped MiniLM stands in for its embedding model.

    LiteLLM decides what is alike: by default a cosine of 0.3 to the mean of the nearest utterances.
    """

    def __init__(self, utterances: Mapping[str, Sequence[str]]) -> None:
        """Imports litellm and semantic-router, which takes seconds. Raises `MissingDependency`."""
        from dynflow.models.litellm import library

        library()
        routes = [{"name": route, "utterances": list(texts)} for route, texts in utterances.items()]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # both build pydantic models late, with warnings
                from litellm.router_strategy.auto_router.auto_router import AutoRouter as Theirs

                embeddings: Any = _LocalEmbeddings()  # in the place of a router of models; asked for nothing else
                config = json.dumps({"routes": routes})
                self._theirs = Theirs(_NAME, _NO_MATCH, "minilm", embeddings, auto_router_config=config)
                logging.getLogger("semantic_router").setLevel(logging.ERROR)
                self.route("the first request need not wait for the utterances")
        except (ImportError, AttributeError, TypeError) as error:
            raise MissingDependency("LiteLLM's auto router", 'pip install "litellm[semantic-router]"') from error

    def route(self, text: str) -> tuple[str | None, str]:
        """The route whose utterances the text resembles, or None; and how LiteLLM calls what happened."""
        messages = [{"role": "user", "content": text}]
        answer: Any = wait_for(self._theirs.async_pre_routing_hook(_NAME, {}, messages))
        return None if answer.model == _NO_MATCH else answer.model, str(answer.routing_decision["cause"])


class _LocalEmbeddings:
    """What LiteLLM's auto router asks of a router of models."""

    def embedding(self, input: Sequence[str], model: str, **_: Any) -> Any:
        """Embeddings of texts, as LiteLLM has them."""
        from dynflow.models.litellm import library

        vectors = Encoder.shared().embed(list(input)).tolist()
        data = [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(vectors)]
        return library().EmbeddingResponse(model=model, data=data)

    async def aembedding(self, input: Sequence[str], model: str, **_: Any) -> Any:
        """The same, beside the event loop."""
        return await asyncio.to_thread(self.embedding, input, model)
