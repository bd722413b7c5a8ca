"""Drawings of a graph: as LangChain's Graph, Mermaid or plain text, SVG, PNG. All are made on this machine."""

from dynflow.drawing.langchain_graph import draw_graph
from dynflow.drawing.listing import listing
from dynflow.drawing.mermaid_text import mermaid
from dynflow.drawing.png import png
from dynflow.drawing.svg import svg

__all__ = ["draw_graph", "listing", "mermaid", "png", "svg"]
