"""The routing benchmark's results as markdown and as a picture; unflattering rows too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import routing_rivals as rivals
from overhead import as_table
from routing_cascade import CHECK, HANDMADE
from routing_cascade import LABELS as FEW
from routing_protocol import SHARES

from dynflow.nodes.difficulty_classifier.estimators import KINDS

Results = Mapping[str, Any]
Figure = Mapping[str, float]

SPLITS = {
    "random": "1,500 random training labels, judged on all other rows",
    "templates": "The same, with all questions of one template on one side",
    "topics": "Whole subjects held out, 1,500 labels of the others",
    "topics_all": "Whole subjects held out, all labels of the others",
}
GRADES = {
    "recorded": "Recorded labels, ten-fold cross-fitted",
    "recorded_few": f"Recorded labels, {FEW} of them to train on",
    "regraded": "Regraded labels, ten-fold cross-fitted",
    "regraded_few": f"Regraded labels, {FEW} of them to train on",
}
_HEAD = ["", "APGR", "CPT(50 %)", "CPT(80 %)", "APGR exact", "CPT(50 %) exact", "CPT(80 %) exact"]


def ours(routers: Iterable[str]) -> list[str]:
    """Those of dynflow's own."""
    return [name for name in routers if name in KINDS or name.startswith(CHECK)]


def best(figures: Results, names: Sequence[str]) -> str:
    """The router with the highest APGR."""
    return max(names, key=lambda name: float(figures["routers"][name]["apgr"]["value"]))


def bars(results: Results) -> list[tuple[str, float, str, float]]:
    """What is aimed at: words, what was measured, `≥` or `≤`, and the bar."""
    found: list[tuple[str, float, str, float]] = []

    def curve(figures: Results, name: str, what: str, least: float, *most: float) -> None:
        values = figures["routers"][name]
        found.append((f"{what}, APGR of `{name}`", values["apgr"]["value"], "≥", least))
        for key, words, bar in zip(("cpt50", "cpt80"), ("CPT(50 %)", "CPT(80 %)"), most, strict=False):
            found.append((f"{what}, {words} of `{name}`", values[key]["value"], "≤", bar))

    def gain(figures: Results, name: str, what: str) -> None:
        found.append((f"{what}, least paired gain of APGR", figures["gains"][name]["apgr"]["low"], ">", 0.0))

    if "mmlu" in results:
        for split, what, least, *most in (
            ("random", "MMLU", 0.645, 0.31, 0.64),
            ("topics", "MMLU, subjects held out", 0.59),
            ("topics_all", "MMLU, subjects held out, all labels", 0.59),
        ):
            figures = results["mmlu"][split]
            name = best(figures, ours(figures["routers"]))
            curve(figures, name, what, least, *most)
            gain(figures, name, what)
    if "gsm8k" in results:
        figures = results["gsm8k"]["recorded"]
        name = best(figures, ours(figures["routers"]))
        curve(figures, name, "GSM8K cascade", 0.78, 0.18, 0.39)
        gain(figures, name, "GSM8K cascade")
    found += [tuple(bar) for name in ("robustness", "latency") if name in results for bar in results[name]["bars"]]
    return found


def kept(value: float, sign: str, bar: float) -> bool:
    """Whether a bar is kept."""
    return {"≥": value >= bar, "≤": value <= bar, ">": value > bar}[sign]


def markdown(results: Results) -> str:
    """The whole result."""
    rows = [
        [words, f"{value:.3f}", f"{sign} {bar:g}", "yes" if kept(value, sign, bar) else "**no**"]
        for words, value, sign, bar in bars(results)
    ]
    parts = [
        "# Routing",
        "Made by `benchmarks/routing.py`. APGR and CPT are RouteLLM's (arXiv 2406.18665 §4): from ten bins of the "
        "scores, and exact beside them. In brackets 95 % intervals, over the draw of training rows and of groups of "
        "near-duplicate test rows. Where our best row is compared with a bar, it is named.",
        as_table(["", "measured", "bar", "kept"], rows),
    ]
    if "mmlu" in results:
        parts += _mmlu(results["mmlu"])
    if "slow" in results:
        parts += _slow(results["slow"])
    if "gsm8k" in results:
        parts += _gsm8k(results["gsm8k"])
    for name, title in (("robustness", "Robustness"), ("latency", "Latency of a decision")):
        if name in results:
            parts += [f"## {title}", _machine(results[name]), *results[name]["text"]]
    return "\n\n".join(parts) + "\n"


def _machine(result: Results) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in result["machine"].items())


def _mmlu(result: Results) -> list[str]:
    weak, strong = result["quality"]
    parts = [
        "## MMLU, by the question",
        f"{result['rows']:,} questions of {result['subjects']} subjects; {result['groups']:,} groups of near-"
        "duplicates, each on one side of every split. "
        f"The weak model is right on {weak:.1%}, the strong one on {strong:.1%}. "
        f"Ten random splits; gains are over {rivals.PLAIN}, paired. On random rows the estimators' settings are "
        "chosen on the training rows; where subjects are held out, they have their defaults.",
        _machine(result),
    ]
    for split, title in SPLITS.items():
        if split in result:
            parts += [f"### {title}", _table(result[split], "mmlu" if split == "random" else None, rivals.PLAIN)]
    return parts


def _slow(result: Results) -> list[str]:
    return [
        "## MMLU, a sample, for estimators that take minutes",
        f"{result['rows']:,} of the questions, {result['labels']:,} training labels, judged on the others; "
        f"{result['seeds']} random splits; settings have their defaults.",
        _machine(result),
        _table(result["random"], None, rivals.PLAIN),
    ]


def _gsm8k(result: Results) -> list[str]:
    parts = [
        "## GSM8K, by the question and by the draft",
        f"{result['rows']:,} questions. A cascade asks the weak model first, checks its draft and may then ask the "
        "strong one; its share counts strong calls, its USD all calls. USD are per 1,000 requests, at $0.24 and "
        f"$24.7 per million tokens; always the weak model costs {_usd(result['usd'][0])}, always the strong one "
        f"{_usd(result['usd'][1])}. Gains are over the {HANDMADE}, paired.",
        _machine(result),
    ]
    for split, title in GRADES.items():
        if split in result:
            weak, strong = result[f"{split.removesuffix('_few')}_quality"]
            rates = f"The weak model is right on {weak:.1%}, the strong one on {strong:.1%}."
            published = "gsm8k" if split == "recorded" else None
            parts += [f"### {title}", rates, _table(result[split], published, HANDMADE)]
    return parts


def _table(figures: Results, published: str | None, reference: str) -> str:
    routers = figures["routers"]
    paid = "usd_cpt50" in next(iter(routers.values()))
    rows = []
    for name, values in routers.items():
        gain = figures["gains"].get(name)
        cells = [_number(values["apgr"]), *(_share(values[key]) for key in ("cpt50", "cpt80"))]
        cells += [_number(values["apgr_exact"]), *(_share(values[f"{key}_exact"]) for key in ("cpt50", "cpt80"))]
        cells.append("" if gain is None else _number(gain["apgr"], sign="+"))
        if paid:
            cells += [_usd(values[f"usd_{key}"]["value"]) for key in ("cpt50", "cpt80")]
        rows.append([f"**{name}**" if name in ours([name]) else name, *cells])
    if published:
        quoted = rivals.PUBLISHED[published]
        cells = [f"{quoted['apgr']:.3f}", f"{quoted['cpt50']:.1%}", f"{quoted['cpt80']:.1%}"]
        rows.append(["RouteLLM's best, as published, on the full set (unpaired)", *cells, *[""] * (6 if paid else 4)])
    head = [*_HEAD, f"gain of APGR over {reference}", *(["USD at CPT(50 %)", "USD at CPT(80 %)"] if paid else [])]
    return as_table(head, rows)


def _number(figure: Figure, sign: str = "") -> str:
    return f"{figure['value']:{sign}.3f} [{figure['low']:{sign}.3f}, {figure['high']:{sign}.3f}]"


def _share(figure: Figure) -> str:
    return f"{100 * figure['value']:.1f} % [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def _usd(value: float) -> str:
    return f"${1_000 * value:.2f}"


def picture(results: Results, file: Path) -> None:
    """Curves of the routers on MMLU and GSM8K, as SVG. Needs matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "routing"
    panels = [(name, key) for name, key in (("mmlu", "random"), ("gsm8k", "recorded")) if name in results]
    if not panels:
        return
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6.5 * len(panels), 5), squeeze=False, layout="constrained")
    for axis, (name, key) in zip(axes[0], panels, strict=True):
        shown = results[name][key]
        mine = ours(shown["routers"])
        for router, curve in shown["curves"].items():
            bold = router in mine
            plain = router in (rivals.RANDOM, rivals.ORACLE)
            axis.plot(
                100 * SHARES,
                [100 * each for each in curve],
                label=f"{router} ({shown['routers'][router]['apgr']['value']:.3f})",
                linewidth=2.2 if bold else 1.1,
                linestyle=":" if plain else "-" if bold else "--",
                color="grey" if plain else None,
            )
        axis.set(title=name.upper(), xlabel="strong calls, %", ylabel="quality gap recovered, %", ylim=(-5, 125))
        axis.legend(fontsize=7, title="APGR, ten bins", title_fontsize=7)
        axis.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)
