"""Keeps GGUF models as transformers wants them: widened once, then read as safetensors in a second."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynflow.hashes import file_hash
from dynflow.models.embedded import cache_folder

_logger = logging.getLogger(__name__)
_MANIFEST = "manifest.json"
Load = Callable[[dict[str, Any]], tuple[Any, Any]]
"""Tokenizer and model from transformers' arguments."""


def load_kept(file: Path, load: Load, dtype: str = "float32") -> tuple[Any, Any]:
    """Tokenizer and model of a GGUF file. The first time they are kept in the cache folder, under the file's SHA-256
    and `dtype`, which is what `load` widens to.

    What is kept is checked against its own hashes, and made anew where it is damaged. A cache that cannot be written
    costs time, nothing else.
    """
    folder = cache_folder() / "dequantised" / f"{file_hash(file)}-{dtype}"
    if _intact(folder):
        try:
            return load({"pretrained_model_name_or_path": str(folder)})
        except Exception as error:  # another version of transformers made it, say; the file itself is still there
            _logger.warning("what was kept of %s cannot be read, it is made anew: %s", file.name, error)
    loaded = load({"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name})
    try:
        _keep(*loaded, folder)
    except OSError as error:
        _logger.warning("cannot keep %s for the next time: %s", file.name, error)
    return loaded


def _keep(tokenizer: Any, model: Any, folder: Path) -> None:
    """Write all to a folder beside, which then takes its place at once: nobody ever sees half of it."""
    from safetensors.torch import save_model

    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        config = type(model.config).from_dict(
            {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
        )
        config.save_pretrained(made)
        model.generation_config.save_pretrained(made)
        tokenizer.save_pretrained(made)
        # Not the model's own `save_pretrained`, which takes a widened model for a quantised one and refuses.
        save_model(model, str(made / "model.safetensors"), metadata={"format": "pt"})
        hashes = {path.name: file_hash(path) for path in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps(hashes), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # a damaged one; a rename replaces no folder that holds something
        os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _intact(folder: Path) -> bool:
    try:
        hashes: dict[str, str] = json.loads((folder / _MANIFEST).read_text("utf-8"))
        return all(file_hash(folder / name) == value for name, value in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False
