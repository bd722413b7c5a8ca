"""Image pipelines that Hugging Face diffusers runs in this process (packages `diffusers`, `torch`).

Loading only: how a pipeline is run is the business of the node that draws with it.
"""

from __future__ import annotations

import json
import threading
import warnings
import weakref
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynflow.errors import ArtefactError, MissingDependency, MissingModel
from dynflow.models.apart import apart
from dynflow.models.hub import must_fetch
from dynflow.models.libraries import in_short, library
from dynflow.models.settings import ModelSettings

INDEX = "model_index.json"
"""Characters of a library's reason why a pipeline does not load."""


class LoadedPipeline:
    """A pipeline, shared by all that name it; `turn` is held by whoever draws with it."""

    def __init__(self, name: str, pipeline: Any) -> None:
        self.name = name
        self.pipeline = pipeline
        self.turn = threading.Lock()


def find(settings: ModelSettings, base: Path | None = None) -> Path | None:
    """The local folder that `model:` names, a relative one counted from `base`; None: it is a name on the hub.

    Cheap: nothing is loaded. Raises MissingModel or ArtefactError for a folder or file that is no pipeline.
    """
    place = (base or Path()) / Path(settings.model).expanduser()
    if not place.exists():
        if settings.model.startswith((".", "/", "~")):
            raise MissingModel(f"there is no folder {place}; give that of a diffusers pipeline, or a hub id")
        return None
    if not (place / INDEX).is_file():
        raise MissingModel(
            f"{place} is no diffusers pipeline: it has no {INDEX}; give the folder that `save_pretrained` wrote"
        )
    try:
        index = json.loads((place / INDEX).read_text(encoding="utf-8"))
        named = isinstance(index["_class_name"], str)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(f"{place / INDEX} is damaged ({error!r}): restore it") from error
    if not named:
        raise ArtefactError(f"{place / INDEX} names no pipeline class: restore it")
    return place


_loaded: weakref.WeakValueDictionary[Hashable, LoadedPipeline] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def load(settings: ModelSettings, base: Path | None = None, cls: type[Any] | None = None) -> LoadedPipeline:
    """The pipeline of an entry of `models:`, loaded at most once while anybody holds it.

    `cls` is its class where diffusers does not know it by name. Weights are read as safetensors only, and no code from
    a model repository is run. Raises MissingDependency, MissingModel, ArtefactError.
    """
    folder = find(settings, base)
    source = str(folder.resolve() if folder else settings.model)
    key = (source, settings.revision, settings.dtype, settings.device, settings.offload, cls)
    return _loaded.get(key) or apart(lambda: _load_once(key, settings, source, folder is None, cls))


def _load_once(
    key: Hashable, settings: ModelSettings, source: str, remote: bool, cls: type[Any] | None
) -> LoadedPipeline:
    with _loading:
        found = _loaded.get(key)
        if found is None:
            pipeline = _placed(_read(settings, source, remote, cls), settings)
            found = _loaded[key] = LoadedPipeline(settings.model, pipeline)
        return found


def _read(settings: ModelSettings, source: str, remote: bool, cls: type[Any] | None) -> Any:
    torch, diffusers = library("torch", "diffusers"), library("diffusers", "diffusers")
    revision = settings.revision or "main"
    where = {"revision": revision, "local_files_only": not must_fetch(source, revision, INDEX)} if remote else {}
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            return (cls or diffusers.DiffusionPipeline).from_pretrained(
                source, torch_dtype=getattr(torch, settings.dtype or "float32"), use_safetensors=True, **where
            )
    except ImportError as error:
        raise MissingDependency(
            f"a package that {settings.model} needs ({in_short(error)})", 'pip install "dynflow[diffusers]"'
        ) from error
    except OSError as error:
        kind = MissingModel if remote else ArtefactError
        raise kind(f"diffusers finds no whole pipeline in {settings.model}: {in_short(error)}") from error
    except Exception as error:  # a damaged file raises whatever the library that reads it likes
        raise ArtefactError(f"diffusers cannot load {settings.model}: {in_short(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers without its progress bar, which would stand among what a command prints."""
    from diffusers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _placed(pipeline: Any, settings: ModelSettings) -> Any:
    """The pipeline on its device. Raises ArtefactError for a device that is not there."""
    torch = library("torch", "diffusers")
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if settings.offload == "model":
            pipeline.enable_model_cpu_offload(device=device)
        elif settings.offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)
        else:
            pipeline = pipeline.to(device)
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        reason = f"{settings.model} cannot be put on the device {device!r}: {in_short(error)}"
        raise ArtefactError(f"{reason}; set its `device`, `dtype` or `offload` to what this machine has") from error
    return pipeline
