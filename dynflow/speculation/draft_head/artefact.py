"""A trained draft head on disk.

An artefact is a folder: `draft_head.safetensors` (the network, in half precision, and the draft vocabulary),
`draft_head.json` (its shape, which model it drafts for, and the checksum) and `README.md` (the model card). The model
itself is not in it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError

if TYPE_CHECKING:
    from dynflow.speculation.draft_head.drafter import LoadedHead
    from dynflow.speculation.draft_head.network import HeadNetwork

FORMAT = 1
FOLDER = Path(__file__).parent / "artefacts"
PREFIX = "embedded/"
DESCRIPTION = "draft_head.json"
TENSORS = "draft_head.safetensors"
_VOCABULARY = "vocabulary"
_SAMPLES = 64
"""Weights of each matrix that a model is known by."""


@dataclass(frozen=True)
class Facts:
    """What `draft_head.json` says.

    `target` names the model that it drafts for, `target_sha256` is `fingerprint` of that; `width` and `inner` are
    `HeadNetwork`'s, `sha256` is of the tensors; `training` is for people: how it was trained, and how good it is.
    """

    target: str
    target_sha256: str
    width: int
    inner: int
    sha256: str
    training: Mapping[str, Any]
    format: int = FORMAT

    @classmethod
    def of(cls, text: str) -> Facts:
        """Raises ValueError or TypeError where it is damaged."""
        facts = cls(**json.loads(text))
        if facts.format != FORMAT:
            raise ValueError("made by another version")
        if [size for size in (facts.width, facts.inner) if type(size) is not int or size < 1]:
            raise ValueError("its sizes are no numbers")
        return facts


def shipped() -> tuple[str, ...]:
    """Names of the heads that come with dynflow."""
    return tuple(sorted(f"{PREFIX}{path.parent.name}" for path in FOLDER.glob(f"*/{DESCRIPTION}")))


def describe(name_or_path: str, base: Path | None = None) -> tuple[Path, Facts]:
    """Folder and facts of a head: a shipped one (`embedded/<name>`), or one in a folder, counted from `base`.

    Cheap: reads JSON only. Raises ArtefactError for what is neither, or is damaged.
    """
    folder = (base or Path()) / Path(name_or_path).expanduser()
    if name_or_path.startswith(PREFIX):
        folder = FOLDER / name_or_path.removeprefix(PREFIX)
        if name_or_path not in shipped():
            near = difflib.get_close_matches(name_or_path, shipped(), n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else f": there are {', '.join(shipped()) or 'none'}"
            raise ArtefactError(f"dynflow brings no draft head {name_or_path!r}{meant}")
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ArtefactError(
            f"there is no draft head in {folder}: it has no {DESCRIPTION}; give a folder that `dynflow train draft` "
            "has made"
        )
    try:
        return folder, Facts.of(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ArtefactError(
            f"{path} is damaged, or of another version of dynflow ({error!r}): restore it, or train again"
        ) from error


def load(name_or_path: str, target: Any, base: Path | None = None) -> LoadedHead:
    """A head beside `target`, a loaded causal language model of transformers, in its numbers.

    Raises ArtefactError where there is none, where it is damaged, and where it was made for another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    from dynflow.speculation.draft_head.drafter import LoadedHead
    from dynflow.speculation.draft_head.last_states import LastStates
    from dynflow.speculation.draft_head.network import HeadNetwork, TargetWeights

    folder, facts = describe(name_or_path, base)
    if facts.target_sha256 != fingerprint(target):
        raise ArtefactError(
            f"the draft head {name_or_path} was made for {facts.target}, and this model has other weights: "
            "train one for it with `dynflow train draft`"
        )
    try:
        data = (folder / TENSORS).read_bytes()
        if hashlib.sha256(data).hexdigest() != facts.sha256:
            raise ValueError(f"{DESCRIPTION} has another SHA-256")
        tensors = tensors_of(data)
        vocabulary = tensors.pop(_VOCABULARY).long()
        network = HeadNetwork(facts.width, facts.inner)
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ArtefactError(f"{folder / TENSORS} is damaged ({error}): restore it, or train again") from error
    network.to(target.device, target.dtype).eval()
    return LoadedHead(network, TargetWeights(target, vocabulary), LastStates(target))


def write(folder: Path, network: HeadNetwork, vocabulary: Any, texts: Mapping[str, str], **facts: Any) -> int:
    """Write an artefact, and `texts` by file name beside it; its size in bytes. `facts`: of `Facts`, those not told by
    the network. The same content gives the same bytes."""
    import torch
    from safetensors.torch import save

    tensors = {name: weight.detach().half().contiguous().cpu() for name, weight in network.state_dict().items()}
    data = save({**tensors, _VOCABULARY: vocabulary.to(torch.int32).cpu()})
    told = Facts(width=network.width, inner=network.inner, sha256=hashlib.sha256(data).hexdigest(), **facts)
    described = json.dumps(asdict(told), indent=2, allow_nan=False) + "\n"
    files = {TENSORS: data, **{name: text.encode() for name, text in texts.items()}, DESCRIPTION: described.encode()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():  # what says that the artefact is whole comes last
        (folder / name).write_bytes(content)
    return sum(map(len, files.values()))


def fingerprint(model: Any) -> str:
    """SHA-256 of some of each weight's numbers, as bfloat16 has them: the same for a model loaded in float32."""
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        flat = weight.detach().reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, min(_SAMPLES, flat.numel()), dtype=torch.float64).long()
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(flat[places.to(flat.device)].cpu().to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return digest.hexdigest()
