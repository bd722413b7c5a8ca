"""With drafts Whisper writes what it writes without: token for token, and as transformers' own pipeline has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from dynflow.models.engine import Job
from dynflow.nodes.transcribe.audio import Recording
from dynflow.nodes.transcribe.writing import Transcript, joined
from dynflow.speculation.asked import Asked
from tests.nodes.transcribe.tiny import RATE, WINDOW, sound

Folder = Callable[[str], Path]
LONG = 2.4
"""Seconds of a recording that takes more than one window."""
SOAK = os.environ.get("DYNFLOW_SOAK") == "1"


def samples(seconds: float, seed: int = 0) -> Any:
    import numpy

    return numpy.array(sound(seconds, seed), dtype=numpy.float32) / 32768


def engine_in(folder: Path) -> Any:
    from dynflow.nodes.transcribe.source import Source
    from dynflow.nodes.transcribe.whisper import engine_of

    return engine_of(Source(str(folder), folder, "main", "float32", 1))


def transcribed(
    engine: Any, *heard: Any, timestamps: bool = True, draft: Path | None = None, language: str | None = None
) -> tuple[list[Transcript], str]:
    """What an engine says of recordings, and the text that came meanwhile."""
    from dynflow.nodes.transcribe.source import Source
    from dynflow.nodes.transcribe.whisper import Order

    source = None if draft is None else Source(str(draft), draft, "main", "float32", 1)
    asked = Asked(("draft_model",) if draft else None, None, str(draft) if draft else None)
    events: list[Any] = []
    order = Order(timestamps, language, "transcribe", asked, source)
    engine.serve(Job({"recordings": [Recording(each) for each in heard], "order": order}, events.append))
    *texts, last = events
    return last["transcripts"], "".join(event["text"] for event in texts)


@cache
def stock(
    folder: Path, seconds: float, seed: int, timestamps: bool, **options: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """Tokenizer, and the segments, by transformers' `generate` alone."""
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    processor, heard = WhisperProcessor.from_pretrained(folder), samples(seconds, seed)
    whole = {"truncation": False, "padding": "longest"} if len(heard) > WINDOW * RATE else {}
    features = processor.feature_extractor(heard, sampling_rate=RATE, return_tensors="pt", **whole)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    found = model.generate(**features, return_timestamps=timestamps, return_segments=True, task="transcribe", **options)
    return processor.tokenizer, found["segments"][0]


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The tokens of each segment of the last transcript."""
    import dynflow.nodes.transcribe.whisper as module

    seen: list[list[int]] = []
    plain = module.transcript

    def noted(found: Any, *rest: Any) -> Transcript:
        seen[:] = [segment["tokens"].tolist() for segment in found]
        return plain(found, *rest)

    monkeypatch.setattr(module, "transcript", noted)
    return seen


@pytest.mark.parametrize(("seconds", "timestamps"), [(1.5, False), (LONG, True)])
@pytest.mark.parametrize("draft", ["lookup", "twin", "kin"])
@pytest.mark.parametrize("seed", range(10 if SOAK else 2))
def test_tokens_are_those_of_generate(
    whispers: Folder, tokens: list[list[int]], seed: int, draft: str, seconds: float, timestamps: bool
) -> None:
    folder, heard = whispers(f"target{seed}"), samples(seconds, seed)
    tokenizer, wanted = stock(folder, seconds, seed, timestamps)
    texts = [tokenizer.decode(each["tokens"], skip_special_tokens=True) for each in wanted]
    drafting = None if draft == "lookup" else whispers(f"{draft}{seed}")
    [found], streamed = transcribed(engine_in(folder), heard, timestamps=timestamps, draft=drafting)
    assert tokens == [each["tokens"].tolist() for each in wanted]
    told = found.speculation
    assert (told.exactness, told.dtype, told.fallback) == ("exact_greedy", "float32", None)
    assert told.drafted > told.accepted >= (draft != "lookup")
    assert streamed == found.text == "".join(texts).lstrip()
    begins = [float(each["start"]) for each, text in zip(wanted, texts, strict=True) if text.strip()]
    assert [each.start for each in found.segments] == pytest.approx([min(max(begin, 0), seconds) for begin in begins])
    assert all(0 <= each.start <= seconds and 0 <= each.end <= seconds for each in found.segments)


@pytest.mark.parametrize(("seconds", "timestamps"), [(1.5, False), (LONG, True)])
def test_text_is_that_of_the_pipeline(whispers: Folder, seconds: float, timestamps: bool) -> None:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

    folder, heard = whispers("target1"), samples(seconds)
    processor = WhisperProcessor.from_pretrained(folder)
    pipe = pipeline(
        "automatic-speech-recognition",
        model=WhisperForConditionalGeneration.from_pretrained(folder).eval(),
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
        device="cpu",
    )
    wanted = pipe(heard.copy(), return_timestamps=timestamps, generate_kwargs={"task": "transcribe", "num_beams": 1})
    [found], _ = transcribed(engine_in(folder), heard, timestamps=timestamps)
    assert found.text == wanted["text"].lstrip()


def test_a_plain_batch_says_what_each_says_alone(whispers: Folder) -> None:
    engine = engine_in(whispers("target0"))
    heard = [samples(1.5, 1), samples(1.0, 2), samples(2.0, 3)]
    together, streamed = transcribed(engine, *heard)
    alone = [transcribed(engine, each)[0][0] for each in heard]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.segments for each in together] == [each.segments for each in alone]
    assert [each.language for each in together] == [each.language for each in alone]
    assert streamed == ""
    assert all(each.speculation.drafted == 0 for each in together)


def test_the_encoder_runs_once_for_a_window(whispers: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    import dynflow.nodes.transcribe.whisper as module

    engine = engine_in(whispers("target0"))
    runs: list[int] = []
    hook = engine._model.get_encoder().layers[0].register_forward_hook(lambda *_: runs.append(1))
    windows: list[int] = []
    monkeypatch.setattr(module, "joined", lambda parts: windows.append(len(parts)) or joined(parts))
    transcribed(engine, samples(LONG), draft=whispers("twin0"))  # a twin hears by its teacher's encoder
    hook.remove()
    assert len(runs) == windows[0] > 1


def test_a_language_that_is_given_is_not_guessed(whispers: Folder, tokens: list[list[int]]) -> None:
    folder, heard = whispers("target0"), samples(1.5)
    _, wanted = stock(folder, 1.5, 0, True, language="fr")
    [found], _ = transcribed(engine_in(folder), heard, language="French")
    assert found.language == "fr"
    assert tokens == [each["tokens"].tolist() for each in wanted]
