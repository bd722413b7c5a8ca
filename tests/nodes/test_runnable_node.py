"""runnable: the host's own parts, of every kind, in every style."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig, RunnableGenerator, RunnableLambda

from dynflow import Flow, GraphError, NodeFailed, NodeTimeout, loads


def flow(work: Any, options: str = "") -> Flow:
    return loads(
        f"version: 1\nnodes: {{w: {{type: runnable, name: work, role: answer{options}}}}}\n"
        "edges: [{from: start, to: w}, {from: w, to: end}]\n",
        runnables={"work": work},
    )


def plain(value: str) -> str:
    return value.upper()


def generator(value: str) -> Iterator[str]:
    yield value[:1].upper()
    yield value[1:].upper()


async def coroutine(value: str) -> str:
    await asyncio.sleep(0)
    return value.upper()


async def async_generator(value: str) -> AsyncIterator[str]:
    yield value[:1].upper()
    yield value[1:].upper()


def with_config(value: str, config: RunnableConfig) -> str:
    assert config["metadata"]["user"] == "ann"
    return value.upper()


class Callable_:  # noqa: N801 - an object that can be called
    def __call__(self, value: str) -> str:
        return value.upper()


@pytest.mark.parametrize("options", ["", ", timeout: 5s"], ids=["no limit", "limit"])
@pytest.mark.parametrize(
    "work",
    [plain, generator, with_config, Callable_(), RunnableLambda(plain), RunnableLambda(plain, coroutine), str.upper],
    ids=lambda work: getattr(work, "__name__", type(work).__name__),
)
async def test_every_kind_in_every_style(work: Any, options: str) -> None:
    made, config = flow(work, options), {"metadata": {"user": "ann"}}
    assert made.invoke("ab", config) == "AB"
    assert "".join(made.stream("ab", config)) == "AB"
    assert await made.ainvoke("ab", config) == "AB"
    assert "".join([chunk async for chunk in made.astream("ab", config)]) == "AB"
    assert made.batch(["ab"], config) == ["AB"]


@pytest.mark.parametrize("work", [coroutine, async_generator])
async def test_async_functions(work: Any) -> None:
    made = flow(work)
    assert await made.ainvoke("ab") == "AB"
    assert "".join([chunk async for chunk in made.astream("ab")]) == "AB"
    with pytest.raises(NodeFailed, match="use ainvoke or astream"):
        made.invoke("ab")


def test_a_runnable_generator_keeps_langchains_contract() -> None:
    def parts(values: Iterator[str]) -> Iterator[str]:
        for value in values:
            yield from value

    assert list(flow(RunnableGenerator(parts)).stream("ab")) == ["a", "b"]


async def test_a_function_that_takes_too_long_is_left_behind() -> None:
    made = flow(lambda _: time.sleep(0.3), ", timeout: 30ms")
    began = time.monotonic()
    with pytest.raises(NodeTimeout):
        made.invoke("x")
    with pytest.raises(NodeTimeout):
        await made.ainvoke("x")
    assert time.monotonic() - began < 0.25


def test_ports_are_checked() -> None:
    ports = ", ports: {n: number, i: integer, b: boolean, s: string, l: list, r: record, x: any}"
    good = {"n": 1, "i": 2, "b": True, "s": "", "l": (1,), "r": {}, "x": object()}
    assert flow(lambda _: good, ports).run("x").ports == good
    nothing = dict.fromkeys(good)
    assert flow(lambda _: nothing, ports).run("x").ports == nothing
    for name, value in {"n": "1", "i": 1.5, "b": 1, "s": 1, "l": "text", "r": [1]}.items():
        with pytest.raises(NodeFailed, match=f"for '{name}', which is declared as"):
            flow(lambda _, name=name, value=value: {**good, name: value}, ports).invoke("x")
    with pytest.raises(NodeFailed, match="returned no i, n"):
        flow(lambda _: {name: good[name] for name in "bslrx"}, ports).invoke("x")
    with pytest.raises(NodeFailed, match="its ports need a mapping"):
        flow(lambda _: 3, ports).invoke("x")


def test_scalars_of_array_libraries_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    ports = (
        flow(lambda _: {"n": numpy.float32(0.5), "b": numpy.bool_(True)}, ", ports: {n: number, b: boolean}")
        .run("x")
        .ports
    )
    assert ports == {"n": 0.5, "b": True}
    assert [type(value) for value in ports.values()] == [float, bool]


def test_what_is_not_handed_over_is_an_error_of_the_graph() -> None:
    with pytest.raises(GraphError, match="did you mean 'work'"):
        loads(
            "version: 1\nnodes: {w: {type: runnable, name: wrok, role: answer}}\n"
            "edges: [{from: start, to: w}, {from: w, to: end}]\n",
            runnables={"work": plain},
        )
