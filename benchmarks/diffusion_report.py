"""The results of `diffusion.py` as markdown, and as a plot."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from overhead import as_table

from dynflow.calibration.plots import Plot, around, per_cent, plain

EULER, MULTISTEP = "Euler", "DPM-Solver++"
SHIFTED = ", shift "
"""Is in the names of arms over a schedule of another shift than the pipeline's own."""
PREDICT, CONVERGE, BOTH = "predictor alone", "converge alone", "both"
NONE = "-"


def report(results: Mapping[str, Any], given: argparse.Namespace) -> str:
    """The results as markdown."""
    settings = [
        [name, "refused", "refused"]
        if each is None
        else [name, f"{each['quantile']:g}", NONE if each["threshold"] is None else f"{each['threshold']:.4g}"]
        for name, each in results["settings"].items()
    ]
    rows = [
        [
            name,
            f"{row['steps']:.1f}",
            f"{1000 * row['seconds']:.0f}",
            f"{row['ssim']:.3f}",
            _share(row["met"]),
            _share(row["aligned"]),
            f"{row['frechet'][0]:.2f} ({row['frechet'][1]:.2f} to {row['frechet'][2]:.2f})",
        ]
        for name, row in results["arms"].items()
    ]
    rows += [
        [name, f"{steps:.1f}", NONE, f"{alike:.3f}", NONE, NONE, NONE]
        for name, (steps, alike) in results["oracles"].items()
    ]
    return "\n\n".join(
        [
            "# Adaptive diffusion",
            ", ".join(f"{name}: {value}" for name, value in results["machine"].items()),
            f"`{given.model}` on {given.device}, {results['images']:,} images of {results['captions']:,} captions an "
            f"arm in batches of {given.batch}; the oracles' are of the first {results['known']:,}. The pipeline's own "
            f"schedule has shift {results['shift']:g}. Contract: {results['contract']} of new prompts. "
            f"Judged is {results['judged']}.",
            as_table(
                ["", "steps", "ms an image", "SSIM to 50 steps", "contract met", "aligned", "Fréchet distance"], rows
            ),
            "\n".join(f"- {verdict}" for verdict in results["verdicts"]),
            "![steps against the contract](diffusion.svg)",
            "Lines: Euler blue, DPM-Solver++ ochre. Points: Euler over other shifts grey, predictor alone violet, "
            "`converge` alone green, both red.",
            "![contact sheet](diffusion_sheet.png)",
            "Settings, chosen on captions of the part `contract`:",
            as_table(["", "quantile", "threshold"], settings),
        ]
    )


def _share(values: Sequence[float]) -> str:
    point, low, high = values
    return f"{100 * point:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def draw_plot(results: Mapping[str, Any]) -> str:
    """Mean steps against the share that meets the contract: lines of the static arms, points of the others."""
    arms: Mapping[str, Any] = results["arms"]
    x = around([row["steps"] for row in arms.values()], "mean steps", plain, 0)
    y = around([row["met"][0] for row in arms.values()], "share of images that meet the contract", per_cent, 0, 1)
    plot = Plot("diffusion", "steps against the contract", "", x, y)
    for solver, kind in ((EULER, "euler"), (MULTISTEP, "multistep")):
        own = [row for name, row in arms.items() if name.startswith(solver) and SHIFTED not in name]
        plot.line(sorted((row["steps"], row["met"][0]) for row in own), kind)
    for name, row in arms.items():
        if SHIFTED in name:
            plot.mark(row["steps"], row["met"][0], "shifted")
    for name in (PREDICT, CONVERGE, BOTH):
        if name in arms:
            plot.mark(arms[name]["steps"], arms[name]["met"][0], name.split()[0])
    style = (
        ".euler{stroke:#1f6feb;fill:none}.multistep{stroke:#bf8700;fill:none}.shifted{fill:#8c959f}"
        ".predictor{fill:#8250df}.converge{fill:#1a7f37}.both{fill:#cf222e}"
    )
    return plot.file(style)
