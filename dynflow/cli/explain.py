"""`dynflow explain`: the decisions for one request, up to the first model that would have to answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dynflow.cli.arguments import graph_argument, input_argument, read_params, read_request, set_option
from dynflow.money import dollars

if TYPE_CHECKING:
    from dynflow.flow import Flow
    from dynflow.graph import CheckedGraph, NodePlan
    from dynflow.session import Session
    from dynflow.visit import Visit


@click.command("explain")
@graph_argument
@input_argument
@set_option
def command(graph: str, input: str | None, settings: tuple[str, ...]) -> None:
    """Show which way a request would take; generate nothing.

    Signals run for real; no chat model is called. So the walk ends at the first node that would call one: `explain`
    says which model that is, whether its answer would stream live, and under which conditions the walk goes on.

    \b
    Examples:
      dynflow explain graph.yaml "What is the capital of France?"
      dynflow explain graph.yaml --set easy_below=0.3 "Prove that 7 is prime."
    """
    from dynflow.loading import load

    flow = load(graph)
    params = read_params(settings, flow.params)
    for line in explain(flow, read_request(input, flow), params):
        click.echo(line)


def explain(flow: Flow, request: Any, overrides: dict[str, Any]) -> Iterator[str]:
    """Lines that tell the walk so far and what would come next. Raises what the walk raises."""
    from dynflow.cli.record import decision_lines
    from dynflow.trace import decision_as_dict

    session, visit = _walk(flow, request, overrides)
    decisions = [decision_as_dict(decision) for decision in session.walk.decisions]
    yield click.style(" → ".join(["start", *(decision["to"] for decision in decisions)]), bold=True)
    yield from decision_lines(decisions)
    for visited in session.trace.visits:
        yield from (f"  {visited.node}: {note}" for note in visited.notes)
        if visited.error is not None:
            yield f"  {visited.node} ({visited.error}): {visited.message}"
    if visit is None:
        yield "The walk reaches the end here."
        return
    yield ""
    yield _would_do(flow, visit.plan)
    yield from _afterwards(flow.checked, visit.plan)


def _walk(flow: Flow, request: Any, overrides: dict[str, Any]) -> tuple[Session, Visit | None]:
    """Walk until a node would generate: the session, and the visit that was not made."""
    from langchain_core.callbacks import CallbackManagerForChainRun

    from dynflow.budgets import Budget, standing_limits
    from dynflow.request import Request
    from dynflow.running import Runner
    from dynflow.session import Session

    spec = flow.checked.spec
    params = {name: overrides.get(name, body.default) for name, body in flow.params.items() if "/" not in name}
    day, _ = standing_limits(spec.limits, None)  # what it runs is not counted against the day
    budget = Budget(spec.limits, day)
    session = Session(flow.resources, Request(request, declared=spec.inputs), params, budget, overrides)
    runner = Runner(flow.resources, session, {}, CallbackManagerForChainRun.get_noop_manager())
    while (visit := session.next()) is not None:
        if _generates(flow.checked, visit.plan):
            return session, visit
        session.complete(visit, runner.run(visit))
    return session, None


def _generates(graph: CheckedGraph, plan: NodePlan) -> bool:
    """Whether a node calls a model: it names one, is of a type made to answer, or has a member like that."""
    own = plan.model is not None or plan.cls.role == "answer" or plan.role == "answer"
    return own or any(_generates(graph, graph.nodes[member]) for member in plan.members)


def _would_do(flow: Flow, plan: NodePlan) -> str:
    """What the node would do, in words."""
    node = click.style(plan.id, bold=True)
    if plan.role == "signal":
        return f"{node}, a signal, would call {_model(flow, plan)}; what it would find is not known without that."
    live = "streaming live" if plan.id in flow.checked.live else "held until it is certain that nothing replaces it"
    return f"{node} would answer by {_model(flow, plan)}, {live}."


def _model(flow: Flow, plan: NodePlan) -> str:
    if plan.members:
        return f"its members {', '.join(plan.members)} ({plan.cls.type})"
    if plan.cls.type == "graph":
        return _inner_answers(flow.resources.subflow(plan.id, plan.options.uses), plan.options.uses)
    if plan.model is None:
        return f"its type {plan.cls.type}, without a model of its own"
    settings = flow.resources.model_settings(plan.model)
    price = flow.resources.known(plan.model).price
    if price is None:
        cost = "price unknown"
    elif price.input or price.output or price.second:
        cost = f"{dollars(price.input)} per million tokens in, {dollars(price.output)} out"
    else:
        cost = "free of charge"
    return f"the model {plan.model} ({settings.provider} {settings.model}, {cost})"


def _inner_answers(inner: Flow, file: str) -> str:
    """What may answer in a sub-graph; its signals are not run here, so which it would be is not known."""
    answers = [f"{name}, {_model(inner, inner.checked.nodes[name])}" for name in inner.checked.answers]
    return f"the graph {file} (there by {'; or by '.join(answers)})"


def _afterwards(graph: CheckedGraph, plan: NodePlan) -> Iterator[str]:
    """The edges that would be looked at next."""
    ways = graph.ways[plan.id]
    if len(ways) == 1 and ways[0].when is None:
        yield f"Then: {ways[0].target}"
        return
    yield "Then, the first that holds:"
    yield from (f"  {way.when or 'otherwise'} → {way.target}" for way in ways)
