"""Train an early-exit classifier on labelled texts: what `dynflow train early-exit` does."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dynflow.errors import InputError
from dynflow.learning.checkpoint import Checkpoint
from dynflow.learning.containment import Split, split_by_containment
from dynflow.learning.kept import Progress, code_digest
from dynflow.learning.labelled import Columns, Labelled, label_names, read_labelled
from dynflow.learning.out import try_out
from dynflow.nodes.early_exit_classifier import artefact
from dynflow.nodes.early_exit_classifier.architectures import architecture_of
from dynflow.nodes.early_exit_classifier.artefact import Base, Facts, row_hash
from dynflow.nodes.early_exit_classifier.base import find_base, read_base, tokenizer_digest, weights_digest
from dynflow.nodes.early_exit_classifier.heads import Heads, HeadsShape
from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
from dynflow.nodes.early_exit_classifier.reading import Reader, Tokens
from dynflow.nodes.early_exit_classifier.training import fitting, stages
from dynflow.nodes.early_exit_classifier.training.card import PICTURE, draw, render_card
from dynflow.nodes.early_exit_classifier.training.command import command_line
from dynflow.nodes.early_exit_classifier.training.deltas import deltas
from dynflow.nodes.early_exit_classifier.training.figures import KEPT, Figures, judge, recorded
from dynflow.nodes.early_exit_classifier.training.recipe import Recipe
from dynflow.nodes.early_exit_classifier.training.teacher import Teacher, find_teacher

if TYPE_CHECKING:
    from torch import Tensor

    from dynflow.nodes.early_exit_classifier.architectures.architecture import Architecture

MODEL = "embedded/all-minilm-l6-v2"
FEWEST_ROWS = 20
_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """What a training made: `rows` it learnt from, measures by name, and the artefact's size in bytes."""

    out: Path
    rows: int
    figures: Mapping[str, Mapping[str, float | None]]
    size: int


@dataclass(frozen=True)
class Data:
    """Rows, parted. `labels` are the names of the classes, which `truth` counts."""

    rows: list[Labelled]
    truth: list[int]
    labels: tuple[str, ...]
    split: Split

    def texts(self, indices: Sequence[int]) -> list[str]:
        return [self.rows[index].text for index in indices]

    def classes(self, indices: Sequence[int]) -> list[int]:
        return [self.truth[index] for index in indices]


def train(
    sources: Sequence[str | Path],
    out: Path,
    *,
    model: str = MODEL,
    revision: str | None = None,
    teacher: str | None = None,
    recipe: Recipe | None = None,
    columns: Columns | None = None,
    names: Mapping[str, str] | None = None,
    data_name: str | None = None,
    progress: Progress = lambda done, total, what: None,
) -> Report:
    """Train heads, and the encoder `model` under them, and write an artefact into the folder `out`.

    `sources` are what `read_labelled` reads; `names` says what its labels are to be called, and `data_name` what the
    card calls the data. `teacher` is a larger classifier to imitate, a folder or hub id. The same input gives the same
    artefact on the same machine. A run that was killed goes on where it was. Raises InputError for data that cannot be
    used, listing all bad rows, for a teacher of other labels, for a folder that cannot be written or holds something
    else and for a training that diverges, and MissingModel or ArtefactError for an encoder that cannot be used.
    """
    recipe = recipe or Recipe()
    data = read_data(sources, recipe, columns, names or {})
    place = find_base(model, revision)
    pretrained, tokenizer = read_base(place)
    # torch's fused attention is many times slower backwards, in half precision on a CPU
    pretrained.set_attn_implementation("eager")
    architecture = architecture_of(pretrained)
    recipe = dataclasses.replace(recipe, max_tokens=min(recipe.max_tokens, architecture.max_tokens))
    shape = _shape(recipe, architecture, len(data.labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        heads = Heads(shape)
    reader = Reader(tokenizer, recipe.max_tokens)
    tokens, held_out = _tokens(reader, data)
    base = Base(
        model=os.path.relpath(model, out) if place == Path(model) and not place.is_absolute() else model,
        sha256=weights_digest(place),
        architecture=str(architecture.config.model_type),
        revision=revision,
        tokenizer=tokenizer_digest(tokenizer),
    )
    trained = EarlyExitModel(architecture, heads, reader, data.labels)
    _refuse_others(out)
    try_out(out)
    larger = None if teacher is None else find_teacher(teacher)
    texts = data.texts(data.split.train)
    imitated = None if larger is None else larger.logits(texts, data.labels, out / ".training", progress)
    checkpoint = Checkpoint(out / ".training", _digest(base, larger, recipe, data))
    classes = data.classes(data.split.train)
    fitted = fitting.Fitting(
        trained, recipe, tokens, classes, checkpoint, progress, held_out=held_out, teacher=imitated
    )
    fitted.fit()

    shipped = architecture_of(read_base(place)[0])
    before, after = (dict(each.encoder.named_parameters()) for each in (shipped, architecture))
    changes = deltas(before, after, recipe.rank)
    artefact.apply_deltas(shipped.encoder, changes, "the trained model")
    logits = recorded(EarlyExitModel(shipped, heads, reader, data.labels), data.texts(data.split.held_out), progress)
    figures = judge(logits, data.classes(data.split.held_out), trained.layers, fitted.alone)
    sums = _sums(sources)
    command = command_line(
        list(sums),
        out.resolve().name,
        model,
        recipe,
        revision=revision,
        teacher=teacher,
        columns=columns or Columns(),
        names=names or {},
        data_name=data_name,
    )
    size = _write(out, base, larger, recipe, data, heads, changes, figures, sums, command, data_name)
    shutil.rmtree(out / ".training", ignore_errors=True)
    return Report(out, len(tokens), _told(figures), size)


def read_data(
    sources: Sequence[str | Path],
    recipe: Recipe,
    columns: Columns | None = None,
    names: Mapping[str, str] | None = None,
) -> Data:
    """The rows of all sources, parted as `train` parts them: for whoever judges on the rows held out."""
    rows = [row for source in sources for row in read_labelled(source, columns or Columns())]
    found = label_names(rows)
    if absent := set(names or {}) - set(found):
        raise InputError(f"no row has the label {', '.join(sorted(absent))}, which is to be named; there are {found}")
    where = ", ".join(map(str, sources))
    if len(rows) < FEWEST_ROWS:
        count = "1 row is" if len(rows) == 1 else f"{len(rows)} rows are"
        raise InputError(f"{where}: {count} too few to learn from; give at least {FEWEST_ROWS}")
    if len(found) < 2:
        raise InputError(f"{where}: every row has the label {found[0]!r}; give rows of two labels or more")
    labels = tuple((names or {}).get(name, name) for name in found)
    if len(set(labels)) < len(labels):
        raise InputError(f"two labels cannot have one name: {', '.join(labels)}")
    truth = [found.index(row.label) for row in rows]
    split = split_by_containment([row.text for row in rows], recipe.held_out or len(rows) // 10, recipe.seed)
    if missing := set(range(len(labels))) - {truth[index] for index in split.train}:
        counts = Counter(truth)
        lacking = ", ".join(labels[place] for place in sorted(missing)[:_SHOWN])
        more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
        alone = any(counts[place] < 2 for place in missing)
        mend = "each label needs two rows or more" if alone else "hold fewer rows out, or give more"
        raise InputError(f"{where}: no training row is left with the label {lacking}{more}: {mend}")
    return Data(rows, truth, labels, split)


def _shape(recipe: Recipe, architecture: Architecture, labels: int) -> HeadsShape:
    depth = architecture.depth
    exits = recipe.exits if recipe.exits is not None else tuple(range(depth + 1))
    if wrong := [layer for layer in exits if not 0 <= layer <= depth]:
        raise InputError(f"there is no exit after {wrong[0]} layers: the encoder has {depth}")
    layers = tuple(sorted({*exits, depth}))
    norm = architecture.pre_norm
    return HeadsShape(layers, architecture.width, labels, recipe.pooling, recipe.inner, norm, recipe.shared)


def _tokens(reader: Reader, data: Data) -> tuple[list[Tokens], list[Tokens]]:
    """Of the rows to train on and of those held out. Raises InputError that lists all that the encoder cannot read."""
    faults = []
    found: dict[int, Tokens] = {}
    for index, row in enumerate(data.rows):
        try:
            found[index] = reader.read(row.text)
        except InputError as error:
            faults.append(f"  {row.source}, line {row.line}, {row.text[:40]!r}: {error}")
    if faults:
        more = [f"  … and {len(faults) - _SHOWN:,} more"] if len(faults) > _SHOWN else []
        count = "1 row" if len(faults) == 1 else f"{len(faults):,} rows"
        raise InputError("\n".join([f"{count} cannot be read:", *faults[:_SHOWN], *more]))
    return [found[index] for index in data.split.train], [found[index] for index in data.split.held_out]


def _refuse_others(out: Path) -> None:
    """Raises InputError where a folder holds what is no early-exit model's, and would be overwritten."""
    if (out / artefact.DESCRIPTION).exists() or (out / ".training").is_dir():
        return
    names = ("README.md", PICTURE, artefact.HEADS, artefact.DELTAS, artefact.CRITERIA)
    if found := sorted(path.name for name in names for path in out.glob(name)):
        raise InputError(
            f"{out} holds something else, whose {', '.join(found)} would be overwritten: give another folder with --out"
        )


def _digest(base: Base, teacher: Teacher | None, recipe: Recipe, data: Data) -> str:
    """Changes with whatever decides the outcome of a training."""
    parts = [dataclasses.asdict(base), teacher and teacher.sha256, recipe.as_dict(), code_digest(fitting, stages)]
    rows = [[data.rows[index].text, data.truth[index]] for index in data.split.train]
    return hashlib.sha256(json.dumps([parts, rows]).encode()).hexdigest()


def _write(
    out: Path,
    base: Base,
    teacher: Teacher | None,
    recipe: Recipe,
    data: Data,
    heads: Heads,
    changes: Mapping[str, Tensor],
    figures: Figures,
    sums: Mapping[str, str],
    command: str,
    data_name: str | None,
) -> int:
    from safetensors.torch import save

    hashes = sorted({row_hash(text) for text in data.texts(data.split.train)})
    told = {artefact.HASHES: torch.tensor(hashes, dtype=torch.uint64)}
    files = {artefact.HEADS: save({**heads.state_dict(), **told})}
    if changes:
        files[artefact.DELTAS] = save(dict(changes))
    split = {side: len(rows) for side, rows in vars(data.split).items()}
    training = {
        "command": command,
        "teacher": None if teacher is None else {"model": teacher.model, "sha256": teacher.sha256},
        "recipe": recipe.as_dict(),
        "rows": split,
        "classes": label_names(data.rows),
        "data": dict(sums),
        "data_name": data_name,
        "accuracy": {
            str(layer): round(share, 4) for layer, share in zip(figures.layers, figures.accuracy, strict=True)
        },
        "alone": None if figures.alone is None else round(figures.alone, 4),
        "figures": _told(figures),
    }
    facts = Facts(
        base=base,
        labels=data.labels,
        depth=figures.layers[-1],
        heads=heads.shape.as_dict(),
        max_tokens=recipe.max_tokens,
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        training=training,
    )
    classes = data.classes(data.split.train)
    counts = {name: classes.count(place) for place, name in enumerate(data.labels)}
    sources = sums if teacher is None else {**sums, f"weights of {teacher.model}, the teacher": teacher.sha256}
    card = render_card(base, counts, recipe, figures, sources=sources, rows=split, command=command, data_name=data_name)
    texts = {"README.md": card, PICTURE: draw(figures), artefact.DESCRIPTION: facts.text()}
    files |= {name: text.encode() for name, text in texts.items()}  # what says that the artefact is whole comes last
    for left in (out / artefact.DELTAS, *out.glob(artefact.CRITERIA)):
        left.unlink(missing_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return sum(map(len, files.values()))


def _told(figures: Figures) -> dict[str, dict[str, float | None]]:
    """The exits' accuracy, and each criterion's mean layers where so much of the whole model's accuracy is kept."""
    exits = {f"after {layer}": round(share, 4) for layer, share in zip(figures.layers, figures.accuracy, strict=True)}
    told: dict[str, dict[str, Any]] = {"accuracy": {"rows": figures.rows, **exits}}
    for name in figures.curves:
        points = {kept: figures.cheapest(name, kept) for kept in KEPT}
        told[f"{name}, mean layers"] = {
            f"at {100 * kept:g} %": None if point is None else round(point.layers, 3) for kept, point in points.items()
        }
    return told


def _sums(sources: Sequence[str | Path]) -> dict[str, str]:
    """SHA-256 by the name of a file, or by its path where two have one name; a hub's data set has none."""
    paths = {str(source): Path(source).expanduser() for source in sources}
    names = Counter(path.name for path in paths.values())
    return {
        path.name if path.is_file() and names[path.name] == 1 else name: hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "hub"
        for name, path in paths.items()
    }
