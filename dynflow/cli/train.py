"""`dynflow train`: makes the artefacts that nodes read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import click

from dynflow.cli.progress import progress_bars
from dynflow.cli.train_draft import draft
from dynflow.cli.train_steps import steps

_DEFAULT_DATA = Path("../shared/data")
_KINDS = ("embedding", "surface", "similarity_weighted", "matrix_factorization", "encoder", "causal_lm")
_FEWEST_SHOWN = 20
"""Rows of a source whose figures are printed."""


@click.group("train")
def command() -> None:
    """Train what nodes predict with.

    \b
    Examples:
      dynflow train difficulty --data outcomes.jsonl --out my_difficulty
      dynflow train check --data outcomes.jsonl --out my_check
      dynflow train early-exit --data texts.csv --out my_classifier
      dynflow train exit-criteria --data texts.csv --to my_classifier
      dynflow train steps --captions 1000 --out my_steps
      dynflow train draft embedded/smollm2-135m-instruct --out my_draft
    """


command.add_command(steps)
command.add_command(draft)


@command.command("difficulty")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help=f"Outcome file, or a folder of *.jsonl; may be given several times. Default: {_DEFAULT_DATA}, if there.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the artefact.")
@click.option(
    "--kind",
    type=click.Choice(_KINDS),
    default=_KINDS[0],
    show_default=True,
    help="How to tell: docs/cli.md says what each reads and needs.",
)
@click.option(
    "--encoder", metavar="MODEL", help="Of --kind encoder: that of this early-exit model, embedded/<name> or a folder."
)
@click.option("--weak", default="weak", show_default=True, help="The cheap route, as `outcomes` names it.")
@click.option("--strong", default="strong", show_default=True, help="The expensive route.")
@click.option("--between", multiple=True, metavar="NAME", help="A further route whose quality is to be predicted.")
@click.option("--leave-out", multiple=True, metavar="TOPIC", help="Topic (first two parts of an id) not to learn from.")
@click.option("--conversation", is_flag=True, help="Read the whole of `messages`, not the last user turn alone.")
@click.option("--both-forms", is_flag=True, help="Learn from each row also without its lettered choices, as chats ask.")
def difficulty(
    data: tuple[Path, ...],
    out: Path,
    kind: str,
    encoder: str | None,
    weak: str,
    strong: str,
    between: tuple[str, ...],
    leave_out: tuple[str, ...],
    conversation: bool,
    both_forms: bool,
) -> None:
    """Learn from outcome files how much a request needs the strong model.

    An outcome file is JSON lines: {"id", "prompt", "outcomes": {"weak": {"quality": 0…1}, "strong": {"quality": 0…1}}}.
    A run that was stopped goes on where it was when started again with the same arguments.

    \b
    Examples:
      dynflow train difficulty --data outcomes.jsonl --out my_difficulty
      dynflow train difficulty --data logs/ --out my_difficulty --kind surface --weak small --strong large
      dynflow train difficulty --data logs/ --out my_difficulty --kind encoder --encoder embedded/sst2-minilm
    """
    from dynflow.errors import MissingDependency

    files = outcome_files(data or ((_DEFAULT_DATA,) if _DEFAULT_DATA.is_dir() else ()))
    try:
        from dynflow.nodes.difficulty_classifier.train import train
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[quickstart]"') from error
    with progress_bars() as progress:
        report = train(
            files,
            kind,
            out,
            weak=weak,
            strong=strong,
            between=between,
            leave_out=leave_out,
            conversation=conversation,
            both_forms=both_forms,
            encoder=encoder,
            progress=progress,
        )
    _tell(report)


@command.command("check")
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Outcome file with the weak route's responses, or a folder of *.jsonl; may be given several times.",
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the artefact.")
@click.option(
    "--kind",
    type=click.Choice(["embedding", "surface"]),
    default="embedding",
    show_default=True,
    help="Features of the answer with sentence embeddings, or these features alone.",
)
@click.option("--weak", default="weak", show_default=True, help="The route whose answers are checked.")
@click.option("--strong", default="strong", show_default=True, help="The route that a doubted answer goes on to.")
def check(data: tuple[Path, ...], out: Path, kind: str, weak: str, strong: str) -> None:
    """Learn from graded answers how to tell a good one, and where the strong model would do better.

    Each row of an outcome file has the answer: {"id", "prompt", "outcomes": {"weak": {"quality": 0…1, "response"},
    "strong": {"quality": 0…1}}}. Of the weak outcome's "ports", confidence, agreement and judge are read where given.
    A run that was stopped goes on where it was when started again with the same arguments.

    \b
    Examples:
      dynflow train check --data outcomes.jsonl --out my_check
      dynflow train check --data logs/ --out my_check --kind surface --weak draft --strong cloud
    """
    from dynflow.errors import MissingDependency

    files = outcome_files(data)
    try:
        from dynflow.nodes.answer_check.train import train
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[quickstart]"') from error
    with progress_bars() as progress:
        report = train(files, kind, out, weak=weak, strong=strong, progress=progress)
    _tell(report)


@command.command("early-exit")
@click.option(
    "--data", multiple=True, required=True, help="TSV, CSV or JSONL file, or owner/name on a hub; repeatable."
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the artefact.")
@click.option("--model", default="embedded/all-minilm-l6-v2", show_default=True, help="Encoder: a folder, or a hub id.")
@click.option("--revision", help="Of a model on a hub: its commit.")
@click.option("--teacher", metavar="MODEL", help="A larger classifier to imitate: a folder, or a hub id.")
@click.option("--text-column", help="Found by its name, if not given.")
@click.option("--label-column", help="The same.")
@click.option("--name", "names", multiple=True, metavar="LABEL=NAME", help="What a label is to be called.")
@click.option("--data-name", help="What the card calls the data.")
@click.option("--held-out", type=click.IntRange(min=1), help="Rows to judge by. Default: a tenth.")
@click.option(
    "--method",
    type=click.Choice(["joint", "two-stage", "alternating"]),
    default="joint",
    show_default=True,
    help="All exits with the encoder; the encoder, then the exits; or in turns.",
)
@click.option(
    "--alone-epochs", type=click.IntRange(min=0), default=1, show_default=True, help="For the last exit only."
)
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True, help="Of the method.")
@click.option(
    "--distil",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Of the loss: the teacher, or the last exit.",
)
@click.option("--temperature", type=float, default=2.0, show_default=True, help="At which exits learn from these.")
@click.option(
    "--weighting",
    type=click.Choice(["equal", "early", "late"]),
    default="equal",
    show_default=True,
    help="Which exits count most.",
)
@click.option("--exits", metavar="LAYERS", help="After which layers, such as 0,1,2,4; the last is added. Default: all.")
@click.option("--pooling", type=click.Choice(["mean", "first"]), default="mean", show_default=True, help="Of tokens.")
@click.option(
    "--inner", type=click.IntRange(min=0), default=0, show_default=True, help="Width of a head's inner layer."
)
@click.option("--shared", is_flag=True, help="One head for all exits.")
@click.option("--balanced", is_flag=True, help="Classes count alike, however rare.")
@click.option("--batch-rows", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--rate", type=float, default=1e-4, show_default=True, help="Learning rate of the encoder.")
@click.option("--heads-rate", type=float, default=1e-3, show_default=True, help="Of the heads.")
@click.option("--decay", type=float, default=0.01, show_default=True, help="Of weights, by the optimiser.")
@click.option("--max-tokens", type=click.IntRange(min=3), default=128, show_default=True, help="Where texts are cut.")
@click.option("--rank", type=click.IntRange(min=0), default=64, show_default=True, help="Of kept changes; 0: whole.")
@click.option("--seed", type=int, default=0, show_default=True)
def early_exit(
    data: tuple[str, ...],
    out: Path,
    model: str,
    revision: str | None,
    teacher: str | None,
    text_column: str | None,
    label_column: str | None,
    names: tuple[str, ...],
    data_name: str | None,
    exits: str | None,
    **recipe: Any,
) -> None:
    """Learn from labelled texts to classify, leaving the encoder as soon as one is sure.

    Columns such as `text` or `sentence`, and `label`, are found by their names; TSV and CSV begin with a line of them.
    The artefact's card has the whole curve of accuracy against layers, on rows that are held out so that no row
    contains one of the other side. A run that was stopped goes on where it was when started again with the same
    arguments.

    \b
    Examples:
      dynflow train early-exit --data reviews.csv --out my_classifier
      dynflow train early-exit --data sst2.tsv --name 0=negative --name 1=positive --held-out 12500 --out sst2
    """
    from dynflow.errors import MissingDependency
    from dynflow.learning.labelled import Columns

    try:
        from dynflow.nodes.early_exit_classifier.train import train
        from dynflow.nodes.early_exit_classifier.training.figures import FEW_ROWS
        from dynflow.nodes.early_exit_classifier.training.recipe import Recipe
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[transformers]"') from error
    with progress_bars() as progress:
        report = train(
            data,
            out,
            model=model,
            revision=revision,
            teacher=teacher,
            recipe=Recipe(exits=_layers(exits), **recipe),
            columns=Columns(text_column, label_column),
            names=dict(named(name) for name in names),
            data_name=data_name,
            progress=progress,
        )
    click.echo(f"trained on {report.rows:,} rows; wrote {out}, {report.size / 1e6:.1f} MB")
    _tell_figures(report.figures)
    if (judged := int(report.figures["accuracy"]["rows"] or 0)) < FEW_ROWS:
        click.echo(f"  these rest on {judged} rows held out, few to judge by: --held-out {FEW_ROWS} or more")
    click.echo(f"use it with `model: {_local(out)}`")


@command.command("exit-criteria")
@click.option(
    "--data", multiple=True, required=True, help="What the classifier was trained on: the same files, in their order."
)
@click.option("--to", "place", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--criterion", "criteria", multiple=True, help="Default: past_future and scheduled.")
@click.option("--text-column", help="Found by its name, if not given.")
@click.option("--label-column", help="The same.")
def exit_criteria(
    data: tuple[str, ...],
    place: Path,
    criteria: tuple[str, ...],
    text_column: str | None,
    label_column: str | None,
) -> None:
    """Teach a trained early-exit classifier the criteria that learn.

    They learn from whole runs, with encoder and exits as they are: past_future to imitate later layers, scheduled which
    texts should leave where under a budget of layers. An eighth of the rows held out goes into that; the others judge.

    \b
    Examples:
      dynflow train exit-criteria --data reviews.csv --to my_classifier
      dynflow train exit-criteria --data reviews.csv --to my_classifier --criterion scheduled
    """
    from dynflow.errors import MissingDependency
    from dynflow.learning.labelled import Columns

    try:
        from dynflow.nodes.early_exit_classifier.teach import teach
        from dynflow.nodes.early_exit_classifier.training.learning import LEARNING
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[transformers]"') from error
    with progress_bars() as progress:
        report = teach(
            place, data, criteria=criteria or LEARNING, columns=Columns(text_column, label_column), progress=progress
        )
    names = " and ".join(criteria or LEARNING)
    click.echo(f"taught {names} on {report.rows:,} fresh rows; {place} has {report.size / 1e6:.1f} MB now")
    _tell_figures(report.figures)


def _layers(given: str | None) -> tuple[int, ...] | None:
    try:
        return None if given is None else tuple(sorted({int(layer) for layer in given.split(",")}))
    except ValueError:
        raise click.BadParameter(f"{given!r} is no list of layers such as 0,1,2,4", param_hint="--exits") from None


def named(given: str) -> tuple[str, str]:
    """A label and its name, of `--name`. Raises `click.BadParameter`."""
    label, equals, name = given.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{given!r} is not LABEL=NAME", param_hint="--name")
    return label, name


class Trained(Protocol):
    """What a training reports: how many rows it learnt from, measures by name of the rows, and where it wrote."""

    @property
    def rows(self) -> int: ...

    @property
    def figures(self) -> Mapping[str, Mapping[str, float | None]]: ...

    @property
    def out(self) -> Path: ...


def _tell(report: Trained) -> None:
    click.echo(f"trained on {report.rows:,} rows; wrote {report.out}")
    told = {name: figures for name, figures in report.figures.items() if not _is_of_few(name, figures)}
    _tell_figures(told)
    if few := len(report.figures) - len(told):
        click.echo(f"  and {few:,} more, each of fewer than {_FEWEST_SHOWN} rows")
    click.echo(f"use it with `estimator: {_local(report.out)}`")


def _tell_figures(told: Mapping[str, Mapping[str, float | None]]) -> None:
    for name, figures in told.items():
        shown = ", ".join(f"{figure} {'none' if value is None else f'{value:g}'}" for figure, value in figures.items())
        click.echo(f"  {name}: {shown}")


def _local(out: Path) -> str:
    """As a graph names a folder."""
    return str(out) if "/" in str(out) else f"./{out}"


def _is_of_few(name: str, figures: Mapping[str, float | None]) -> bool:
    """Whether a source has too few rows for figures to mean anything; where ids name no source, each row is one."""
    return name.partition(",")[0] != "all" and (figures.get("rows") or 0) < _FEWEST_SHOWN


def outcome_files(given: tuple[Path, ...]) -> list[Path]:
    """The files given, and all `*.jsonl` below the folders given. Raises `click.UsageError` where there are none."""
    files = [file for path in given for file in (sorted(path.rglob("*.jsonl")) if path.is_dir() else [path])]
    if not files:
        where = " or ".join(map(str, given))
        raise click.UsageError(f"there is no *.jsonl file in {where}" if where else "give outcome files with --data")
    return files
