"""Sound that a request brings: where it is, and its samples as Whisper hears them. Libraries load when it is read."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage

from dynflow.errors import InputError
from dynflow.models.libraries import library
from dynflow.request import Request

RATE = 16_000
"""Samples per second that Whisper hears."""
_SHORTEST = 0.1
_LONGEST = 4 * 3600.0
"""Seconds of a recording: memory is bounded, whatever a small file may unpack to."""
_RATES = (4_000, 384_000)
_BLOCK = 10  # seconds that are read at a time
_CONVERT = "`ffmpeg -i INPUT -ar 16000 -ac 1 output.wav` makes a WAV file of nearly anything"
_SEND = 'send a content block {"type": "audio", "base64": …, "mime_type": "audio/wav"} in the last user turn'


@dataclass(frozen=True, slots=True)
class Recording:
    """`samples`: float32 array (samples,), one channel, `RATE` a second."""

    samples: Any

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / RATE


def recording(given: Any, request: Request) -> Recording:
    """The sound of the option `audio`, else that of the request's last user turn. Raises InputError, MissingDependency.

    A text given there is a path or a data URL. What stands in messages is never taken for a path.
    """
    found = _in_turn(request) if given is None else given
    if isinstance(found, (BaseMessage, Sequence)) and not isinstance(found, (str, bytes)):
        found = _only(list(_blocks(found)))
    if isinstance(found, Mapping) and "sampling_rate" in found:
        return _resampled(found)
    if isinstance(found, Mapping):
        found = _of_block(found)
    elif isinstance(found, str):
        found = _of_data_url(found) if found.startswith("data:") else Path(found)
    if isinstance(found, Path):
        return _of_file(found)
    if isinstance(found, (bytes, bytearray, memoryview)):
        return _decoded(io.BytesIO(found), "the sound")
    raise InputError(f"no sound can be made of {type(found).__name__}: give a path, bytes, or an audio content block")


def _in_turn(request: Request) -> Mapping[str, Any]:
    turns = [message for message in request.messages if message.type == "human"]
    return _only(list(_blocks(turns[-1:])))


def _blocks(value: Any) -> Iterator[Mapping[str, Any]]:
    """The audio blocks of messages, a message, or content blocks."""
    if isinstance(value, BaseMessage):
        value = [] if isinstance(value.content, str) else value.content
    for item in value:
        if isinstance(item, BaseMessage):
            yield from _blocks(item)
        elif isinstance(item, Mapping) and item.get("type") in ("audio", "input_audio"):
            yield item


def _only(blocks: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    if not blocks:
        raise InputError(
            f"there is no sound in the request: {_SEND}; `dynflow run` takes the path of a file that exists"
        )
    if len(blocks) > 1:
        raise InputError(f"there are {len(blocks)} sounds in the request: send one at a time, or use `batch`")
    return blocks[0]


def _of_block(block: Mapping[str, Any]) -> bytes:
    """What a content block holds, in LangChain's forms and OpenAI's. Raises InputError."""
    inner = block.get("input_audio")
    held = inner.get("data") if isinstance(inner, Mapping) else block.get("base64", block.get("data"))
    if isinstance(held, bytes):
        return held
    if isinstance(held, str):
        return _of_base64(held)
    url = block.get("url")
    if isinstance(url, str) and url.startswith("data:"):
        return _of_data_url(url)
    what = "names an address, and none is fetched" if url else "has no data"
    raise InputError(f"the audio block {what}: {_SEND}")


def _of_data_url(url: str) -> bytes:
    head, comma, held = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise InputError("the sound's data URL is none: it must read data:audio/wav;base64,…")
    return _of_base64(held)


def _of_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the sound is not valid base64 ({error}): encode the file's bytes as they are") from None


def _of_file(path: Path) -> Recording:
    path = path.expanduser()
    if "://" in str(path) or str(path).startswith(("http:", "https:")):
        raise InputError(f"{path} is an address, and none is fetched: download the file, and give its path")
    try:
        if not path.exists():
            raise InputError(f"there is no file {path}: give the path of a recording")
        if not path.is_file():
            raise InputError(f"{path} is no file: give the path of a recording")
        with path.open("rb") as file:
            return _decoded(file, path.name)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the recording {path} cannot be read: {error}") from None


def _decoded(file: Any, name: str) -> Recording:
    """The samples of a file of any format that libsndfile reads, some seconds at a time."""
    soundfile = library("soundfile", "transcribe")
    if not file.read(1):
        raise InputError(f"{name} is empty: it has no bytes")
    file.seek(0)
    try:
        with soundfile.SoundFile(file) as sound:
            if sound.frames / sound.samplerate > _LONGEST:
                raise InputError(_too_long(name))
            reader = _Reader(name, sound.samplerate)
            for block in sound.blocks(_BLOCK * sound.samplerate, dtype="float32", always_2d=True):
                reader.read(block.mean(axis=1))
            return reader.end()
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless formats want to be told their rate
        reason = str(getattr(error, "error_string", error)).strip(" .")
        raise InputError(
            f"{name} is no audio that can be read ({reason}); WAV, FLAC, OGG and MP3 are, and {_CONVERT}"
        ) from None


def _resampled(given: Mapping[str, Any]) -> Recording:
    """Of an array of samples (samples,) or (channels, samples) with its `sampling_rate`, as data sets have it."""
    numpy = library("numpy", "transcribe")
    try:
        samples = numpy.asarray(given.get("array", given.get("raw")), dtype=numpy.float32)
        rate = int(given["sampling_rate"])
    except (TypeError, ValueError) as error:
        raise InputError(f"`array` and `sampling_rate` are no sound: {error}") from None
    if samples.ndim == 2:
        samples = samples.mean(axis=0)
    if samples.ndim != 1:
        raise InputError(f"an `array` of sound has one axis, or channels and samples, not {samples.ndim} axes")
    reader = _Reader("the sound", rate)
    reader.read(samples)
    return reader.end()


class _Reader:
    """Takes samples of one channel at any usual rate. Raises InputError for what nothing can be heard of."""

    def __init__(self, name: str, rate: int) -> None:
        low, high = _RATES
        if not low <= rate <= high:
            raise InputError(f"{name} has {rate:,} samples a second; {low:,} to {high:,} can be read: {_CONVERT}")
        self._name, self._rate = name, rate
        self._numpy = library("numpy", "transcribe")
        self._resampler = (
            None if rate == RATE else library("soxr", "transcribe").ResampleStream(rate, RATE, 1, dtype="float32")
        )
        self._parts: list[Any] = []
        self._seconds = 0.0

    def read(self, samples: Any) -> None:
        """Some more of them."""
        self._seconds += len(samples) / self._rate
        if self._seconds > _LONGEST:  # a header may say anything
            raise InputError(_too_long(self._name))
        self._take(samples, last=False)

    def end(self) -> Recording:
        """All of it."""
        if self._resampler is not None:
            self._take(self._numpy.zeros(0, dtype=self._numpy.float32), last=True)
        samples = self._numpy.concatenate([*self._parts, self._numpy.zeros(0, dtype=self._numpy.float32)])
        if self._seconds < _SHORTEST:
            length = f"{self._seconds:.3f} s long" if self._seconds else "without a single sample"
            raise InputError(f"{self._name} is too short: it is {length}, and {_SHORTEST} s is the least")
        if not math.isfinite(float(samples.sum(dtype=self._numpy.float64))):
            raise InputError(f"{self._name} has samples that are no numbers: it is damaged; {_CONVERT}")
        return Recording(samples)

    def _take(self, samples: Any, last: bool) -> None:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(samples, last=last)
        self._parts.append(samples)


def _too_long(name: str) -> str:
    return f"{name} is longer than {_LONGEST / 3600:.0f} hours: cut it into parts"
