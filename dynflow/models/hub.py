"""Whether the model hub has a model, asked once and briefly."""

from __future__ import annotations

import importlib
import logging

from dynflow.errors import MissingDependency, MissingModel

_SECONDS = 10.0  # how long the hub may take to say whether it has a model


def must_fetch(name: str, revision: str, file: str, embedded: bool = False) -> bool:
    """Whether a model's files come from the hub: False where its cache on this machine holds `file` of them.

    `embedded`: there are models of this kind that dynflow brings, which the error then names too.

    Asked by ourselves, for the libraries try for a minute, and say so on the terminal. Raises MissingModel where
    neither the cache nor the hub has it, MissingDependency without `huggingface_hub`.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise MissingDependency("huggingface_hub", "pip install huggingface_hub") from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if isinstance(hub.try_to_load_from_cache(name, file, revision=revision), str):
            return False
        hub.HfApi().model_info(name, revision=revision, timeout=_SECONDS)
    except Exception as error:  # offline, unknown, gated, misspelt: the hub has an error for each, and so has httpx
        reason = str(error).strip().partition("\n")[0]
        raise MissingModel(
            f"no model {name!r}: there is no such folder, the hub's cache does not hold it, and the hub cannot be "
            f"asked ({reason}); give a local folder, {'embedded/<name>, ' if embedded else ''}or the name of a model "
            "on the hub while online"
        ) from error
    return True
