"""Takes literal keys out of a graph's text, so that copies of it can travel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import yaml
from pydantic import SecretStr

from dynflow.models.settings import ModelSettings

_SECRET_OPTIONS = ("api_key", "api_base")
_SHORTEST = 8
"""Characters; a shorter key, such as the `none` of a server that wants one, may stand elsewhere by chance."""


def literal_secrets(models: Mapping[str, ModelSettings]) -> dict[str, str]:
    """Keys that stand in a graph's text, each with the environment variable that takes its place in copies."""
    found: dict[str, str] = {}
    for model, settings in models.items():
        for option in _SECRET_OPTIONS:
            value = getattr(settings, option)
            if isinstance(value, SecretStr):
                found.setdefault(value.get_secret_value(), f"{model}_{option}".upper())
    return found


def sealed(text: str, secrets: Mapping[str, str]) -> str:
    """The text with `${env:MODEL_API_KEY}` for each literal key.

    A flow made of it loads; a call of the model raises `MissingEnvironment`, which names the variable to set.
    """
    for start, end, value, anchor in reversed(list(_scalars(text, secrets))):
        line_end = "\n" if text[start:end].endswith("\n") else ""
        text = f'{text[:start]}{anchor}"${{env:{secrets[value]}}}"{line_end}{text[end:]}'
    for value in secrets:  # in a comment, say
        if len(value) >= _SHORTEST:
            text = text.replace(value, "**********")
    return text


def _scalars(text: str, secrets: Mapping[str, str]) -> Iterator[tuple[int, int, str, str]]:
    """Start, end, value and anchor of the scalars that are keys: values of the secret options, or anchored for them."""
    before = ""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent):
            anchor = f"&{event.anchor} " if event.anchor else ""
            if event.value in secrets and (before in _SECRET_OPTIONS or anchor):
                assert event.start_mark is not None
                assert event.end_mark is not None
                yield event.start_mark.index, event.end_mark.index, event.value, anchor
            before = event.value
