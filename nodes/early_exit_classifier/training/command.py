"""The command that makes an artefact, as its card tells it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dynflow.nodes.early_exit_classifier.training.recipe import Recipe

if TYPE_CHECKING:
    from dynflow.learning.labelled import Columns


def command_line(
    sources: Sequence[str],
    out: str,
    model: str,
    recipe: Recipe,
    *,
    revision: str | None,
    teacher: str | None,
    columns: Columns,
    names: Mapping[str, str],
    data_name: str | None,
) -> str:
    """`dynflow train early-exit` with whatever differs from its defaults, quoted for a shell."""
    words = ["dynflow", "train", "early-exit"]
    for source in sources:
        words += ["--data", source]
    words += ["--out", out, "--model", model]
    told = {
        "revision": revision,
        "teacher": teacher,
        "text-column": columns.text,
        "label-column": columns.label,
        "data-name": data_name,
    }
    for option, value in told.items():
        if value is not None:
            words += [f"--{option}", value]
    for label, name in names.items():
        words += ["--name", f"{label}={name}"]
    return shlex.join([*words, *_of_recipe(recipe)])


def _of_recipe(recipe: Recipe) -> Iterator[str]:
    usual = Recipe().as_dict()
    for field, value in recipe.as_dict().items():
        if value == usual[field]:
            continue
        yield f"--{field.replace('_', '-')}"
        if isinstance(value, tuple):
            yield ",".join(map(str, value))
        elif not isinstance(value, bool):
            yield str(value)
