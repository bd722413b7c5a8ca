"""The pipelines that come with dynflow, by name, and all others by the provider `diffusers`."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from dynflow.errors import ArtefactError, MissingDependency
from dynflow.models.diffusers import INDEX, find, load

if TYPE_CHECKING:
    from dynflow.models.diffusers import LoadedPipeline
    from dynflow.models.settings import ModelSettings

PREFIX = "embedded/"
SHIPPED = {"embedded/shapes": Path(__file__).parent / "shapes" / "artefact"}


def located(settings: ModelSettings | None, folder: Path | None) -> ModelSettings:
    """The entry with the folder of a shipped pipeline in place of its name; others as they are, looked for.

    Cheap. Raises ArtefactError or MissingModel where it names no pipeline; a hub id is taken at its word.
    """
    if settings is None:
        raise ArtefactError("there is no such entry of `models:`")
    if settings.provider != "diffusers":
        raise ArtefactError(f"its provider is {settings.provider}, not diffusers")
    for option, *_ in settings.references():
        raise ArtefactError(f"its `{option}` is a reference; write it out: a pipeline is loaded as it stands")
    if settings.model.startswith(PREFIX):
        if settings.model not in SHIPPED:
            near = difflib.get_close_matches(settings.model, SHIPPED, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else f": there is {', '.join(SHIPPED)}"
            raise ArtefactError(f"dynflow brings no pipeline {settings.model!r}{meant}")
        place = SHIPPED[settings.model]
        if not (place / INDEX).is_file():
            raise ArtefactError(f"this copy of dynflow lacks {settings.model}: scripts/train_shapes.py makes it")
        settings = settings.model_copy(update={"model": str(place)})
    find(settings, folder)
    return settings


def loaded(settings: ModelSettings, folder: Path | None) -> LoadedPipeline:
    """The pipeline, shared. Raises MissingDependency, MissingModel, ArtefactError."""
    place = find(settings, folder)
    if place is None or json.loads((place / INDEX).read_text(encoding="utf-8"))["_class_name"] != "ShapesPipeline":
        return load(settings, folder)
    try:
        from dynflow.nodes.adaptive_diffusion.shapes.pipeline import ShapesPipeline
    except ImportError as error:
        raise MissingDependency(error.name or "diffusers", 'pip install "dynflow[diffusers]"') from error
    return load(settings, folder, ShapesPipeline)


def doubt(settings: ModelSettings, prompt: str) -> str | None:
    """Why a shipped pipeline may draw something else than a prompt says; None where nothing is known."""
    if settings.model != "embedded/shapes":
        return None
    from dynflow.nodes.adaptive_diffusion.shapes.captions import OutsideWorld, parse

    try:
        parse(prompt)
    except OutsideWorld as error:
        return f"{settings.model} knows a small world of shapes, and may draw something else: {error}"
    return None
