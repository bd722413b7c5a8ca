"""Which nodes have certainly succeeded wherever a walk can stand: by dominance over all paths, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import and_

import networkx as nx

from dynflow.graph import NodePlan, Way
from dynflow.language.spec import START


class Certainty:
    """What holds on every path from `start`. Sets of nodes are bits of an integer: graphs may have thousands.

    A forward analysis in topological order: before a node holds what holds on all ways into it.
    """

    def __init__(
        self, nodes: Mapping[str, NodePlan], ways: Mapping[str, tuple[Way, ...]], digraph: nx.MultiDiGraph[str]
    ) -> None:
        self._bits = {name: 1 << place for place, name in enumerate(nodes)}
        members = {member for plan in nodes.values() for member in plan.members}
        # A member is never on the path itself, so its success is no answer of the walk.
        self._answers = self._set(name for name, plan in nodes.items() if plan.role == "answer" and name not in members)
        self._rescued = self._set(name for name, plan in nodes.items() if plan.common.on_failure is not None)
        self._inside = [
            (self._bits[name], self._set(plan.members))
            for name, plan in nodes.items()
            # A group that `on_failure` stands in for succeeds without its members.
            if plan.cls.all_members_succeed and plan.common.on_failure is None
        ]
        self._before: dict[str, int] = {START: 0}
        self._answered: dict[str, bool] = {START: False}
        for name in nx.topological_sort(digraph):
            incoming = [data["way"] for _, _, data in digraph.in_edges(name, data=True)]
            incoming = [way for way in incoming if way.source in self._before]
            if name == START or not incoming:
                continue
            self._before[name] = reduce(and_, map(self._on, incoming))
            self._answered[name] = all(map(self.answered, incoming))

    def succeeded(self, name: str, at: str) -> bool:
        """Whether node `name` has certainly succeeded when the walk comes to node `at`."""
        return bool(self._before.get(at, 0) & self._bits[name])

    def answered(self, way: Way) -> bool:
        """Whether some answer has certainly succeeded where this way is taken."""
        return self._answered[way.source] or bool(self._on(way) & self._answers)

    def _on(self, way: Way) -> int:
        """Nodes that have certainly succeeded where this way is taken; a signal with `on_failure` always does."""
        done = self._before[way.source] | self._set(way.proves.succeeded)
        done |= self._bits.get(way.source, 0) & self._rescued
        for group, members in self._inside:
            if done & group:
                done |= members
        return done

    def _set(self, names: Iterable[str]) -> int:
        total = 0
        for name in names:
            total |= self._bits.get(name, 0)
        return total
