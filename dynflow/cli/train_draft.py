"""`dynflow train draft`: a head that drafts for a model."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from dynflow.cli.arguments import FiniteRange
from dynflow.cli.progress import progress_bars

_SHOWN = 4
"""Tokens of a draft whose figures are printed."""


@click.command("draft")
@click.argument("model")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the artefact.")
@click.option(
    "--data", multiple=True, help="Prompts: TXT, CSV, TSV or JSONL; repeatable. Default: MODEL draws them itself."
)
@click.option("--text-column", help="Of --data; found by its name, if not given.")
@click.option("--revision", help="Of a model on a hub: its commit.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="What to compute in; bfloat16 where the processor has it.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU.")
@click.option("--answers", type=click.IntRange(min=1), default=2000, show_default=True, help="Of MODEL, to learn from.")
@click.option("--tokens", type=click.IntRange(min=2), default=128, show_default=True, help="Of an answer, at most.")
@click.option("--inner", type=click.IntRange(min=1), default=1024, show_default=True, help="Width of the head's layer.")
@click.option(
    "--vocabulary", type=click.IntRange(min=1), default=8192, show_default=True, help="Tokens that can be drafted."
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--depth", type=click.IntRange(min=1), default=4, show_default=True, help="Tokens drafted in learning.")
@click.option("--batch-rows", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--rate", type=FiniteRange(min=0, min_open=True), default=1e-3, show_default=True, help="Learning rate.")
@click.option("--seed", type=int, default=0, show_default=True)
def draft(
    model: str,
    out: Path,
    data: tuple[str, ...],
    text_column: str | None,
    revision: str | None,
    dtype: str,
    threads: int | None,
    answers: int,
    tokens: int,
    inner: int,
    vocabulary: int,
    epochs: int,
    depth: int,
    batch_rows: int,
    rate: float,
    seed: int,
) -> None:
    """Learn to draft for MODEL, from text that it writes itself.

    MODEL is a chat model as the provider transformers reads it: embedded/<name>, a .gguf file, a folder or a hub id.
    A run that was stopped goes on where it was when started again with the same arguments.

    \b
    Examples:
      dynflow train draft embedded/smollm2-135m-instruct --dtype bfloat16 --out my_draft
      dynflow train draft ./my_model --data prompts.txt --out my_draft
    """
    if not model.strip():
        raise click.UsageError("MODEL is empty: give embedded/<name>, a .gguf file, a folder or a hub id")
    from dynflow.errors import MissingDependency
    from dynflow.models.settings import ModelSettings

    try:
        from dynflow.speculation.draft_head.training.fitting import Fit
        from dynflow.speculation.draft_head.training.texts import Texts
        from dynflow.speculation.draft_head.training.train import Head, train
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[transformers]"') from error
    entry = {"model": model, "revision": revision, "dtype": dtype, "threads": threads}
    settings = ModelSettings.model_validate(
        {"provider": "transformers", **{name: value for name, value in entry.items() if value is not None}}
    )
    with progress_bars() as progress:
        report = train(
            settings,
            out,
            data=data,
            text_column=text_column,
            texts=Texts(answers, tokens, seed=seed),
            head=Head(inner, vocabulary),
            fitted=Fit(epochs, depth, batch_rows, rate, seed),
            command=shlex.join(["dynflow", *sys.argv[1:]]),
            progress=progress,
        )
    click.echo(
        f"trained on {report.answers:,} answers, {report.tokens:,} tokens; wrote {out}, {report.size / 1e6:.1f} MB"
    )
    for place, share in enumerate(report.figures.taken[:_SHOWN], start=1):
        passes = report.figures.tokens_a_pass(place)
        click.echo(f"  token {place}: {share:.0%} taken; {passes:.2f} tokens a pass with drafts of {place}")
    local = str(out) if "/" in str(out) else f"./{out}"
    click.echo(f"use it with `draft_head: {local}`")
