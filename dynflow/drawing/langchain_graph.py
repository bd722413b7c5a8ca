"""A graph as LangChain's Graph, whose edges carry the conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.runnables.graph import Graph, Node

from dynflow.language.spec import END, START

if TYPE_CHECKING:
    from dynflow.flow import Flow


def draw_graph(flow: Flow) -> Graph:
    """The graph with one node for `start` and `end` each; a conditional edge is labelled with its `when`."""
    checked = flow.checked
    drawn = Graph()
    names: dict[str, Node] = {}
    for name in checked.digraph:
        if name in (START, END):
            names[name] = drawn.add_node(
                flow.get_input_schema() if name == START else flow.get_output_schema(), f"__{name}__"
            )
            continue
        plan = checked.nodes[name]
        metadata = {"type": plan.cls.type, "role": plan.role, "streams_live": name in checked.live}
        if plan.model is not None:
            metadata["model"] = plan.model
        if plan.members:
            metadata["members"] = list(plan.members)
        names[name] = drawn.add_node(None, name, metadata=metadata)
    for ways in checked.ways.values():
        for way in ways:
            conditional = len(ways) > 1 or way.when is not None
            # LangChain escapes no label, and a double quote ends Mermaid's; either kind means the same in a condition.
            label = None if way.when is None else way.when.replace('"', "'")
            drawn.add_edge(names[way.source], names[way.target], label, conditional)
    return drawn
