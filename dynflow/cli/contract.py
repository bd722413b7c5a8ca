"""`dynflow calibrate` for a promise that the graph itself states, in the option of a node."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynflow.cli.outcomes import require_calibration
from dynflow.cli.progress import progress_bars

if TYPE_CHECKING:
    from dynflow.calibration.contracts import Kept


def keep_contract(graph: str, data: str | None, given: Mapping[str, Any], *, dry_run: bool, as_json: bool) -> None:
    """Calibrate it on prompts of a file, or captions of the shapes' world, and say what came of it."""
    require_calibration()
    from dynflow.calibration.contracts import calibrate_contract, contract_rule
    from dynflow.loading import load
    from dynflow.nodes.adaptive_diffusion.training.prompts import prompts_of
    from dynflow.nodetable import calibrating

    with calibrating():
        flow = load(graph)
    node, _ = contract_rule(flow, given["of"])
    settings = flow.resources.model_settings(flow.resources.cold_node(node).options.model)
    sources = [] if data is None else [data]
    prompts = prompts_of(settings.model, "contract", sources, given["text_column"], given["captions"])
    path = Path(graph)
    with progress_bars() as progress:
        kept = calibrate_contract(
            flow,
            prompts,
            given["runs"] or path.with_name(f"{path.stem}.runs.jsonl"),
            of=node,
            outputs=given["seeds"],
            confidence=given["confidence"],
            progress=progress,
            dry=dry_run,
        )
    click.echo(json.dumps(_as_dict(kept), indent=2, ensure_ascii=False) if as_json else _report(kept))
    if not as_json and not dry_run:
        click.echo(f"{node!r} in {graph} keeps it from now on, as the artefact of its predictor says")


def _as_dict(kept: Kept) -> dict[str, Any]:
    return {
        "node": kept.node,
        "statement": kept.statement,
        "setting": kept.chosen.setting,
        "kept": kept.chosen.kept,
        "whole": kept.chosen.whole,
        "tuning_rows": kept.chosen.tuning_rows,
        "trained_on": kept.trained_on,
        **kept.rests_on,
    }


def _report(kept: Kept) -> str:
    chosen = kept.chosen
    left_out = f", {kept.trained_on:,} left out (trained on)" if kept.trained_on else ""
    quantile, threshold = chosen.setting
    plan = "all steps" if quantile == 1 else f"quantile {quantile:g}"
    stop = "no stopping early" if threshold is None else f"converge below {threshold:g}"
    return "\n".join(
        [
            click.style(f"{plan}, {stop}", bold=True),
            kept.statement,
            f"tested on {chosen.n:,} prompts{left_out}; {chosen.tuning_rows:,} others chose what to try",
            f"{chosen.method}: kept for at least {chosen.bound:.4g}, and {chosen.kept:.4g} of those tested on",
            f"{chosen.cost:.4g} {kept.unit} in the mean, of {chosen.whole:.4g}: {chosen.whole / chosen.cost:.3g} times "
            "fewer",
        ]
    )
