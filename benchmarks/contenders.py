"""One small flow in dynflow and in its peers: measure a score, then take one of two answers.

The node functions do next to nothing, so that what remains is the frameworks' own work. Each contender gets the flow
in the form its documentation shows; under `ainvoke` all get coroutine functions, so that nobody pays for threads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, TypedDict

THRESHOLD = 0.5
QUESTIONS = ("easy", "a question that is long enough to be hard, by this benchmark's measure of it")
"""One for each way."""


def score(question: str) -> float:
    """How hard a question is, 0…1."""
    return min(1.0, len(question) / 100)


def small(question: str) -> str:
    """The cheap answer."""
    return f"small: {question}"


def large(question: str) -> str:
    """The expensive answer."""
    return f"large: {question}"


def step(text: str) -> str:
    """One node of a chain."""
    return text


async def score_async(question: str) -> float:
    """`score` as a coroutine function; the next three likewise."""
    return score(question)


async def small_async(question: str) -> str:
    return small(question)


async def large_async(question: str) -> str:
    return large(question)


@dataclass(frozen=True)
class Flow:
    """The flow, ready to be called; a way of calling that the framework lacks is None."""

    invoke: Callable[[str], str]
    ainvoke: Callable[[str], Awaitable[str]] | None = None
    stream: Callable[[str], Iterator[Any]] | None = None


@dataclass(frozen=True)
class Contender:
    """A way of writing the flow. `build` makes it, of coroutine functions if so asked."""

    name: str
    module: str
    distribution: str
    build: Callable[[bool], Flow]

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return find_spec(self.module) is not None


# Plain Python


def _plain(_: bool) -> Flow:
    def invoke(question: str) -> str:
        return large(question) if score(question) >= THRESHOLD else small(question)

    async def ainvoke(question: str) -> str:
        hard = await score_async(question) >= THRESHOLD
        return await large_async(question) if hard else await small_async(question)

    def stream(question: str) -> Iterator[str]:
        yield invoke(question)

    return Flow(invoke, ainvoke, stream)


def _plain_chain(length: int) -> Callable[[str], str]:
    def invoke(text: str) -> str:
        for _ in range(length):
            text = step(text)
        return text

    return invoke


# dynflow

GRAPH = f"""
version: 1
nodes:
  score:
    type: runnable
    name: score
    role: signal
    ports: {{score: number}}
  small:
    type: runnable
    name: small
    role: answer
  large:
    type: runnable
    name: large
    role: answer
edges:
  - {{from: start, to: score}}
  - {{from: score, to: large, when: score.score >= {THRESHOLD}}}
  - {{from: score, to: small}}
  - {{from: small, to: end}}
  - {{from: large, to: end}}
"""


def _dynflow(coroutines: bool) -> Flow:
    import dynflow

    def measure(question: str) -> dict[str, float]:
        return {"score": score(question)}

    async def measure_async(question: str) -> dict[str, float]:
        return {"score": await score_async(question)}

    functions: dict[str, Any] = {"score": measure, "small": small, "large": large}
    if coroutines:
        functions = {"score": measure_async, "small": small_async, "large": large_async}
    flow = dynflow.loads(GRAPH, runnables=functions)
    return Flow(flow.invoke, flow.ainvoke, flow.stream)


def _dynflow_chain(length: int) -> Callable[[str], Any]:
    import dynflow

    lines = ["version: 1", "nodes:"]
    for place in range(length):
        role = "answer" if place == length - 1 else "signal"
        lines += [f"  node{place}:", "    type: runnable", "    name: step", f"    role: {role}"]
        if place:
            lines.append(f"    input: ${{node{place - 1}.output}}")
    stops = ["start", *(f"node{place}" for place in range(length)), "end"]
    lines += ["edges:", *(f"  - {{from: {here}, to: {there}}}" for here, there in pairwise(stops))]
    return dynflow.loads("\n".join(lines), runnables={"step": step}).invoke


# LangChain expression language


def _lcel_branch(coroutines: bool) -> Flow:
    from langchain_core.runnables import RunnableBranch

    def is_hard(question: str) -> bool:
        return score(question) >= THRESHOLD

    async def is_hard_async(question: str) -> bool:
        return await score_async(question) >= THRESHOLD

    functions: list[Any] = [is_hard_async, large_async, small_async] if coroutines else [is_hard, large, small]
    branch: RunnableBranch[str, str] = RunnableBranch((functions[0], functions[1]), functions[2])
    return Flow(branch.invoke, branch.ainvoke, branch.stream)


class _Scored(TypedDict):
    question: str
    score: float


def _lcel_sequence(coroutines: bool) -> Flow:
    from langchain_core.runnables import RunnableBranch, RunnableLambda

    def measure(question: str) -> _Scored:
        return {"question": question, "score": score(question)}

    async def measure_async(question: str) -> _Scored:
        return {"question": question, "score": await score_async(question)}

    def is_hard(scored: _Scored) -> bool:
        return scored["score"] >= THRESHOLD

    async def is_hard_async(scored: _Scored) -> bool:
        return scored["score"] >= THRESHOLD

    def answer(function: Callable[[str], Any]) -> Callable[[_Scored], Any]:
        return lambda scored: function(scored["question"])

    def answer_async(function: Callable[[str], Awaitable[str]]) -> Callable[[_Scored], Awaitable[str]]:
        async def run(scored: _Scored) -> str:
            return await function(scored["question"])

        return run

    functions: list[Any] = [measure, is_hard, answer(large), answer(small)]
    if coroutines:
        functions = [measure_async, is_hard_async, answer_async(large_async), answer_async(small_async)]
    first: RunnableLambda[str, _Scored] = RunnableLambda(functions[0])
    branch: RunnableBranch[_Scored, str] = RunnableBranch((functions[1], functions[2]), functions[3])
    sequence = first | branch
    return Flow(sequence.invoke, sequence.ainvoke, sequence.stream)


def _lcel_chain(length: int) -> Callable[[str], Any]:
    from langchain_core.runnables import Runnable, RunnableLambda, RunnableSequence

    steps: list[Runnable[str, str]] = [RunnableLambda(step) for _ in range(length)]
    chain: Runnable[str, str] = RunnableSequence(*steps) if length > 1 else steps[0]
    return chain.invoke


# LangGraph


class _State(TypedDict, total=False):
    question: str
    score: float
    answer: str


class _Text(TypedDict):
    text: str


def _langgraph(coroutines: bool) -> Flow:
    from langgraph.graph import END, START, StateGraph

    nodes: dict[str, Any] = {
        "measure": lambda state: {"score": score(state["question"])},
        "small": lambda state: {"answer": small(state["question"])},
        "large": lambda state: {"answer": large(state["question"])},
    }
    if coroutines:

        async def measure_node(state: _State) -> _State:
            return {"score": await score_async(state["question"])}

        async def small_node(state: _State) -> _State:
            return {"answer": await small_async(state["question"])}

        async def large_node(state: _State) -> _State:
            return {"answer": await large_async(state["question"])}

        nodes = {"measure": measure_node, "small": small_node, "large": large_node}

    def choose(state: _State) -> str:
        return "large" if state["score"] >= THRESHOLD else "small"

    graph = StateGraph(_State)
    for name, function in nodes.items():
        graph.add_node(name, function)
    graph.add_edge(START, "measure")
    graph.add_conditional_edges("measure", choose, ["small", "large"])
    graph.add_edge("small", END)
    graph.add_edge("large", END)
    compiled = graph.compile()

    async def ainvoke(question: str) -> str:
        answer: str = (await compiled.ainvoke({"question": question}))["answer"]
        return answer

    return Flow(
        lambda question: compiled.invoke({"question": question})["answer"],
        ainvoke,
        lambda question: compiled.stream({"question": question}),
    )


def _langgraph_chain(length: int) -> Callable[[str], Any]:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(_Text)
    stops = [START, *(f"node{place}" for place in range(length)), END]
    for name in stops[1:-1]:
        graph.add_node(name, lambda state: {"text": step(state["text"])})
    for here, there in pairwise(stops):
        graph.add_edge(here, there)
    compiled = graph.compile()
    return lambda text: compiled.invoke({"text": text}, {"recursion_limit": length + 1})["text"]


# Haystack


def _haystack(_: bool) -> Flow:
    from haystack import Pipeline, component
    from haystack.components.routers import ConditionalRouter
    from haystack.components.routers.conditional_router import Route

    def made(
        function: Callable[[str], Any], coroutine: Callable[[str], Awaitable[Any]], output: str, kind: type
    ) -> Any:
        """A component of one function."""

        @component
        class Component:
            @component.output_types(**{output: kind})
            def run(self, question: str) -> dict[str, Any]:
                return {output: function(question)}

            @component.output_types(**{output: kind})
            async def run_async(self, question: str) -> dict[str, Any]:
                return {output: await coroutine(question)}

        return Component()

    def route(condition: str, name: str) -> Route:
        return Route(condition=condition, output="{{question}}", output_name=name, output_type=str)

    pipeline = Pipeline()
    pipeline.add_component("score", made(score, score_async, "score", float))
    routes = [route(f"{{{{score >= {THRESHOLD}}}}}", "hard"), route(f"{{{{score < {THRESHOLD}}}}}", "easy")]
    pipeline.add_component("router", ConditionalRouter(routes))
    pipeline.add_component("small", made(small, small_async, "answer", str))
    pipeline.add_component("large", made(large, large_async, "answer", str))
    pipeline.connect("score.score", "router.score")
    pipeline.connect("router.hard", "large.question")
    pipeline.connect("router.easy", "small.question")

    def given(question: str) -> dict[str, Any]:
        return {"score": {"question": question}, "router": {"question": question}}

    def answer(results: dict[str, Any]) -> str:
        text: str = (results.get("large") or results["small"])["answer"]
        return text

    async def ainvoke(question: str) -> str:
        return answer(await pipeline.run_async(given(question)))

    return Flow(lambda question: answer(pipeline.run(given(question))), ainvoke)


DYNFLOW = "dynflow"
LCEL = ("LCEL RunnableBranch", "LCEL sequence with RunnableBranch")
LANGGRAPH = "LangGraph"

CONTENDERS = (
    Contender("plain Python", "builtins", "", _plain),
    Contender(DYNFLOW, "dynflow", "dynflow", _dynflow),
    Contender(LCEL[0], "langchain_core", "langchain-core", _lcel_branch),
    Contender(LCEL[1], "langchain_core", "langchain-core", _lcel_sequence),
    Contender(LANGGRAPH, "langgraph", "langgraph", _langgraph),
    Contender("Haystack", "haystack", "haystack-ai", _haystack),
)

CHAINS: dict[str, tuple[str, Callable[[int], Callable[[str], Any]]]] = {
    "plain Python": ("builtins", _plain_chain),
    DYNFLOW: ("dynflow", _dynflow_chain),
    "LCEL RunnableSequence": ("langchain_core", _lcel_chain),
    LANGGRAPH: ("langgraph", _langgraph_chain),
}
"""Makers of n trivial nodes in a row, with the module that each needs."""
