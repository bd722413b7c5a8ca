"""Sound of every usual form becomes the same samples; what is none is refused, with a way to mend it."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynflow.errors import InputError, MissingDependency
from dynflow.nodes.transcribe import audio
from dynflow.request import Request
from tests.nodes.transcribe.tiny import RATE, sound, wav

numpy = pytest.importorskip("numpy")
soundfile = pytest.importorskip("soundfile")
NOTHING = Request("nothing")


def heard(given: Any) -> Any:
    return audio.recording(given, NOTHING).samples


def file(form: str, rate: int = RATE, channels: int = 1, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    samples = numpy.array(sound(1.0, rate=rate), dtype=numpy.float32) / 32768
    soundfile.write(buffer, numpy.stack([samples] * channels, axis=1), rate, format=form, subtype=subtype)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3", "AIFF"])
def test_every_usual_format_is_read(form: str) -> None:
    wanted, found = heard(wav(1.0)), heard(file(form))
    assert len(found) == pytest.approx(RATE, abs=RATE * 0.1)
    if form in ("FLAC", "AIFF"):
        assert numpy.array_equal(found, wanted)
    else:
        part = wanted[1000:5000]  # a codec may shift it a little
        alike = numpy.correlate(found[:9000], part) / (numpy.linalg.norm(part) ** 2)
        assert alike.max() > 0.9


@pytest.mark.parametrize(("rate", "subtype"), [(8_000, "PCM_16"), (44_100, "PCM_24"), (48_000, "FLOAT")])
def test_other_rates_are_resampled_and_channels_mixed(rate: int, subtype: str) -> None:
    found = heard(file("WAV", rate, 2, subtype))
    assert found.dtype == numpy.float32
    assert len(found) == RATE
    wanted = heard(wav(1.0))
    inside = slice(RATE // 50, RATE // 5)  # one tone, away from where it begins and changes
    assert numpy.abs(found[inside] - wanted[inside]).max() < 0.02


def test_samples_of_a_data_set_are_taken() -> None:
    samples = numpy.array(sound(1.0), dtype=numpy.float32) / 32768
    both = numpy.stack([samples, samples])
    for array in (samples, both):
        assert numpy.allclose(heard({"array": array, "sampling_rate": RATE, "path": None}), samples, atol=1e-6)


def test_a_long_file_is_read_in_parts() -> None:
    assert len(heard(wav(21.0, rate=4_000))) == pytest.approx(21 * RATE, abs=1)


def lying_wav(seconds: int) -> bytes:
    """A header that promises more than there is."""
    data = wav(0.5)
    return data[:4] + struct.pack("<I", seconds * RATE * 2 + 36) + data[8:40] + struct.pack("<I", seconds * RATE * 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.wav", "there is no file nowhere.wav"),
        (".", "is no file"),
        ("https://example.org/talk.wav", "none is fetched"),
        ("data:audio/wav,abc", "data URL"),
        (b"", "is empty"),
        (b"\x00" * 500, "no audio that can be read"),
        (wav(0.5)[:30], "no audio that can be read"),
        (lying_wav(5)[:44], "too short"),
        ({"type": "text", "text": "hello"}, "has no data"),
        ({"array": [0.0] * RATE, "sampling_rate": 100}, "100 samples a second"),
        ({"array": "hello", "sampling_rate": RATE}, "no sound"),
        ({"array": [[[0.0]]], "sampling_rate": RATE}, "3 axes"),
        ({"array": [float("nan")] * RATE, "sampling_rate": RATE}, "no numbers"),
        ([{"type": "text", "text": "hello"}], "no sound in the request"),
        (3, "no sound can be made of int"),
        ("a\0b", "no file"),
    ],
)
def test_what_is_no_sound_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        heard(given)


def test_what_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_LONGEST", 0.8)
    with pytest.raises(InputError, match="longer than"):
        heard(wav(1.0))
    with pytest.raises(InputError, match="longer than"):
        heard({"array": [0.0] * RATE, "sampling_rate": RATE})


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingDependency, match=r"dynflow\[transcribe\]"):
        heard(wav(0.5))


def test_the_node_loads_no_library() -> None:
    script = (
        "import sys, dynflow.nodes.transcribe, dynflow.nodes.transcribe.checks;"
        "heavy = {'torch', 'transformers', 'numpy', 'soundfile', 'soxr', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)
