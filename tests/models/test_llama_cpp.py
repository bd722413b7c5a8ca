"""llama.cpp as chat model, on the real SmolLM2."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError, ModelTimeoutError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage

from dynflow.errors import ArtefactError, MissingDependency, MissingModel, Overloaded
from dynflow.models.engine import Engine
from dynflow.models.llama_cpp import LlamaCppChat
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create

NAME = "embedded/smollm2-135m-instruct"
SPIDER = "How many legs has a spider?"
STORY = "Tell me a very long story about a ship."
LONG = (
    "The harbour of Westmouth closed on Monday after a crane fell across the main pier. Nobody was hurt, but two "
    "barges were damaged and a warehouse lost part of its roof. The harbour master said that repairs would take long."
)


def chat(**settings: Any) -> LlamaCppChat:
    given = {"temperature": 0.0, "seed": 1, "max_tokens": 24, **settings}
    model = create(ModelSettings(provider="llama_cpp", model=NAME, **given), "small")
    assert isinstance(model, LlamaCppChat)
    return model


@pytest.fixture(scope="module")
def small() -> Iterator[LlamaCppChat]:
    model = chat()
    model.warm_up()
    yield model
    model.close()


def engine_of(model: LlamaCppChat) -> Engine:
    engine = model._engine
    assert engine is not None
    return engine


def idle(engine: Engine) -> bool:
    deadline = time.monotonic() + 10
    while engine._busy and time.monotonic() < deadline:
        time.sleep(0.01)
    return not engine._busy and engine.waiting == 0


def test_answers_with_usage_and_finish_reason(small: LlamaCppChat) -> None:
    answer = small.invoke(SPIDER)
    assert isinstance(answer, AIMessage)
    assert "8" in answer.text
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == NAME
    assert answer.response_metadata["timings"]["predicted_per_second"] > 0
    usage = answer.usage_metadata
    assert usage is not None
    assert usage["input_tokens"] > 20
    assert 5 < usage["output_tokens"] <= 24
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


async def test_all_call_styles_agree(small: LlamaCppChat) -> None:
    whole = small.invoke(SPIDER)
    chunks = list(small.stream(SPIDER))
    async_chunks = [chunk async for chunk in small.astream(SPIDER)]
    assert (await small.ainvoke(SPIDER)).text == whole.text
    for pieces in (chunks, async_chunks):
        assert len([piece for piece in pieces if piece.text]) > 3
        total = sum(pieces[1:], pieces[0])
        assert isinstance(total, AIMessageChunk)
        assert total.text == whole.text
        assert total.usage_metadata is not None
        assert whole.usage_metadata is not None
        assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
        assert total.response_metadata["finish_reason"] == "stop"
        assert pieces[-1].chunk_position == "last"


def test_system_message_and_history_reach_the_model(small: LlamaCppChat) -> None:
    bare = small.invoke([HumanMessage(SPIDER)])
    talk = [SystemMessage("Answer in French."), HumanMessage("Hello"), AIMessage("Bonjour"), HumanMessage(SPIDER)]
    led = small.invoke(talk)
    assert led.text != bare.text


def test_stop_text_ends_the_answer_and_is_left_out(small: LlamaCppChat) -> None:
    answer = small.invoke(SPIDER, stop=["legs"])
    assert "legs" not in answer.text
    assert answer.text
    assert answer.response_metadata["finish_reason"] == "stop"
    assert chat(stop=["legs"]).invoke(SPIDER).text == answer.text


def test_call_options_override_the_settings(small: LlamaCppChat) -> None:
    answer = small.invoke(STORY, max_tokens=3)
    assert answer.response_metadata["finish_reason"] == "length"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 3


def test_the_same_seed_gives_the_same_text(small: LlamaCppChat) -> None:
    warm = [small.invoke(STORY, temperature=1.2, seed=seed).text for seed in (7, 7, 8)]
    assert warm[0] == warm[1] != warm[2]
    assert small.invoke(STORY).text == small.invoke(STORY).text


def test_a_seed_holds_whatever_was_asked_before(small: LlamaCppChat) -> None:
    """What an earlier request leaves of a prompt in the cache was rounded otherwise."""
    prompt = f"Tell it again in other words: {LONG}"

    def drawn() -> list[str]:
        return [small.invoke(prompt, temperature=1.0, seed=seed, max_tokens=24).text for seed in range(8)]

    first = drawn()
    small.invoke(STORY, max_tokens=1)
    assert drawn() == first


def test_log_probabilities(small: LlamaCppChat) -> None:
    answer = small.invoke(SPIDER, logprobs=True, top_logprobs=2)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens).startswith(answer.text[:10])
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in tokens)


def test_response_format_constrains_the_answer(small: LlamaCppChat) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"legs": {"type": "integer", "maximum": 99}},
        "required": ["legs"],
    }
    schema["additionalProperties"] = False
    answer = small.invoke(SPIDER, response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert isinstance(json.loads(answer.text)["legs"], int)


def test_closing_a_stream_stops_the_generation(small: LlamaCppChat) -> None:
    engine = engine_of(small)
    stream = small.stream(STORY, max_tokens=4000)
    assert next(stream) is not None
    stream.close()  # type: ignore[attr-defined]
    assert idle(engine)
    assert small.invoke(SPIDER).text


def test_closing_stops_while_the_prompt_is_read(small: LlamaCppChat) -> None:
    engine = engine_of(small)
    prompt = "The quick brown fox jumps over the lazy dog. " * 700  # half a minute to read
    with pytest.raises(ModelTimeoutError, match="did not finish within"):
        small.invoke(prompt, timeout=0.3)
    assert idle(engine)


async def test_cancelling_a_task_stops_the_generation(small: LlamaCppChat) -> None:
    engine = engine_of(small)
    task = asyncio.create_task(small.ainvoke(STORY, max_tokens=4000))
    await asyncio.sleep(0.4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(idle, engine)


async def test_closing_an_async_stream_stops_the_generation(small: LlamaCppChat) -> None:
    engine = engine_of(small)
    stream = small.astream(STORY, max_tokens=4000)
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    assert await asyncio.to_thread(idle, engine)


async def test_a_timeout_ends_an_async_call(small: LlamaCppChat) -> None:
    with pytest.raises(ModelTimeoutError):
        await small.ainvoke(STORY, max_tokens=4000, timeout=0.3)
    assert await asyncio.to_thread(idle, engine_of(small))


def test_a_full_queue_refuses(small: LlamaCppChat) -> None:
    narrow = chat(queue=1)
    running = small.stream(STORY, max_tokens=4000)
    next(running)
    waiting = threading.Thread(target=narrow.invoke, args=(SPIDER,))
    waiting.start()
    while not engine_of(small).waiting:
        time.sleep(0.01)
    assert engine_of(narrow) is engine_of(small)
    with pytest.raises(Overloaded, match="queue"):
        narrow.invoke(SPIDER)
    running.close()  # type: ignore[attr-defined]
    waiting.join(30)
    assert not waiting.is_alive()
    assert idle(engine_of(small))


async def test_a_cancelled_request_leaves_the_queue(small: LlamaCppChat) -> None:
    running = small.stream(STORY, max_tokens=4000)
    next(running)
    tasks = [asyncio.create_task(small.ainvoke(SPIDER)) for _ in range(3)]
    while engine_of(small).waiting < 3:
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert engine_of(small).waiting == 0
    running.close()  # type: ignore[attr-defined]


async def test_many_callers_at_once(small: LlamaCppChat) -> None:
    alone = small.invoke(SPIDER).text
    threaded: list[str] = []
    threads = [threading.Thread(target=lambda: threaded.append(small.invoke(SPIDER).text)) for _ in range(3)]
    for thread in threads:
        thread.start()
    together = await asyncio.gather(*(small.ainvoke(SPIDER) for _ in range(3)))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert {answer.text for answer in together} == set(threaded) == {alone}
    assert idle(engine_of(small))


def test_one_load_serves_all_entries_alike(small: LlamaCppChat) -> None:
    other = chat(temperature=1.0)
    other.warm_up()
    assert engine_of(other) is engine_of(small)
    narrow = chat(capabilities={"context": 512})
    narrow.warm_up()
    assert engine_of(narrow) is not engine_of(small)
    other.close()
    assert other.invoke(SPIDER, max_tokens=2).text


def test_pickling_and_copying(small: LlamaCppChat) -> None:
    again = pickle.loads(pickle.dumps(small))
    assert again._engine is None
    assert again.invoke(SPIDER).text == small.invoke(SPIDER).text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_loads_anew(small: LlamaCppChat) -> None:
    here = small.invoke(SPIDER).text
    answers: Any = multiprocessing.get_context("fork").SimpleQueue()
    child = multiprocessing.get_context("fork").Process(target=lambda: answers.put(small.invoke(SPIDER).text))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert answers.get() == here


def test_a_prompt_beyond_the_context(small: LlamaCppChat) -> None:
    with pytest.raises(ContextOverflowError, match="8192"):
        small.invoke("hello " * 170_000)


def test_what_llama_cpp_refuses(small: LlamaCppChat) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aaaa"}}
    with pytest.raises(ModelInvalidRequestError, match="image"):
        small.invoke([HumanMessage(content=[picture])])
    with pytest.raises(ModelInvalidRequestError):
        small.invoke("hi", response_format={"type": "nonsense"})
    with pytest.raises(ModelInvalidRequestError):
        small.invoke("a lone surrogate: \ud800")
    assert idle(engine_of(small))


def test_tools_are_refused_by_a_model_that_cannot_call_them(small: LlamaCppChat) -> None:
    with pytest.raises(NotImplementedError, match="cannot call tools"):
        small.bind_tools([{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}])


def test_missing_and_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingModel, match=r"no model file .*nowhere\.gguf"):
        create(ModelSettings(provider="llama_cpp", model="nowhere.gguf"), "x", tmp_path).warm_up()
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(ArtefactError, match="not a GGUF file"):
        create(ModelSettings(provider="llama_cpp", model="text.gguf"), "x", tmp_path).invoke("hi")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ArtefactError, match="cannot load"):
        create(ModelSettings(provider="llama_cpp", model="cut.gguf"), "x", tmp_path).invoke("hi")


def test_without_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingDependency, match=r'pip install "dynflow\[quickstart\]"'):
        chat(capabilities={"context": 256}).warm_up()


def run(body: str) -> subprocess.Popen[str]:
    program = f"""
import asyncio, os, sys, threading, time
from dynflow.models.settings import ModelSettings
from dynflow.models.store import create
model = create(ModelSettings(provider="llama_cpp", model="{NAME}", temperature=0, max_tokens=4000), "small")
{textwrap.dedent(body)}
"""
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.mark.parametrize(
    "body",
    [
        'print(model.invoke("Say hello.", max_tokens=3).text[:0])',
        'stream = model.stream("Tell a long story."); next(stream)',
        'stream = model.stream("Tell a long story."); next(stream); model.close()',
        """
        async def main():
            task = asyncio.create_task(model.ainvoke("Tell a long story."))
            await asyncio.sleep(1)
        asyncio.run(main())
        """,
    ],
    ids=["answered", "abandoned", "closed", "task"],
)
def test_a_process_ends_cleanly_and_silently(body: str) -> None:
    code, out, err = finish(run(body))
    assert (code, out.strip(), err) == (0, "", "")


def test_a_thread_may_outlive_the_main_one() -> None:
    body = 'threading.Thread(target=lambda: print(len(model.invoke("Hi", max_tokens=5).text))).start()'
    code, out, err = finish(run(body))
    assert (code, err) == (0, "")
    assert int(out) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
@pytest.mark.parametrize("style", ["invoke", "stream", "ainvoke"])
def test_ctrl_c_in_mid_generation(style: str) -> None:
    process = run(
        f"""
        print("ready", flush=True)
        model.warm_up()
        try:
            if "{style}" == "ainvoke":
                asyncio.run(model.ainvoke("Tell a long story."))
            elif "{style}" == "stream":
                for chunk in model.stream("Tell a long story."): pass
            else:
                model.invoke("Tell a long story.")
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            raise
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert out == "interrupted\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert code == -signal.SIGINT
