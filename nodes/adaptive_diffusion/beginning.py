"""The image that a request brings to begin with."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from dynflow.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dynflow.request import Request

_SEND = 'send a content block {"type": "image", "base64": …, "mime_type": "image/png"} in the last user turn'


def beginning(given: Any, request: Request) -> Image:
    """The image of the option `image`, else that of the last user turn. Raises InputError.

    Given are bytes of a file, its path, a data URL, or content blocks. What stands in messages is never a path.
    """
    import PIL.Image

    if given is None:
        given = [message for message in request.messages if message.type == "human"][-1:]
    if isinstance(given, PIL.Image.Image):
        return given
    held = _held(given)
    try:
        image = PIL.Image.open(io.BytesIO(held))
        image.load()
    except PIL.UnidentifiedImageError as error:
        raise InputError("the image cannot be read, as it is in no known format: give a PNG or JPEG") from error
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"the image cannot be read ({error}): give a PNG or JPEG") from error
    return image


def _held(given: Any) -> bytes:
    """A file's bytes."""
    if isinstance(given, str) and not given.startswith("data:"):
        try:
            return Path(given).expanduser().read_bytes()
        except (OSError, ValueError, RuntimeError) as error:  # a path with a null byte, nobody's home
            raise InputError(f"the image cannot be read: {error}") from error
    if isinstance(given, str):
        return _of_url(given)
    if isinstance(given, bytes):
        return given
    blocks = [given] if isinstance(given, Mapping) else list(_blocks(given))
    if len(blocks) != 1:
        raise InputError(f"there are {len(blocks)} images to begin with, and one is needed: {_SEND}")
    [block] = blocks
    inner = block.get("image_url")
    url = inner.get("url") if isinstance(inner, Mapping) else block.get("url")
    if isinstance(text := block.get("base64", block.get("data")), str):
        return _of_base64(text)
    if isinstance(url, str):
        return _of_url(url)
    raise InputError(f"the image block has no data: {_SEND}")


def _blocks(given: Any) -> Iterator[Mapping[str, Any]]:
    """The image blocks of messages, a message, or content blocks."""
    if isinstance(given, BaseMessage):
        given = [] if isinstance(given.content, str) else given.content
    if not isinstance(given, Sequence):
        raise InputError(f"no image can be made of {type(given).__name__}: {_SEND}")
    for item in given:
        if isinstance(item, BaseMessage):
            yield from _blocks(item)
        elif isinstance(item, Mapping) and item.get("type") in ("image", "image_url"):
            yield item


def _of_url(url: str) -> bytes:
    head, comma, held = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise InputError(f"the image's address is not fetched; as a data URL it reads data:image/png;base64,…: {_SEND}")
    return _of_base64(held)


def _of_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"the image is not valid base64 ({error}): encode the file's bytes as they are") from None
