"""Fills the README's marked blocks with what the repository really does: run it after changing any of them.

    python scripts/update_readme.py

Blocks: the quickstart graph and its drawing, the quickstart's output without a key (the embedded models answer), the
section "Keep a promise", run from nothing (minutes), and the overhead table from `benchmarks/results/overhead.json`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keep_a_promise

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
_LCEL_IMPORT = "from langchain_core.runnables import RunnableBranch"
_BAR = 1.0
"""Milliseconds that a call through a flow may add."""
_FLOW = "dynflow, a flow of one `chat` node"
GRAPH = ROOT / "graphs" / "quickstart.yaml"


def dynflow(*arguments: str, merged: bool = False) -> str:
    """What a dynflow command prints, without a key in its environment; `merged` as a terminal shows it."""
    environment = {key: value for key, value in os.environ.items() if key != "OPENAI_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-m", "dynflow", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else None,
    )
    return done.stdout.rstrip()


def quickstart() -> str:
    """The two questions of `make quickstart` with their output."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    parts = []
    for name in ("EASY", "HARD"):
        found = re.search(rf"^{name} := (.*)$", makefile, re.MULTILINE)
        assert found is not None
        output = dynflow("run", "graphs/quickstart.yaml", found[1], merged=True)
        parts.append(f'$ dynflow run graphs/quickstart.yaml "{found[1]}"\n{output}')
    return "\n\n".join(parts)


def promise(readme: str) -> str:
    """The section "Keep a promise", run as it is written; what it collects is kept for the tests."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keep_a_promise.prepare(folder)
        results = list(keep_a_promise.run(readme, folder))
        shutil.copyfile(folder / "outcomes.jsonl", keep_a_promise.OUTCOMES)
    return keep_a_promise.block(results)


def overhead() -> str:
    """One table of the benchmark: least CPU time per request, with where and when it was taken."""
    results: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "overhead.json").read_text("utf-8"))
    styles, machine = results["styles"], results["machine"]
    lines = [f"| CPU µs per request | {' | '.join(styles)} |", f"|---|{'---:|' * len(styles)}"]
    for contender in styles["invoke"]:
        cells = [f"{min(taken[contender]) * 1e6:,.1f}" if taken.get(contender) else "none" for taken in styles.values()]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    provider = results["provider"]
    calls = "; ".join(
        f"{style} {added(taken, _FLOW):+.1f} (ChatLiteLLM {added(taken, 'ChatLiteLLM'):+.1f}, "
        f"litellm's Router {added(taken, 'litellm Router'):+.1f})"
        for style, taken in provider.items()
    )
    beyond = [style for style, taken in provider.items() if added(taken, _FLOW) > _BAR]
    verdict = f"is not kept by {' and '.join(beyond)}" if beyond else "is kept by all four"
    imports = results["imports"]
    ready = min(imports["from dynflow import load"]) / min(imports[_LCEL_IMPORT])
    lines += [
        "",
        f"One condition and trivial node functions, no callbacks; least of {machine['rounds']} rounds, the contenders "
        f"taking turns in one run ({machine['processor']}, Python {machine['Python']}, {machine['date']}). Only the "
        "ratios carry over to other machines. The price is paid at the start: `from dynflow import load` takes "
        f"{ready:.1f} times the CPU time of LCEL's import. A call of a hosted model through a flow of one `chat` node, "
        "retries, breaker and ledger with it, adds to the CPU time of litellm with the same client, in ms: "
        f"{calls}. Our bar, {_BAR:g} ms, {verdict}. The full table, with imports and chains of nodes, is in "
        "[`benchmarks/results/overhead.md`](benchmarks/results/overhead.md).",
    ]
    return "\n".join(lines)


def added(taken: dict[str, list[float]], name: str) -> float:
    """Milliseconds of CPU that a way of calling a hosted model adds to the client that dynflow uses."""
    return (min(taken[name]) - min(taken["litellm, bare, with the client that dynflow hands it"])) * 1e3


def fill(text: str, name: str, body: str) -> str:
    """The text with one block's body replaced. Raises `ValueError` where the markers are missing."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no block {name!r}")
    return pattern.sub(lambda found: f"{found[1]}{body}\n{found[2]}", text)


def fenced(language: str, body: str) -> str:
    """A code block."""
    return f"```{language}\n{body.rstrip()}\n```"


def main() -> None:
    """Fill all blocks."""
    text = README.read_text("utf-8")
    text = fill(text, "graph", fenced("yaml", GRAPH.read_text("utf-8").split("\n", 1)[1]))
    text = fill(text, "drawing", fenced("mermaid", dynflow("draw", "graphs/quickstart.yaml")))
    text = fill(text, "quickstart", fenced("text", quickstart()))
    text = fill(text, "promise", fenced("console", promise(text)))
    text = fill(text, "overhead", overhead())
    README.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
