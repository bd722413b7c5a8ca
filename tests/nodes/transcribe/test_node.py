"""transcribe in a graph: what it is given, what it gives, what it refuses, and when it stops."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from langchain_core.messages import AIMessage, HumanMessage

from dynflow import Flow, GraphError, loads
from dynflow.cli.app import cli
from dynflow.errors import ArtefactError, InputError, MissingModel
from dynflow.models.engine import Job
from dynflow.speculation.asked import Asked
from tests.nodes.transcribe.tiny import block, sound, wav

Folder = Callable[[str], Path]
LONG = 2.4
"""Seconds of a recording that takes more than one window."""


def text(model: Any, options: str = "", draft: Any = None, settings: str = "", inputs: str = "") -> str:
    entries = f"w: {{provider: transformers, model: '{model}', threads: 1{settings}}}"
    if draft is not None:
        entries += f", d: {{provider: transformers, model: '{draft}', threads: 1}}"
    return f"""
version: 1
{inputs}
models: {{{entries}}}
nodes: {{hear: {{type: transcribe, model: w{options and ", " + options}}}}}
edges: [{{from: start, to: hear}}, {{from: hear, to: end}}]
"""


def message(data: bytes) -> list[HumanMessage]:
    return [HumanMessage([block(data)])]


@pytest.fixture
def flow(whispers: Folder) -> Flow:
    return loads(text(whispers("target0"), "draft: d", whispers("twin0")))


def test_a_long_recording_in_segments_with_its_account(flow: Flow) -> None:
    result = flow.run(message(wav(LONG)))
    assert isinstance(result.value, AIMessage)
    (visit,) = result.trace.visits
    about = result.value.response_metadata
    assert result.value.text.strip()
    assert len(about["segments"]) > 1
    assert [set(each) for each in about["segments"]] == [{"start", "end", "text"}] * len(about["segments"])
    assert about["duration"] == visit.values["duration"] == LONG
    assert about["language"] in ("en", "de", "fr")
    assert visit.values["drafted"] > visit.values["accepted"] > 0
    assert visit.values["tokens"] == result.ledger.tokens()["output"] > visit.values["passes"]
    assert any(note.startswith(f"drafted {visit.values['drafted']}, accepted") for note in visit.notes)
    (line,) = result.ledger.as_dict()["nodes"]
    assert line["speculation"]["accepted"] == visit.values["accepted"]
    assert line["compute_seconds"] > 0


async def test_it_streams_segment_by_segment(flow: Flow) -> None:
    whole = flow.invoke(message(wav(LONG))).text
    chunks = [chunk.text for chunk in flow.stream(message(wav(LONG)))]
    assert [chunk.text async for chunk in flow.astream(message(wav(LONG)))] == chunks
    assert "".join(chunks) == whole
    assert sum(map(bool, chunks)) > 1


def test_requests_of_one_window_go_together_and_long_ones_alone(flow: Flow) -> None:
    recordings = [wav(1.0, 1), wav(LONG), wav(1.5, 2)]
    results = flow.batch([message(each) for each in recordings])
    assert [each.text for each in results] == [flow.invoke(message(each)).text for each in recordings]
    drafted = [each.response_metadata["speculation"]["drafted"] for each in results]
    assert drafted[0] == drafted[2] == 0 < drafted[1]


def test_one_bad_recording_in_a_batch_is_its_own_fault(flow: Flow) -> None:
    good, bad = flow.batch([message(wav(1.0)), message(b"no sound")], return_exceptions=True)
    assert good.text == flow.invoke(message(wav(1.0))).text
    assert isinstance(bad, InputError)


def test_threads_that_share_a_model_do_not_mix(whispers: Folder) -> None:
    flows = [loads(text(whispers("target0"), "draft: d", whispers("twin0"))), loads(text(whispers("target0")))]
    recordings = [message(wav(seconds, seed)) for seed, seconds in enumerate((0.5, LONG, 1.0))]
    alone = [flows[0].invoke(each).text for each in recordings]
    assert len(set(alone)) == len(alone)
    jobs = [(flow, each) for flow in flows for each in recordings]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: job[0].invoke(job[1]).text, jobs))
    assert together == alone * 2


@pytest.mark.parametrize("count", [1, 2])
def test_called_off_it_stops_before_the_next_pass(whispers: Folder, count: int) -> None:
    import numpy

    from dynflow.nodes.transcribe.audio import Recording
    from dynflow.nodes.transcribe.source import Source
    from dynflow.nodes.transcribe.whisper import Order, engine_of

    engine = engine_of(Source("tiny", whispers("target0"), "main", "float32", 1))
    heard = Recording(numpy.array(sound(1.5), dtype=numpy.float32) / 32768)
    events: list[Any] = []
    order = Order(True, None, "transcribe", Asked(), None)
    job = Job({"recordings": [heard] * count, "order": order}, events.append)
    passes: list[int] = []

    def passed(*_: Any) -> None:
        passes.append(1)
        job.cancelled = len(passes) == 7

    hook = engine._model.get_decoder().register_forward_hook(passed)
    engine.serve(job)
    hook.remove()
    assert len(passes) == 7
    assert not any("transcripts" in event for event in events)


def test_called_off_while_a_draft_model_hears_it_stops(whispers: Folder) -> None:
    import numpy

    from dynflow.nodes.transcribe.audio import Recording
    from dynflow.nodes.transcribe.source import Source
    from dynflow.nodes.transcribe.whisper import Order, engine_of

    engine, draft = (Source(name, whispers(name), "main", "float32", 1) for name in ("target0", "kin0"))
    target, drafting = engine_of(engine), engine_of(draft)
    events: list[Any] = []
    order = Order(True, None, "transcribe", Asked(draft="kin0"), draft)
    heard = Recording(numpy.array(sound(1.0), dtype=numpy.float32) / 32768)
    job = Job({"recordings": [heard], "order": order}, events.append)
    since: list[int] = []

    def cancel(*_: Any) -> None:
        job.cancelled = True

    hooks = [drafting._model.get_encoder().register_forward_hook(cancel)]
    for model in (target._model, drafting._model):
        hooks.append(model.get_decoder().register_forward_hook(lambda *_: since.append(job.cancelled)))
    target.serve(job)
    for hook in hooks:
        hook.remove()
    assert job.cancelled
    assert not any(since)
    assert events == []


async def test_a_stream_that_is_left_stops_the_model(whispers: Folder) -> None:
    from dynflow.nodes.transcribe.source import Source
    from dynflow.nodes.transcribe.whisper import engine_of

    folder = whispers("target0")
    flow = loads(text(folder))
    whole = flow.run(message(wav(LONG))).trace.visits[0].values["passes"]
    engine = engine_of(Source(str(folder), folder, "main", "float32", 1))
    passes: list[int] = []
    hook = engine._model.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    stream = flow.astream(message(wav(LONG)))
    async for chunk in stream:
        if chunk.text:
            break
    await stream.aclose()
    while engine._busy:
        await asyncio.sleep(0.01)
    hook.remove()
    assert 0 < len(passes) < whole


def sent(data: bytes) -> list[Any]:
    """Ways to send the same sound."""
    text = base64.b64encode(data).decode("ascii")
    return [
        {"type": "audio", "base64": text, "mime_type": "audio/wav"},
        {"type": "audio", "source_type": "base64", "data": text, "mime_type": "audio/wav"},
        {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}},
        {"type": "audio", "url": f"data:audio/wav;base64,{text}"},
    ]


def test_every_usual_block_is_heard(flow: Flow) -> None:
    wanted = flow.invoke(message(wav(0.5))).text
    for each in sent(wav(0.5)):
        assert flow.invoke([HumanMessage([{"type": "text", "text": "What is said?"}, each])]).text == wanted


def test_a_declared_input_may_be_bytes_a_path_or_a_block(whispers: Folder, tmp_path: Path) -> None:
    flow = loads(text(whispers("target0"), "audio: '${input.clip}'", inputs="inputs: {clip: audio}"))
    (tmp_path / "clip.wav").write_bytes(wav(0.5))
    ways = [wav(0.5), str(tmp_path / "clip.wav"), tmp_path / "clip.wav", block(wav(0.5))]
    assert len({flow.invoke({"clip": way}).text for way in ways}) == 1


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("recording.wav", "no sound in the request"),
        ([HumanMessage([block(b"")])], "is empty"),
        ([HumanMessage([block(b"no sound at all")])], "is no audio that can be read"),
        ([HumanMessage([block(wav(0.05))])], "too short"),
        ([HumanMessage([block(wav(0.0))])], "too short"),
        ([HumanMessage([block(wav(0.5, rate=1000))])], "samples a second"),
        ([HumanMessage([{"type": "audio", "base64": "???", "mime_type": "audio/wav"}])], "not valid base64"),
        ([HumanMessage([{"type": "audio", "url": "https://example.org/a.wav"}])], "none is fetched"),
        ([HumanMessage([{"type": "audio", "url": "/etc/passwd"}])], "none is fetched"),
        ([HumanMessage([block(wav(0.5)), block(wav(0.5))])], "2 sounds"),
    ],
)
def test_bad_sound_is_refused_with_words(flow: Flow, request_: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        flow.invoke(request_)


def test_without_timestamps_one_window_is_taken(whispers: Folder) -> None:
    flow = loads(text(whispers("target0"), "timestamps: false"))
    assert flow.invoke(message(wav(1.5))).text
    with pytest.raises(InputError, match="at most 2 s"):
        flow.invoke(message(wav(3.0)))


def test_an_unknown_language_is_refused_before_the_first_request(whispers: Folder) -> None:
    with pytest.raises(InputError, match="knows no language 'tlh'; it knows de, en, fr"):
        loads(text(whispers("target0"), "language: tlh")).warm_up()


def findings(graph: str) -> str:
    with pytest.raises(GraphError) as caught:
        loads(graph)
    return str(caught.value)


def test_what_check_refuses(whispers: Folder, tmp_path: Path) -> None:
    good = whispers("target0")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert "of type llama" in findings(text(tmp_path))
    assert "there is no folder" in findings(text("./nowhere"))
    assert "brings no Whisper model" in findings(text("embedded/smollm2-135m-instruct"))
    assert "greedily" in findings(text(good, settings=", temperature: 0.5"))
    assert "cannot draft for itself" in findings(text(good, "draft: d", good))
    assert "of type llama" in findings(text(good, "draft: d", tmp_path))
    assert "has no draft_model" in findings(text(good, "draft: d, drafters: [prompt_lookup]", whispers("twin0")))
    assert "needs `draft`" in findings(text(good, "drafters: [draft_model]"))
    assert "of `provider: transformers`" in findings(text(good).replace("transformers", "litellm"))


@pytest.mark.parametrize(("draft", "words"), [("big0", "no smaller than the target"), ("foreign0", "tokenizer")])
def test_a_wrong_pair_is_refused_as_it_warms_up(whispers: Folder, draft: str, words: str) -> None:
    with pytest.raises(ArtefactError, match=f"cannot draft for .*: .*{words}"):
        loads(text(whispers("target0"), "draft: d", whispers(draft))).warm_up()


def test_a_model_of_beams_is_not_drafted_for(whispers: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "beams"
    shutil.copytree(whispers("target0"), folder)
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "num_beams": 2}))
    with pytest.raises(ArtefactError, match="asks for beams"):
        loads(text(folder, "drafters: [prompt_lookup]")).warm_up()
    (visit,) = loads(text(folder)).run(message(wav(1.0))).trace.visits
    assert visit.values["drafted"] == 0
    assert any("asks for beams or sampling; decoded plainly" in note for note in visit.notes)


def test_a_model_that_is_nowhere_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingModel, match="no model 'openai/whisper-none'"):
        loads(text("openai/whisper-none")).warm_up()


def test_on_the_command_line_a_file_is_heard(whispers: Folder, tmp_path: Path) -> None:
    (tmp_path / "graph.yaml").write_text(text(whispers("target0")))
    (tmp_path / "talk.wav").write_bytes(wav(1.0))
    run = CliRunner().invoke(cli, ["run", str(tmp_path / "graph.yaml"), str(tmp_path / "talk.wav")])
    assert run.exit_code == 0, run.output
    assert "passes" in run.stderr
    missing = CliRunner().invoke(cli, ["run", str(tmp_path / "graph.yaml"), str(tmp_path / "tlak.wav")])
    assert missing.exit_code != 0
    assert "no sound in the request" in missing.stderr


def test_dropping_the_flow_frees_the_model(whispers: Folder) -> None:
    from dynflow.nodes.transcribe.source import Source
    from dynflow.nodes.transcribe.whisper import engine_of

    folder = whispers("target1")
    flow = loads(text(folder))
    flow.warm_up()
    model = weakref.ref(engine_of(Source(str(folder), folder, "main", "float32", 1)))
    assert model() is not None
    flow.close()
    gc.collect()
    assert model() is None
