"""Built-in node types, one a file; each is registered in the entry-point group `dynflow.nodes` like anyone's."""
