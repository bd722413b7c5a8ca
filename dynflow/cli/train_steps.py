"""`dynflow train steps`: how many denoising steps prompts need."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from dynflow.cli.progress import progress_bars

COUNTS = "5,8,10,12,15,20,25,30,40,50"


@click.command("steps")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the artefact.")
@click.option("--data", multiple=True, help="Prompts: TXT, CSV, TSV or JSONL; repeatable.")
@click.option("--text-column", help="Of --data; found by its name, if not given.")
@click.option("--captions", type=click.IntRange(min=1), help="So many captions of embedded/shapes in place of --data.")
@click.option("--model", default="embedded/shapes", show_default=True, help="Pipeline: a folder, or a hub id.")
@click.option("--revision", help="Of a model on a hub: its commit.")
@click.option("--device", help="Such as cuda; default: a GPU if there is one.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Default: float32.")
@click.option("--offload", type=click.Choice(["model", "sequential"]), help="To main memory, what is not at work.")
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Images of each prompt.")
@click.option("--counts", default=COUNTS, show_default=True, help="Step counts to plan; the last is the reference.")
@click.option("--metric", type=click.Choice(["ssim", "psnr"]), default="ssim", show_default=True)
@click.option("--at-least", type=float, default=0.9, show_default=True, help="What the metric must reach.")
@click.option("--batch", type=click.IntRange(min=1), help="Images at once. Default: 16, on a GPU 64.")
@click.option("--runs", type=click.Path(dir_okay=False, path_type=Path), help="Default: runs.jsonl in --out.")
@click.option("--data-name", help="What the card calls the prompts.")
def steps(
    out: Path,
    data: tuple[str, ...],
    text_column: str | None,
    captions: int | None,
    counts: str,
    **given: Any,
) -> None:
    """Learn from whole runs of a diffusion pipeline how many steps a prompt needs.

    Each prompt is drawn with several seeds in each of the step counts. An image needs the smallest count from which on
    all larger ones keep the metric, compared with its own image of the largest. All runs are kept in --runs, image by
    image: a run that was stopped goes on where it was when started again with the same arguments.

    \b
    Examples:
      dynflow train steps --captions 1000 --out my_steps
      dynflow train steps --model ./sd15 --device cuda --dtype float16 --data prompts.txt --out my_steps
    """
    if bool(data) == (captions is not None):
        raise click.UsageError("give prompts with --data or, of embedded/shapes, --captions: one of them")
    from dynflow.errors import MissingDependency
    from dynflow.models.settings import ModelSettings

    try:
        from dynflow.nodes.adaptive_diffusion.train import train
        from dynflow.nodes.adaptive_diffusion.training.prompts import prompts_of
    except ModuleNotFoundError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[diffusers]"') from error
    named = ("model", "revision", "device", "dtype", "offload", "threads")
    entry = {name: value for name in named if (value := given.pop(name)) is not None}
    settings = ModelSettings.model_validate({"provider": "diffusers", **entry})
    with progress_bars() as progress:
        report = train(
            settings,
            prompts_of(settings.model, "predictor", data, text_column, captions),
            out,
            counts=whole_numbers(counts),
            command=shlex.join(["dynflow", *sys.argv[1:]]),
            progress=progress,
            **given,
        )
    click.echo(f"trained on {report.rows:,} images; wrote {out}")
    for name, figures in report.figures.items():
        shown = ", ".join(f"{what} {'none' if value is None else f'{value:g}'}" for what, value in figures.items())
        click.echo(f"  {name}: {shown}")
    local = str(out) if "/" in str(out) else f"./{out}"
    click.echo(
        f"use it with `predict: {{artefact: {local}, quantile: 0.9}}`; `dynflow calibrate` keeps a promise with it"
    )


def whole_numbers(given: str) -> tuple[int, ...]:
    """Numbers such as 5,10,50. Raises `click.BadParameter`."""
    try:
        return tuple(int(number) for number in given.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{given!r} is no list of step counts such as 5,10,50", param_hint="--counts"
        ) from None
