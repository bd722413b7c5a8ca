"""What the nodes of one flow use: models, the host's runnables, inner flows. Made on first use, then shared."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import coerce_to_runnable

from dynflow.errors import InputError, MissingDependency, MissingEnvironment, MissingModel
from dynflow.graph import CheckedGraph
from dynflow.language.references import AnyReference, EnvironmentReference
from dynflow.language.source import did_you_mean
from dynflow.models.apart import apart
from dynflow.models.known import Known, known
from dynflow.models.settings import ModelSettings
from dynflow.node import Node
from dynflow.prospects import expected_usd, why_closed
from dynflow.request import Request

if TYPE_CHECKING:
    from dynflow.flow import Flow


class FlowResources:
    """The `Resources` of a flow's nodes, and the nodes themselves."""

    def __init__(
        self,
        graph: CheckedGraph,
        folder: Path | None,
        runnables: Mapping[str, Any],
        models: Mapping[str, Any],
        subflow: Callable[[str, str], Flow],
    ) -> None:
        self.graph = graph
        self.folder = folder
        self._runnables = runnables
        self._host_models = models
        self._subflow = subflow
        self._lock = threading.RLock()
        self._models: dict[str, tuple[tuple[str, ...], BaseChatModel]] = {}
        """Made models, with the environment values that they were made from."""
        self._known: dict[str, Known] = {}
        self._nodes: dict[str, Node] = {}
        self._warm: set[str] = set()
        self._subflows: dict[str, Flow] = {}
        self._warming: dict[str, threading.Lock] = {name: threading.Lock() for name in graph.nodes}

    def node(self, name: str) -> Node:
        """The node; its first use warms it up."""
        node = self._nodes.get(name)
        if node is not None and name in self._warm:
            return node
        node = self.cold_node(name)
        with self._warming[name]:  # its own: a node that loads for long holds up no other
            if name not in self._warm:
                apart(node.warm_up)  # imports and loads native code, which must not be cut off
                with self._lock:
                    self._warm.add(name)
        return node

    def is_warm(self, name: str) -> bool:
        """Whether the node is warmed up, so that `node` returns at once."""
        return name in self._warm

    def cold_node(self, name: str) -> Node:
        """The node, not warmed up."""
        with self._lock:
            if name not in self._nodes:
                plan = self.graph.nodes[name]
                self._nodes[name] = plan.cls(name, plan.options, self)
            return self._nodes[name]

    def close(self) -> None:
        """Free what nodes and models have loaded; the next request loads it anew."""
        with self._lock:
            for name in self._warm:
                self._nodes[name].close()
            for _, model in self._models.values():
                release = getattr(model, "close", None)
                if callable(release):
                    release()
            for flow in self._subflows.values():
                flow.close()
            self._warm.clear()
            self._models.clear()

    def model_settings(self, name: str) -> ModelSettings:
        """The entry of `models:`, references unresolved."""
        return self.graph.spec.models[name]

    def known(self, name: str) -> Known:
        """Price and capabilities; environment values that are not set count as unknown."""
        found = self._known.get(name)
        if found is None:
            settings = self.model_settings(name)
            found = self._known[name] = known(settings.resolve(_environment_or_nothing))
        return found

    def expected_usd(self, node_id: str, request: Request, answer_tokens: int) -> float | None:
        """About what a node would cost to answer in so many tokens; None where a price is unknown."""
        return expected_usd(self.graph, self.known, self._subflows, node_id, request, answer_tokens)

    def why_closed(self, node_id: str, request: Request) -> str:
        """Why a request cannot go to a node that is closed for it, in words."""
        return why_closed(self.graph, self.known, node_id, request)

    def chat_model(self, name: str) -> BaseChatModel:
        """The chat model of an entry, made on first use and again when its environment values change.

        Raises `MissingEnvironment`, `MissingDependency`, `MissingModel`, `InputError`.
        """
        if name in self._host_models:
            model = self._host_models[name]
            if not isinstance(model, BaseChatModel):
                raise InputError(f"the host's model {name!r} is {type(model).__name__}, not a LangChain chat model")
            return model
        settings = self.model_settings(name)
        if settings.provider == "host":
            raise MissingModel(f"the host handed over no model {name!r}: load(…, models={{{name!r}: <chat model>}})")
        environment = tuple(_environment(reference, name) for reference in settings.references().values())
        with self._lock:
            made = self._models.get(name)
            if made is None or made[0] != environment:
                from dynflow.models.store import create

                settings = settings.resolve(lambda reference: _environment(reference, name))
                made = self._models[name] = (environment, create(settings, name, self.folder))
        return made[1]

    def runnable(self, name: str) -> Runnable[Any, Any]:
        """A runnable of the host. Raises `MissingDependency` where it was not handed over."""
        runnable: Runnable[Any, Any] = coerce_to_runnable(self.handed_over(name))
        return runnable

    def handed_over(self, name: str) -> Any:
        """The same as the host gave it: a runnable or a function."""
        if name not in self._runnables:
            hint = did_you_mean(name, self._runnables)
            raise MissingDependency(
                f"the host's runnable {name!r}{hint}", f"load(…, runnables={{{name!r}: <runnable>}})"
            )
        return self._runnables[name]

    @property
    def subflows(self) -> Mapping[str, Flow]:
        """The inner flows, by node."""
        return self._subflows

    def subflow(self, node_id: str, uses: str) -> Flow:
        """The inner flow of a node, made once."""
        with self._lock:
            if node_id not in self._subflows:
                self._subflows[node_id] = self._subflow(node_id, uses)
            return self._subflows[node_id]


def _environment(reference: AnyReference, model: str) -> str:
    assert isinstance(reference, EnvironmentReference)
    value = os.environ.get(reference.name) or reference.default
    if value is None:
        raise MissingEnvironment(reference.name, f"model {model!r}")
    return value


def _environment_or_nothing(reference: AnyReference) -> str | None:
    assert isinstance(reference, EnvironmentReference)
    return os.environ.get(reference.name) or reference.default
