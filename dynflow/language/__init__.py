"""The graph language: text → spec, with the place of every fault. Knows no node type and no model."""
