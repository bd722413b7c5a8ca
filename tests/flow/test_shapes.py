"""Each named shape through each call style: the same answer, the same path, the same decisions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig

from dynflow import Flow, load
from dynflow.chunks import add_up
from tests.flow.recorder import Recorder
from tests.flow.shapes import SHAPES, Case, Shape

CASES = [
    pytest.param(shape, case, id=f"{shape.name}-{index}") for shape in SHAPES for index, case in enumerate(shape.cases)
]


def flow_of(shape: Shape, folder: Path) -> Flow:
    for name, text in {"graph.yaml": shape.text, **shape.files}.items():
        (folder / name).write_text(text, "utf-8")
    return load(folder / "graph.yaml", runnables=shape.runnables(), models=shape.models())


def config_of(case: Case, *handlers: Recorder) -> RunnableConfig:
    return {"configurable": dict(case.params), "callbacks": list(handlers)}


def check_answer(case: Case, answer: Any) -> None:
    plain = str(answer.text) if isinstance(answer, AIMessage) else answer
    assert plain == case.value
    if isinstance(answer, AIMessage):
        record = answer.response_metadata["dynflow"]
        assert record["path"] == ["start", *case.path.split()]
        assert record["degraded"] == case.degraded


def let_go(flow: Flow, *recorders: Recorder) -> None:
    """Let models that hang finish, and wait for the runs of threads that were left behind."""
    for model in flow.models.values():
        model.release()
    ends = time.monotonic() + 5
    while any(recorder.unfinished for recorder in recorders) and time.monotonic() < ends:
        time.sleep(0.01)


def check_record(case: Case, recorder: Recorder) -> None:
    assert " ".join(decision["to"] for decision in recorder.decisions) == case.path
    if case.error is None:
        assert any(decision["degraded"] for decision in recorder.decisions) == case.degraded
    assert recorder.unfinished == []


def decided(recorder: Recorder) -> list[tuple[Any, ...]]:
    """The decisions without their numbers, which differ by microseconds."""
    return [(each["from"], each["to"], each["edge"], each["when"]) for each in recorder.decisions]


@pytest.mark.parametrize(("shape", "case"), CASES)
def test_run_tells_path_and_answer(shape: Shape, case: Case, tmp_path: Path) -> None:
    flow = flow_of(shape, tmp_path)
    if case.error is not None:
        with pytest.raises(case.error):
            flow.run(case.input, config_of(case))
        return
    result = flow.run(case.input, config_of(case))
    check_answer(case, result.value)
    assert result.trace.path == ["start", *case.path.split()]
    assert result.trace.degraded == case.degraded


@pytest.mark.parametrize(("shape", "case"), CASES)
def test_sync_styles_agree(shape: Shape, case: Case, tmp_path: Path) -> None:
    flow = flow_of(shape, tmp_path)
    invoked, streamed = Recorder(), Recorder()
    if case.error is not None:
        with pytest.raises(case.error):
            flow.invoke(case.input, config_of(case, invoked))
        with pytest.raises(case.error):
            list(flow.stream(case.input, config_of(case, streamed)))
    else:
        check_answer(case, flow.invoke(case.input, config_of(case, invoked)))
        check_answer(case, add_up(list(flow.stream(case.input, config_of(case, streamed)))))
    let_go(flow, invoked, streamed)
    for recorder in (invoked, streamed):
        check_record(case, recorder)
    assert decided(invoked) == decided(streamed)


@pytest.mark.parametrize(("shape", "case"), CASES)
async def test_async_styles_agree(shape: Shape, case: Case, tmp_path: Path) -> None:
    flow = flow_of(shape, tmp_path)
    invoked, streamed = Recorder(), Recorder()
    if case.error is not None:
        with pytest.raises(case.error):
            await flow.ainvoke(case.input, config_of(case, invoked))
        with pytest.raises(case.error):
            [chunk async for chunk in flow.astream(case.input, config_of(case, streamed))]
        with pytest.raises(case.error):
            await flow.arun(case.input, config_of(case))
    else:
        check_answer(case, await flow.ainvoke(case.input, config_of(case, invoked)))
        chunks = [chunk async for chunk in flow.astream(case.input, config_of(case, streamed))]
        check_answer(case, add_up(chunks))
        result = await flow.arun(case.input, config_of(case))
        assert result.trace.path == ["start", *case.path.split()]
        assert result.trace.degraded == case.degraded
    for recorder in (invoked, streamed):
        check_record(case, recorder)
    assert decided(invoked) == decided(streamed)


@pytest.fixture(params=SHAPES, ids=lambda shape: shape.name)
def shape(request: pytest.FixtureRequest) -> Shape:
    return request.param


def check_batch(shape: Shape, answers: list[Any], recorders: list[Recorder]) -> None:
    for case, answer, recorder in zip(shape.cases, answers, recorders, strict=True):
        if case.error is not None:
            assert isinstance(answer, case.error), repr(answer)
        else:
            check_answer(case, answer)
        check_record(case, recorder)


def test_batch_agrees(shape: Shape, tmp_path: Path) -> None:
    flow = flow_of(shape, tmp_path)
    recorders = [Recorder() for _ in shape.cases]
    configs = [config_of(case, recorder) for case, recorder in zip(shape.cases, recorders, strict=True)]
    answers = flow.batch([case.input for case in shape.cases], configs, return_exceptions=True)
    let_go(flow, *recorders)
    check_batch(shape, answers, recorders)


async def test_abatch_agrees(shape: Shape, tmp_path: Path) -> None:
    flow = flow_of(shape, tmp_path)
    recorders = [Recorder() for _ in shape.cases]
    configs = [config_of(case, recorder) for case, recorder in zip(shape.cases, recorders, strict=True)]
    answers = await flow.abatch([case.input for case in shape.cases], configs, return_exceptions=True)
    check_batch(shape, answers, recorders)


def test_there_are_enough_shapes() -> None:
    assert len(SHAPES) >= 40
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)
