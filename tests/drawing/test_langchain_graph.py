from __future__ import annotations

import dynflow

GRAPH = """\
version: 1
nodes:
  one: {type: prompt, role: answer, template: "{input}"}
  two: {type: prompt, role: answer, template: "{input}"}
  both: {type: race, of: [one, two]}
edges:
  - {from: start, to: both, when: 'input.text == "yes"'}
  - {from: start, to: both}
  - {from: both, to: end}
"""


def test_labels_do_not_break_mermaid():
    graph = dynflow.loads(GRAPH).get_graph()
    assert [edge.data for edge in graph.edges] == ["input.text == 'yes'", None, None]
    assert '"' not in graph.draw_mermaid()


def test_members_stand_in_their_group():
    graph = dynflow.loads(GRAPH).get_graph()
    assert set(graph.nodes) == {"__start__", "both", "__end__"}
    assert graph.nodes["both"].metadata == {
        "type": "race",
        "role": "answer",
        "streams_live": False,
        "members": ["one", "two"],
    }
