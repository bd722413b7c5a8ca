"""prompt and router: templates, bands, labels, and their faults."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from dynflow import GraphError, NodeFailed, loads


def prompt(options: str) -> Any:
    return loads(
        f"version: 1\nparams: {{name: Ann}}\nnodes:\n  p:\n    type: prompt\n    role: answer\n{options}\n"
        "edges: [{from: start, to: p}, {from: p, to: end}]\n"
    )


def codes(make: Any, *args: Any) -> list[str]:
    with pytest.raises(GraphError) as caught:
        make(*args)
    return [problem.code for problem in caught.value.problems]


def test_a_template_is_filled() -> None:
    flow = prompt("    template: 'Dear {name}, {{{input}}}'\n    with:\n      name: ${params.name}")
    assert flow.invoke("hi").text == "Dear Ann, {hi}"


def test_values_are_not_templates() -> None:
    assert prompt("    template: 'say {input}'").invoke("{name} {0} {input.__class__}").text == (
        "say {name} {0} {input.__class__}"
    )


def test_system_and_user_are_messages() -> None:
    ports = prompt("    system: be {input}\n    user: go").run("kind").ports
    assert ports["messages"] == [SystemMessage("be kind"), HumanMessage("go")]
    assert ports["text"] == "go"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("    template: '{nmae}'\n    with: {name: x}", "unknown_placeholder"),
        ("    template: '{0}'", "bad_template"),
        ("    template: '{input.text}'", "bad_template"),
        ("    template: '{input!r}'", "bad_template"),
        ("    template: '{'", "bad_template"),
        ("    template: a\n    user: b", "exclusive_options"),
        ("    system: a", "missing_key"),
    ],
)
def test_faulty_templates(options: str, code: str) -> None:
    assert code in codes(prompt, options)


def router(options: str, score: Any = 0.5) -> Any:
    text = f"""
version: 1
nodes:
  s: {{type: runnable, name: s, role: signal, ports: {{score: number, label: string}}}}
  r:
    type: router
    routes: [a, b]
{options}
  a: {{type: prompt, role: answer, template: a}}
  b: {{type: prompt, role: answer, template: b}}
edges:
  - {{from: start, to: s}}
  - {{from: s, to: a, when: s.failed}}
  - {{from: s, to: r}}
  - {{from: r, to: b, when: r.choice == 'b'}}
  - {{from: r, to: a}}
  - {{from: a, to: end}}
  - {{from: b, to: end}}
"""
    return loads(text, runnables={"s": lambda label: {"score": score, "label": label}})


BANDS = "    score: ${s.score}\n    bands: [0.5]"


@pytest.mark.parametrize(("score", "choice"), [(0.49, "a"), (0.5, "b"), (-1, "a"), (2, "b")])
def test_bands(score: float, choice: str) -> None:
    assert router(BANDS, score).invoke("x").text == choice


def test_no_score_is_a_failure() -> None:
    with pytest.raises(NodeFailed, match="null"):
        router(BANDS, None).invoke("x")


def test_labels() -> None:
    flow = router("    label: ${s.label}\n    labels: {one: a, two: b}")
    assert flow.invoke("two").text == "b"
    with pytest.raises(NodeFailed, match="no route is given for the label 'three'"):
        flow.invoke("three")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("    score: ${s.score}", "bad_bands"),
        ("    score: ${s.score}\n    bands: [0.5, 0.7]", "bad_bands"),
        ("    bands: [0.5]", "exclusive_options"),
        ("    label: ${s.label}", "missing_key"),
        ("    label: ${s.label}\n    labels: {x: c}", "unknown_node"),
        ("    label: ${s.score}\n    labels: {x: a}", "type_mismatch"),
    ],
)
def test_faulty_routers(options: str, code: str) -> None:
    assert code in codes(router, options)
