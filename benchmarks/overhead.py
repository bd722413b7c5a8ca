"""What a request pays for the framework: dynflow beside plain Python, LCEL, LangGraph and Haystack; and beside the
client that reaches a hosted model, ChatLiteLLM and litellm's Router.

    python benchmarks/overhead.py --json benchmarks/results/overhead.json > benchmarks/results/overhead.md

All figures are CPU time of this process. The contenders take turns (A B C, A B C, …), so that whatever else the machine
does meets all of them alike; the minimum over the rounds is the figure to compare, the median shows how quiet it was.
Haystack is measured where it is installed (`pip install haystack-ai`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.update(HAYSTACK_TELEMETRY_ENABLED="False", LANGSMITH_TRACING="false", LANGCHAIN_TRACING_V2="false")

import provider_calls
from contenders import CHAINS, CONTENDERS, DYNFLOW, LANGGRAPH, LCEL, QUESTIONS, Contender, Flow

Sampler = Callable[[int], float]
"""Calls something so many times; CPU seconds a call."""
Samples = dict[str, list[float]]

STYLES = ("invoke", "ainvoke", "stream")
PROVIDER_STYLES = (*STYLES, "astream")
MOST_ADDED = 1.0
"""Milliseconds that dynflow may add to a call of a hosted model."""
LENGTHS = (1, 10, 100)
IMPORTS = {
    "import langchain_core.runnables": "langchain_core",
    "from langchain_core.runnables import RunnableBranch": "langchain_core",
    "import dynflow": "dynflow",
    "from dynflow import load": "dynflow",
    "import langgraph.graph": "langgraph",
    "from haystack import Pipeline": "haystack",
}
LANGCHAIN, RUNNABLE, OWN = tuple(IMPORTS)[:3]
"""Both packages load their parts on first use, so the import alone says little; the second and fourth say more."""


# Measuring


def timed(call: Callable[[str], Any], questions: Iterable[str] = QUESTIONS) -> Sampler:
    """A sampler of a plain call: each round asks every question equally often."""

    def sample(times: int) -> float:
        gc.collect()
        began = time.process_time()
        for _ in range(times):
            for question in asked:
                call(question)
        return (time.process_time() - began) / (times * len(asked))

    asked = tuple(questions)
    return sample


def timed_async(runner: asyncio.Runner, call: Callable[[str], Awaitable[Any]]) -> Sampler:
    """The same for a coroutine function."""

    async def repeat(times: int) -> float:
        began = time.process_time()
        for _ in range(times):
            for question in QUESTIONS:
                await call(question)
        return (time.process_time() - began) / (times * len(QUESTIONS))

    def sample(times: int) -> float:
        gc.collect()
        return runner.run(repeat(times))

    return sample


def take_turns(title: str, samplers: Mapping[str, Sampler], rounds: int, seconds: float) -> Samples:
    """CPU seconds a call, for each sampler a sample per round; a sample takes about `seconds`."""
    gc.collect()
    gc.freeze()  # else each collection would walk through all that the contenders have imported
    counts = {}
    for name, sample in samplers.items():
        sample(1)  # the first call is warm-up
        counts[name] = max(1, int(seconds / max(sample(3), 1e-7)))
    found: Samples = {name: [] for name in samplers}
    for number in range(rounds):
        progress(f"{title}: round {number + 1} of {rounds}")
        for name, sample in samplers.items():
            found[name].append(sample(counts[name]))
    return found


def measure_styles(contenders: Iterable[Contender], rounds: int, seconds: float) -> dict[str, Samples]:
    """CPU seconds of `invoke`, `ainvoke` and `stream`, by style and contender."""
    plain, coroutines = {}, {}
    for contender in contenders:
        plain[contender.name], coroutines[contender.name] = contender.build(False), contender.build(True)
    must_agree(plain.values())
    with asyncio.Runner() as runner:
        samplers: dict[str, dict[str, Sampler]] = {
            "invoke": {name: timed(flow.invoke) for name, flow in plain.items()},
            "ainvoke": {name: timed_async(runner, flow.ainvoke) for name, flow in coroutines.items() if flow.ainvoke},
            "stream": {name: timed(partial(consume, flow)) for name, flow in plain.items() if flow.stream},
        }
        return {style: take_turns(style, samplers[style], rounds, seconds) for style in STYLES}


def consume(flow: Flow, question: str) -> None:
    """Read a stream to its end."""
    assert flow.stream is not None
    for _ in flow.stream(question):
        pass


def must_agree(flows: Iterable[Flow]) -> None:
    """All contenders give the same answers, or the comparison would mean nothing."""
    answers = {tuple(flow.invoke(question) for question in QUESTIONS) for flow in flows}
    if len(answers) != 1:
        raise SystemExit(f"the contenders do not agree: {answers}")


def measure_loading(contenders: Iterable[Contender], rounds: int, seconds: float) -> Samples:
    """CPU seconds of making the flow, everything imported already."""
    samplers = {each.name: timed(partial(lambda build, _: build(False), each.build), [""]) for each in contenders}
    return take_turns("load", samplers, rounds, seconds)


def measure_chains(rounds: int, seconds: float) -> dict[int, Samples]:
    """CPU seconds of n trivial nodes in a row, by n and framework."""
    makers = {name: make for name, (module, make) in CHAINS.items() if find_spec(module)}
    found = {}
    for length in LENGTHS:
        samplers = {name: timed(make(length), ["text"]) for name, make in makers.items()}
        found[length] = take_turns(f"chain of {length}", samplers, rounds, seconds)
    return found


def measure_provider_calls(rounds: int, seconds: float) -> dict[str, Samples]:
    """CPU seconds of one call of a hosted model, by style and contender."""
    found = {}
    with provider_calls.upstream() as base, provider_calls.contenders(base) as ways:
        for style in PROVIDER_STYLES:
            samplers = {name: partial(measured, style) for name, measured in ways.items()}
            found[style] = take_turns(f"provider {style}", samplers, rounds, seconds)
    return found


def measure_imports(rounds: int) -> Samples:
    """CPU seconds of importing, each time in a fresh interpreter, less the interpreter's own start."""
    installed = {each.module for each in CONTENDERS if each.installed}
    statements = [statement for statement, module in IMPORTS.items() if module in installed]
    found: Samples = {statement: [] for statement in statements}
    for number in range(rounds):
        progress(f"imports: round {number + 1} of {rounds}")
        for statement in statements:
            program = f"import time; began = time.process_time()\n{statement}\nprint(time.process_time() - began)"
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            found[statement].append(float(done.stdout))
    return found


# Reporting


def as_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A markdown table; all columns but the first are numbers."""
    first, *rest = headings
    lines = [f"| {first} | {' | '.join(rest)} |", f"|---|{'---:|' * len(rest)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def rival(samples: Samples) -> float:
    """The better of the two LCEL forms."""
    return min(min(samples[name]) for name in LCEL)


def style_table(samples: Samples) -> str:
    """One way of calling: CPU µs and the ratios of the minima."""
    lcel, langgraph = rival(samples), min(samples.get(LANGGRAPH, [float("nan")]))
    rows = []
    for contender in CONTENDERS:
        found = samples.get(contender.name)
        if found is None:
            missing = "none" if contender.installed else f"`pip install {contender.distribution}`"
            rows.append([contender.name, missing, "", "", ""])
            continue
        low = min(found)
        rows.append(
            [contender.name, micro(low), micro(statistics.median(found)), times(low / lcel), times(low / langgraph)]
        )
    return as_table(["", "min µs", "median µs", "of LCEL", "of LangGraph"], rows)


def chain_table(chains: Mapping[int, Samples]) -> str:
    """CPU µs per node, and what one node more costs between 10 and 100."""
    rows = []
    for name in chains[LENGTHS[0]]:
        low = {length: min(samples[name]) for length, samples in chains.items()}
        more = (low[100] - low[10]) / 90
        rows.append([name, *(micro(low[length] / length) for length in LENGTHS), micro(more)])
    return as_table(["µs per node", *(f"{length} in a row" for length in LENGTHS), "one more"], rows)


def load_table(samples: Samples) -> str:
    """Milliseconds of making the flow."""
    return as_table(
        ["", "min ms", "median ms"],
        [[name, f"{min(found) * 1e3:.2f}", f"{statistics.median(found) * 1e3:.2f}"] for name, found in samples.items()],
    )


def import_table(samples: Samples) -> str:
    """CPU seconds of imports, beside LangChain's."""
    package, runnable = min(samples[LANGCHAIN]), min(samples[RUNNABLE])
    rows = []
    for statement, found in samples.items():
        low = min(found)
        figures = [f"{low:.3f}", f"{statistics.median(found):.3f}", times(low / package), times(low / runnable)]
        rows.append([f"`{statement}`", *figures])
    return as_table(["", "min s", "median s", "of LangChain's package", "of a LangChain runnable"], rows)


def added(samples: Samples, name: str, over: str = provider_calls.USED) -> float:
    """Milliseconds of CPU that a contender's call takes beyond another's."""
    return (min(samples[name]) - min(samples[over])) * 1e3


def provider_table(styles: Mapping[str, Samples]) -> str:
    """CPU ms of a call of a hosted model, and what each contender adds to the client that dynflow uses."""
    rows = []
    for name in styles[PROVIDER_STYLES[0]]:
        cells = [f"{min(taken[name]) * 1e3:.2f} (+{added(taken, name):.2f})" for taken in styles.values()]
        rows.append([name, *(cell.replace("+-", "-") for cell in cells)])
    return as_table(["least CPU ms (added to the client that dynflow uses)", *styles], rows)


def targets(results: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """What we promise: words, the ratio measured, the most it may be."""
    invoke, imports = results["styles"]["invoke"], results["imports"]
    own = min(invoke[DYNFLOW])
    found = [("invoke, of LCEL's", own / rival(invoke), 0.7)]
    if LANGGRAPH in invoke:
        found.append(("invoke, of LangGraph's", own / min(invoke[LANGGRAPH]), 0.5))
    found.append((f"`{OWN}`, of `{LANGCHAIN}`", min(imports[OWN]) / min(imports[LANGCHAIN]), 1.3))
    for over, client in {
        provider_calls.USED: "the client that dynflow uses",
        provider_calls.BARE: "its default",
    }.items():
        for style, samples in results["provider"].items():
            words = f"`{style}` of a hosted model, ms added to litellm with {client}"
            found.append((words, added(samples, provider_calls.FLOW, over), MOST_ADDED))
    return found


def report(results: Mapping[str, Any]) -> str:
    """The whole result as markdown."""
    machine = results["machine"]
    rows = [
        [words, f"{ratio:.2f}", f"{most:.2f}", "yes" if ratio <= most else "**no**"]
        for words, ratio, most in targets(results)
    ]
    parts = [
        "# Overhead",
        "One condition and trivial node functions, in CPU time, the contenders taking turns; made by "
        "`benchmarks/overhead.py`. Ratios are of the minima, and `of LCEL` is against the faster of its two forms.",
        "\n".join(f"- {key}: {value}" for key, value in machine.items()),
        as_table(["dynflow's share", "measured", "at most", "kept"], rows),
        *(f"## {style}\n\n{style_table(samples)}" for style, samples in results["styles"].items()),
        f"## Trivial nodes in a row\n\n{chain_table(results['chains'])}",
        f"## One call of a hosted model\n\n{provider_table(results['provider'])}",
        f"## Making the flow\n\n{load_table(results['load'])}",
        f"## Imports, in fresh interpreters\n\n{import_table(results['imports'])}",
    ]
    return "\n\n".join(parts)


def micro(seconds: float) -> str:
    """Seconds as µs."""
    return f"{seconds * 1e6:,.1f}"


def times(ratio: float) -> str:
    """A ratio, or nothing where there is none."""
    return "" if ratio != ratio else f"{ratio:.2f}"


def machine(rounds: int) -> dict[str, str]:
    """What the figures were measured on."""
    names = [
        "langchain-core",
        "litellm",
        "langchain-litellm",
        *dict.fromkeys(each.distribution for each in CONTENDERS if each.installed),
    ]
    versions = {name: version(name) for name in names if name}
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "rounds": str(rounds),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def processor() -> str:
    """The CPU's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def progress(words: str) -> None:
    """Say where we are; the results go to standard output."""
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)
    else:
        print(words, file=sys.stderr)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample (seconds) there")
    parser.add_argument("--rounds", type=int, default=25, help="samples of each figure (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="two short rounds: shows that it works, not how fast")
    options = parser.parse_args()
    rounds, seconds = (2, 0.001) if options.quick else (options.rounds, 0.04)
    contenders = [each for each in CONTENDERS if each.installed]
    results = {
        "machine": machine(rounds),
        "styles": measure_styles(contenders, rounds, seconds),
        "chains": measure_chains(rounds, seconds),
        "provider": measure_provider_calls(rounds, 4 * seconds),
        "load": measure_loading(contenders, rounds, seconds),
        "imports": measure_imports(1 if options.quick else min(rounds, 10)),
    }
    progress("")
    print(report(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
