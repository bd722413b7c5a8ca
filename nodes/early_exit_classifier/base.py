"""The encoder under the heads: found, compared with the one that they were made for, and loaded."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError, MissingModel
from dynflow.hashes import file_hash
from dynflow.models.embedded import PREFIX, locate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dynflow.nodes.early_exit_classifier.artefact import Base

_PROBES = ("A film isn't WORTH it: 3.50", "déjà vu, naïve Ärger", "хорошо, 電影!", "tab\tand  space\n", "🙂")
"""Tokenizers differ in how they treat case, accents, white space, signs and scripts."""
_PROBED_WORDS = 100


def load_base(base: Base, folder: Path | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Encoder and tokenizer, in float32 on the CPU. Raises MissingModel, or ArtefactError for those of another."""
    place = find_base(base.model, base.revision, folder)
    found = weights_digest(place)
    if found != base.sha256:
        raise ArtefactError(
            f"the heads were made for another model than {place}: the SHA-256 of its weights is {found[:12]}…, not "
            f"{base.sha256[:12]}…; get the right one, or train again"
        )
    model, tokenizer = read_base(place)
    if base.tokenizer is not None and tokenizer_digest(tokenizer) != base.tokenizer:
        raise ArtefactError(
            f"the heads were made for another tokenizer than that in {place}, which makes other tokens of a text; get "
            "the right one, or train again"
        )
    return model, tokenizer


def find_base(model: str, revision: str | None = None, folder: Path | None = None) -> Path:
    """The folder with the model's files: `embedded/<name>`, a folder counted from `folder`, or a hub id.

    Raises MissingModel where it is not on this machine and cannot be fetched.
    """
    if model.startswith(PREFIX):
        return locate(model)
    place = (folder or Path()) / Path(model).expanduser()
    if place.is_dir():
        return place
    import huggingface_hub

    try:
        return Path(
            huggingface_hub.snapshot_download(
                model, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]
            )
        )
    except Exception as error:  # offline, unknown, gated, misspelt: the hub has an error for each, and so has httpx
        reason = str(error).strip().partition("\n")[0]
        raise MissingModel(
            f"no model {model!r}: there is no such folder, and the hub does not give it ({reason}); give a local "
            f"folder, embedded/<name>, or the name of a model on the hub while online"
        ) from error


def weights_digest(place: Path) -> str:
    """SHA-256 of a model's weights: of its one safetensors file, or of the checksums of several, in their names' order.

    Raises MissingModel where there is none.
    """
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise MissingModel(f"{place} holds no model: it has no .safetensors file")
    digests = [file_hash(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 that tells a tokenizer by what it does, however its files are written: its words, and how it reads some
    texts, capitals of its own words among them."""
    words = sorted(tokenizer.get_vocab().items())
    texts = [*_PROBES, *(word.upper() for word, _ in words[:: 1 + len(words) // _PROBED_WORDS])]
    told = [words, [tokenizer(text)["input_ids"] for text in texts]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def read_base(place: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder; with its classification head, where it has one. Raises ArtefactError."""
    import torch
    import transformers

    try:
        with warnings.catch_warnings(), _no_bars():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.from_pretrained(place)
            names = getattr(config, "architectures", None) or [""]
            kind: Any = transformers.AutoModel
            if names[0].endswith("ForSequenceClassification"):
                kind = transformers.AutoModelForSequenceClassification
            model = kind.from_pretrained(place, dtype=torch.float32, use_safetensors=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ArtefactError(f"transformers cannot load {place}: {error}") from error
    return model.eval(), tokenizer


@contextmanager
def _no_bars() -> Iterator[None]:
    """transformers shows a progress bar for what takes a moment, also in a log."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
