"""A trained early-exit classifier on disk.

An artefact is a folder: `heads.safetensors` (the heads, and hashes of the texts they were trained on),
`deltas.safetensors` (where the encoder was tuned: what its weights change by), `artefact.json` (what they are, for
which encoder, and their checksums) and `README.md` (the model card). `criteria-….safetensors` holds what criteria have
learnt, where any were taught. The encoder itself is not in it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import threading
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynflow.errors import ArtefactError, MissingDependency
from dynflow.models.apart import apart
from dynflow.nodes.early_exit_classifier.criteria import Learnt, LearntCriterion, kind_of

if TYPE_CHECKING:
    import torch

    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
    from dynflow.nodes.early_exit_classifier.readout import Readout

FORMAT = 1
FOLDER = Path(__file__).parent / "artefacts"
PREFIX = "embedded/"
DESCRIPTION = "artefact.json"
HEADS = "heads.safetensors"
DELTAS = "deltas.safetensors"
CRITERIA = "criteria*.safetensors"
"""Its name tells what it holds, so that new and old lie side by side until `artefact.json` names the new one."""
HASHES = "training_hashes"
"""The tensor in `heads.safetensors`: uint64 [rows], `row_hash` of each training text; in that of the criteria: of
those that criteria alone learnt from."""
_SHOWN = 200
"""Characters of PyTorch's reason why weights do not fit."""


@dataclass(frozen=True)
class Base:
    """The encoder that an artefact was made for.

    `model` is `embedded/<name>`, a folder (a relative one counts from the artefact's), or a hub id with its `revision`;
    `sha256` is of its weights, as `weights_digest` tells it; `tokenizer` is as `tokenizer_digest` tells it, None where
    that is not known; `architecture` is its `config.model_type`.
    """

    model: str
    sha256: str
    architecture: str
    revision: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class Facts:
    """What `artefact.json` says.

    `labels` are in the order of the logits; `depth` is how many layers the encoder has; `heads` is a `HeadsShape` as a
    mapping; `max_tokens` is where texts are cut; `sha256` holds the checksum of each other file; `training` is for
    people: how it was trained, on what, and how good; `criteria` is what criteria have learnt, by name.
    """

    base: Base
    labels: tuple[str, ...]
    depth: int
    heads: Mapping[str, Any]
    max_tokens: int
    sha256: Mapping[str, str]
    training: Mapping[str, Any]
    criteria: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def criteria_file(self) -> str | None:
        """The file that holds what criteria have learnt."""
        return next((name for name in self.sha256 if fnmatch(name, CRITERIA)), None)

    def text(self) -> str:
        """As JSON; the same facts give the same text."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def of(cls, text: str) -> Facts:
        """What `text` gave. Raises ValueError, KeyError or TypeError where it is damaged."""
        facts = json.loads(text)
        facts["base"] = Base(**facts["base"])
        for name in ("heads", "sha256", "training", "criteria"):
            if not isinstance(facts.get(name, {}), dict):
                raise ValueError(f"`{name}` is no mapping")
        labels = facts["labels"]
        if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
            raise ValueError("`labels` is no list of names")
        found = cls(**{**facts, "labels": tuple(labels)})
        if found.format != FORMAT or HEADS not in found.sha256 or len(found.labels) < 2:
            raise ValueError("made by another version")
        if not all(isinstance(each, dict) for each in found.criteria.values()):
            raise ValueError("`criteria` holds no mapping for each")
        if found.criteria and found.criteria_file is None:
            raise ValueError("what criteria have learnt has no file")
        for name, least in (("depth", 1), ("max_tokens", 3)):  # two tokens of a text are special
            if type(number := getattr(found, name)) is not int or number < least:
                raise ValueError(f"`{name}` is a whole number of {least} or more, not {number!r}")
        exits = found.heads["layers"]
        if not isinstance(exits, list) or any(type(each) is not int or not 0 <= each <= found.depth for each in exits):
            raise ValueError(f"`heads.layers` are of 0 to {found.depth}, not {exits!r}")
        if not isinstance(found.base.model, str):
            raise ValueError("`base.model` is no name")
        return found


@dataclass(frozen=True)
class Described:
    """An artefact's folder and what its `artefact.json` says; `digest` is the SHA-256 of that, and so of all of it."""

    folder: Path
    facts: Facts
    digest: str


def shipped() -> tuple[str, ...]:
    """Names of the artefacts that come with dynflow."""
    return tuple(sorted(f"{PREFIX}{path.parent.name}" for path in FOLDER.glob(f"*/{DESCRIPTION}")))


def describe(name_or_path: str, folder: Path | None = None) -> Described:
    """A shipped artefact (`embedded/<name>`) or one in a folder, a relative path counted from `folder`.

    Cheap: reads JSON only. Raises ArtefactError for what is neither, or is damaged.
    """
    if name_or_path.startswith(PREFIX):
        place = FOLDER / name_or_path.removeprefix(PREFIX)
        if name_or_path not in shipped():
            near = difflib.get_close_matches(name_or_path, shipped(), n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else f": there are {', '.join(shipped()) or 'none'}"
            raise ArtefactError(f"dynflow brings no early-exit model {name_or_path!r}{meant}")
    else:
        place = (folder or Path()) / Path(name_or_path).expanduser()
    path = place / DESCRIPTION
    if not path.is_file():
        raise ArtefactError(
            f"there is no early-exit model in {place}: it has no {DESCRIPTION}; give a folder that "
            f"`dynflow train early-exit` has made, or one of {', '.join(shipped()) or 'the shipped ones'}"
        )
    try:
        text = path.read_text(encoding="utf-8")
        facts = Facts.of(text)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtefactError(
            f"{path} is damaged, or of another version of dynflow ({error!r}): restore it, or train again"
        ) from error
    return Described(place, facts, hashlib.sha256(text.encode()).hexdigest())


_models: weakref.WeakValueDictionary[str, EarlyExitModel] = weakref.WeakValueDictionary()
_loading = threading.Lock()


def load(described: Described) -> EarlyExitModel:
    """The model, loaded at most once while anybody holds it.

    Raises MissingDependency, MissingModel (its encoder is not on this machine), or ArtefactError: a file is damaged,
    the encoder is not the one that it was made for, or heads, labels and encoder do not fit each other.
    """
    return _models.get(described.digest) or apart(lambda: _load_once(described))


def _load_once(described: Described) -> EarlyExitModel:
    with _loading:
        model = _models.get(described.digest)
        if model is None:
            model = _models[described.digest] = read(described)
        return model


def read(described: Described) -> EarlyExitModel:
    """The same, read anew."""
    try:
        import safetensors.torch  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingDependency(error.name or "transformers", 'pip install "dynflow[transformers]"') from error
    from dynflow.nodes.early_exit_classifier.architectures import architecture_of
    from dynflow.nodes.early_exit_classifier.base import load_base
    from dynflow.nodes.early_exit_classifier.heads import Heads, HeadsShape
    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
    from dynflow.nodes.early_exit_classifier.reading import Reader

    folder, facts = described.folder, described.facts
    tensors = _tensors(folder, HEADS, facts)
    tensors.pop(HASHES, None)
    model, tokenizer = load_base(facts.base, folder)
    architecture = architecture_of(model)
    if (model.config.model_type, architecture.depth) != (facts.base.architecture, facts.depth):
        raise ArtefactError(
            f"{folder} was made for {facts.base.architecture} of {facts.depth} layers; {facts.base.model} is "
            f"{model.config.model_type} of {architecture.depth}: train it again"
        )
    if facts.max_tokens > architecture.max_tokens:
        raise ArtefactError(
            f"{folder / DESCRIPTION} cuts texts at {facts.max_tokens:,} tokens, and {facts.base.model} reads "
            f"{architecture.max_tokens:,}: restore it, or train again"
        )
    try:
        heads = Heads(HeadsShape.of(dict(facts.heads)))
        heads.load_state_dict(tensors)
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # PyTorch lists each tensor in a line of its own
        reason = reason if len(reason) <= _SHOWN else f"{reason[:_SHOWN]}…"
        raise ArtefactError(
            f"{folder / HEADS} does not fit {DESCRIPTION} ({reason}): restore it, or train again"
        ) from error
    if DELTAS not in facts.sha256 and (folder / DELTAS).exists():
        raise ArtefactError(f"{folder / DELTAS} is not in {DESCRIPTION}: restore that, or train again")
    if DELTAS in facts.sha256:
        apply_deltas(architecture.encoder, _tensors(folder, DELTAS, facts), str(folder / DELTAS))
    classifier = EarlyExitModel(architecture, heads, Reader(tokenizer, facts.max_tokens), facts.labels)
    if facts.criteria:
        teach(classifier, learnt_criteria(described))
    return classifier


def learnt_criteria(described: Described) -> dict[str, Learnt]:
    """What criteria have learnt, by name. Raises ArtefactError for a damaged file."""
    facts = described.facts
    tensors = _tensors(described.folder, facts.criteria_file, facts) if facts.criteria and facts.criteria_file else {}
    found = {name: Learnt(each, {}) for name, each in facts.criteria.items()}
    for key, value in tensors.items():
        name, _, own = key.partition(".")
        if name in found:
            found[name].tensors[own] = value
    return found


def teach(model: EarlyExitModel, learnt: Mapping[str, Learnt]) -> None:
    """Give a model what criteria have learnt; one that is not installed here is passed over.

    Raises ArtefactError for what none can have learnt, or for another model.
    """
    for name, each in learnt.items():
        try:
            kind = kind_of(name)
        except ValueError:
            continue
        try:
            if not issubclass(kind, LearntCriterion):
                raise ValueError("it does not learn")
            kind(0.0, each.facts)
            readout = kind.readout(each)
            if readout is not None:
                _try_out(readout, model)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:_SHOWN]
            raise ArtefactError(f"what {name} has learnt does not fit the model ({reason}): teach it again") from error
        model.learnt[name] = each.facts
        if readout is not None:
            model.readouts[name] = readout


def _try_out(readout: Readout, model: EarlyExitModel) -> None:
    """Raises RuntimeError, KeyError or ValueError for one that was made for other exits, widths or labels."""
    import torch

    memory = None
    for layer in model.layers[:-1]:
        with torch.inference_mode():
            zeros = torch.zeros(1, model.architecture.width), torch.zeros(1, len(model.labels))
            logits, memory = readout(layer, *zeros, memory)
        if logits.shape != (1, len(model.labels)):
            raise ValueError(f"it tells {logits.shape[-1]} labels apart")


def training_hashes(described: Described) -> frozenset[int]:
    """`row_hash` of every text that it was trained on, its criteria too."""
    taught = described.facts.criteria_file if described.facts.criteria else None
    files = [HEADS, *([taught] if taught else [])]
    found = [_tensors(described.folder, file, described.facts).get(HASHES) for file in files]
    return frozenset(number for each in found if each is not None for number in each.numpy().astype("uint64").tolist())


def row_hash(text: str) -> int:
    """64 bits that tell a training text again, whatever its white space or case."""
    return int.from_bytes(hashlib.sha256(" ".join(text.split()).casefold().encode()).digest()[:8], "big")


def apply_deltas(encoder: torch.nn.Module, deltas: Mapping[str, torch.Tensor], told: str) -> None:
    """Add to the encoder's weights what training changed them by.

    `<name>.delta` is added to the encoder's parameter `<name>`; where the change was kept in a low rank, `<name>.up`
    (out, rank) times `<name>.down` (rank, in) is. Raises ArtefactError where one does not fit.
    """
    import torch

    parameters = dict(encoder.named_parameters())
    with torch.no_grad():
        for key, value in deltas.items():
            name, _, kind = key.rpartition(".")
            if kind == "down":
                continue
            target = parameters.get(name)
            if kind == "up" and f"{name}.down" in deltas:
                value = value.to(torch.float32) @ deltas[f"{name}.down"].to(torch.float32)
            if target is None or kind not in ("up", "delta") or target.shape != value.shape:
                raise ArtefactError(f"{told} was made for another model: {key} does not fit; train it again")
            target.add_(value.to(target.dtype))


def _tensors(folder: Path, file: str, facts: Facts) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / file
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != facts.sha256[file]:
            raise ArtefactError(f"{path} is damaged ({DESCRIPTION} has another SHA-256): restore it, or train again")
        return dict(load(data))
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): restore it, or train again") from error
