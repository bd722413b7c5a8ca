"""How much sooner speculation writes, beside plain decoding and the best fixed settings, on the same engine: llama.cpp;
`speculative_transformers.py` measures transformers likewise.

python benchmarks/speculative.py [--full] [--repeats 5] [--out benchmarks/results]

Six tasks (`speculative_prompts.py`), by default four prompts each and 64 new tokens, with --full eight and 128. In each
repeat every contender answers every prompt, one right after the other, in an order that turns; the system message
counts the repeats, so that nobody has the prompt in a cache. Compared is the time from the first token to the last;
ratios are taken pair by pair, their logarithms averaged, with 95 % intervals (Student's t). The answer's text must be
the plain one's, greedy. Every measurement is written to a file of JSON lines as it is taken: started again, the script
goes on with the first round that is not whole. `--out` gets the tables (.md) and figures and bars (.json). Only a quiet
machine gives figures worth keeping.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from machine import machine
from speculative_prompts import PROMPTS

PLAIN, OURS = "plain", "dynflow"
"""Names that the report knows: plain decoding, and what is judged. Others that begin like it are shown beside it; all
further contenders are fixed settings of the engine's own."""
_QUANTILES = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Of Student's t at 97.5 %, by number of values."""


@dataclass(frozen=True)
class Written:
    """One answer: seconds from its first token to its last, and from the request on."""

    text: str
    tokens: int
    seconds: float
    whole_seconds: float
    drafted: int = 0
    accepted: int = 0
    passes: int = 0


class Contender(Protocol):
    """Something that answers prompts greedily."""

    name: str

    def write(self, system: str, prompt: str, tokens: int) -> Written:
        """Answer with at most so many tokens."""
        ...


@dataclass(frozen=True)
class Bars:
    """What an engine must reach: least geometric means of tasks."""

    tasks: Mapping[str, float]
    every_task: float = 0.97
    of_best_fixed: float = 0.95
    all_prompts: float | None = None


LLAMA_BARS = Bars({"copy": 2.4, "extract": 2.4, "edit": 2.4, "summarise": 1.2, "answer": 1.2})
Measurement = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A bar, and what was measured: held, or missed."""

    bar: str
    figure: str
    held: bool

    def __str__(self) -> str:
        return f"{'held' if self.held else 'MISSED'}: {self.bar}: {self.figure}"


# Taking measurements


def rounds(prompts: int, repeats: int) -> Iterator[tuple[int, str, int]]:
    """Repeat, task and number of the prompt, in the order in which they are measured."""
    for repeat in range(repeats):
        for index in range(prompts):
            for task in PROMPTS:
                yield repeat, task, index


def measure(
    contenders: Sequence[Contender],
    file: Path,
    prompts: int,
    repeats: int,
    tokens: int,
    say: Callable[[str], None],
    about: str = "",
) -> list[Measurement]:
    """All measurements, those that stand in the file already among them.

    `about` tells what the contenders were made of: measurements of others are passed over.
    """
    found = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    found = [each for each in found if each.get("about", "") == about and each["repeat"] < repeats]
    left = list(rounds(prompts, repeats))
    began, taken_now = time.perf_counter(), 0
    wanted = {contender.name for contender in contenders}
    for number, (repeat, task, index) in enumerate(left):
        place = {"repeat": repeat, "task": task, "prompt": index, "tokens": tokens}
        here = [each for each in found if all(each[key] == value for key, value in place.items())]
        if wanted <= {each["contender"] for each in here}:
            continue
        found = [each for each in found if each not in here]  # a round that broke off is no pair: it is taken anew
        turn = (repeat + index) % len(contenders)
        system = f"You are a helpful assistant. This is conversation {repeat + 1}."
        taken = []
        for contender in (*contenders[turn:], *contenders[:turn]):
            written = contender.write(system, PROMPTS[task][index], tokens)
            taken.append(
                {**asdict(written), "written": written.tokens, **place, "contender": contender.name, "about": about}
            )
        found += taken
        with file.open("a", encoding="utf-8") as lines:
            lines.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in taken)
        taken_now += 1
        minutes = (time.perf_counter() - began) / taken_now * (len(left) - number - 1) / 60
        say(f"repeat {repeat + 1} of {repeats}, {task} {index + 1}; about {minutes:.0f} minutes to go")
    return found


# llama.cpp


class LlamaContender:
    """llama.cpp by one way of decoding, with servers of its own: nobody profits from another's cache."""

    def __init__(self, name: str, mode: Any, context: int = 2048) -> None:
        """`mode` is a `Mode`, None for plain decoding, or `choose` for the controller."""
        from dynflow.models.cores import physical_cores
        from dynflow.models.embedded import resolve_model_file
        from dynflow.models.llama_cpp import start_server
        from dynflow.models.llama_drafting import dtype_of
        from dynflow.models.llama_speculation import LlamaSpeculator
        from dynflow.speculation.asked import Asked
        from dynflow.speculation.choosing import Chooser

        path = resolve_model_file("embedded/smollm2-135m-instruct", None)

        def make(mode: Any) -> Any:
            return start_server(path, context, physical_cores(), 1, mode)

        self.name = name
        self._asked = Asked(("prompt_lookup",), flow=name)
        self._speculator = LlamaSpeculator(make(None) if mode in (None, "choose") else None, make, dtype_of(path))
        if mode != "choose":
            fixed = Chooser(self._speculator.costs)
            fixed.choose = lambda kind, modes, unread: mode  # type: ignore[method-assign]
            self._speculator.choosers[name] = fixed
        self._speculator.prepare(self._asked if mode == "choose" else Asked(()))

    def write(self, system: str, prompt: str, tokens: int) -> Written:
        from dynflow.models.engine import Job
        from dynflow.speculation.statistics import Speculation

        events: list[Any] = []
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        asked = {"messages": messages, "temperature": 0, "max_tokens": tokens, "stream": True}
        # Without a cache everybody reads the same prompt in the same batches, and so begins with the same roundings.
        request = {**asked, "stream_options": {"include_usage": True}, "cache_prompt": False}
        self._speculator.serve(Job(request, events.append), request, self._asked)
        last = events[-1]
        told = Speculation.from_dict(last["speculation"])
        pieces = [choice["delta"].get("content") or "" for event in events for choice in event.get("choices") or ()]
        whole = told.seconds + last["timings"]["prompt_ms"] / 1000
        return Written("".join(pieces), told.tokens, told.seconds, whole, told.drafted, told.accepted, told.passes)


def llama_contenders() -> Sequence[Contender]:
    """Plain, lookup at fixed settings, and ours, which chooses between them."""
    from dynflow.speculation.choosing import Lookup

    return [
        LlamaContender(PLAIN, None),
        LlamaContender("lookup 3/6", Lookup(3, 6)),
        LlamaContender("lookup 3/16", Lookup(3, 16)),
        LlamaContender(OURS, "choose"),
    ]


# Judging them


@dataclass(frozen=True)
class Ratio:
    """How many times as fast, with a 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(logarithms: Sequence[float]) -> Ratio:
    """The mean of logarithms of ratios, as a ratio."""
    count = len(logarithms)
    mean = math.fsum(logarithms) / count
    if count == 1:
        return Ratio(math.exp(mean), 0.0, math.inf)
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in logarithms) / (count - 1))
    half = _QUANTILES.get(count, 2.0 + 2.6 / count) * spread / math.sqrt(count)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def logarithms(found: Iterable[Measurement], name: str, seconds: str = "seconds") -> dict[tuple[str, int, int], float]:
    """Logarithm of plain's time per token over a contender's, by task, prompt and repeat."""
    times = {
        (each["contender"], each["task"], each["prompt"], each["repeat"]): each[seconds]
        / max(each["tokens_written"], 1)
        for each in found
    }
    return {
        (task, prompt, repeat): math.log(times[PLAIN, task, prompt, repeat] / value)
        for (contender, task, prompt, repeat), value in times.items()
        if contender == name and value > 0
    }


def by_prompt(logs: Mapping[tuple[str, int, int], float], task: str) -> dict[int, list[float]]:
    """The logarithms of a task, by prompt."""
    found: dict[int, list[float]] = {}
    for (each, prompt, _), value in sorted(logs.items()):
        if each == task:
            found.setdefault(prompt, []).append(value)
    return found


def of_task(logs: Mapping[tuple[str, int, int], float], task: str) -> Ratio:
    """A task's geometric mean over its prompts; the interval is over repeats."""
    repeats: dict[int, list[float]] = {}
    for (each, _, repeat), value in logs.items():
        if each == task:
            repeats.setdefault(repeat, []).append(value)
    return ratio([math.fsum(values) / len(values) for values in repeats.values()])


def best_fixed(fixed: Mapping[str, Mapping[tuple[str, int, int], float]], task: str) -> list[tuple[int, str]]:
    """For each repeat, the setting that was best for the task on the other repeats."""
    repeats = sorted({repeat for logs in fixed.values() for (_, _, repeat) in logs})

    def elsewhere(name: str, repeat: int) -> float:
        values = [value for (each, _, other), value in fixed[name].items() if each == task and other != repeat]
        return math.fsum(values) / len(values) if values else 0.0

    return [(repeat, max(fixed, key=lambda name: elsewhere(name, repeat))) for repeat in repeats]


def report(found: Sequence[Measurement], names: Sequence[str], bars: Bars) -> tuple[str, dict[str, Any], list[Verdict]]:
    """Tables in Markdown, their figures for JSON, and the bars."""
    found = [{**each, "tokens_written": len_of(each)} for each in found]
    logs = {name: logarithms(found, name) for name in names if name != PLAIN}
    ours, fixed = logs[OURS], {name: each for name, each in logs.items() if not name.startswith(OURS)}
    lines = [
        "| task | plain, tokens/s | "
        + " | ".join(logs)
        + " | ours / best fixed | accepted of drafted | whole request |",
        "|---|" + "---|" * (len(logs) + 4),
    ]
    figures: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    whole = logarithms(found, OURS, "whole_seconds")
    for task in PROMPTS:
        ratios = {name: of_task(each, task) for name, each in logs.items()}
        against = [
            ours[task, prompt, repeat] - fixed[name][task, prompt, repeat]
            for repeat, name in (best_fixed(fixed, task) if fixed else ())
            for prompt in by_prompt(ours, task)
        ]
        of_fixed = ratio(against) if against else Ratio(math.nan, math.nan, math.nan)
        written = [each for each in found if each["task"] == task and each["contender"] == OURS]
        plain = [each for each in found if each["task"] == task and each["contender"] == PLAIN]
        speed = sum(each["tokens_written"] for each in plain) / sum(each["seconds"] for each in plain)
        shown = " | ".join(str(each) for each in ratios.values())
        drafts = f"{sum(each['accepted'] for each in written)} of {sum(each['drafted'] for each in written)}"
        lines.append(f"| {task} | {speed:.0f} | {shown} | {of_fixed} | {drafts} | {of_task(whole, task)} |")
        figures[task] = {
            "plain_tokens_per_second": speed,
            **{name: asdict(each) for name, each in ratios.items()},
            **({"of_best_fixed": asdict(of_fixed)} if against else {}),
        }
        wanted = max(bars.tasks.get(task, 0.0), bars.every_task)
        verdicts.append(_at_least(f"{task}, of plain", ratios[OURS], wanted))
        if against:
            verdicts.append(_at_least(f"{task}, of the best fixed setting", of_fixed, bars.of_best_fixed))
        below = {
            prompt + 1: each for prompt, values in by_prompt(ours, task).items() if (each := ratio(values)).high < 1.0
        }
        told = ", ".join(f"prompt {prompt}: {each}" for prompt, each in below.items()) or "none"
        verdicts.append(Verdict(f"{task}, prompts whose whole interval is below plain", told, not below))
    every = ratio([value for task in PROMPTS for value in map(_mean, by_prompt(ours, task).values())])
    figures["all prompts"] = asdict(every)
    lines += ["", f"All prompts together: {every}."]
    if bars.all_prompts is not None:
        verdicts.append(_at_least("all prompts, of plain", every, bars.all_prompts))
    differing = differences(found)
    lines += ["", f"Answers that differ from plain decoding's: {len(differing)} of {len(found)}."]
    lines += ["", *(f"- {each}" for each in differing)] if differing else []
    return "\n".join(lines), figures, verdicts


def _at_least(what: str, figure: Ratio, wanted: float) -> Verdict:
    return Verdict(f"{what} at least {wanted}", str(figure), figure.value >= wanted)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def len_of(each: Measurement) -> int:
    """Tokens of an answer after its first, which comes from the pass on the prompt."""
    return int(each["written"]) - 1


def differences(found: Iterable[Measurement]) -> list[str]:
    """Where a contender's greedy text is not plain decoding's."""
    found = list(found)
    texts = {
        (each["task"], each["prompt"], each["repeat"]): each["text"] for each in found if each["contender"] == PLAIN
    }
    return [
        f"{each['contender']}, {each['task']} {each['prompt'] + 1}, repeat {each['repeat'] + 1}"
        for each in found
        if each["text"] != texts[each["task"], each["prompt"], each["repeat"]]
    ]


def arguments(out: Path = Path(__file__).parent / "results") -> argparse.ArgumentParser:
    """What these scripts take."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="eight prompts of each task and 128 tokens")
    parser.add_argument(
        "--quick", action="store_true", help="one prompt of each task and 12 tokens: a trial of the script"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=out)
    return parser


def run(
    name: str, contenders: Sequence[Contender], bars: Bars, given: argparse.Namespace, about: str = ""
) -> Sequence[Verdict]:
    """Measure, print and write the report. `about`: see `measure`."""
    prompts, tokens = (1, 12) if given.quick else (8, 128) if given.full else (4, 64)
    given.out.mkdir(parents=True, exist_ok=True)
    lines = given.out / f"speculative_{name}_{tokens}.jsonl"
    conditions = {
        **machine(["dynflow", "xllamacpp", "torch", "transformers"]),
        "size": f"{tokens} new tokens, {prompts} prompts of each task, {given.repeats} pairs",
        **({"made of": about} if about else {}),
    }
    found = measure(contenders, lines, prompts, given.repeats, tokens, lambda text: print(text, file=sys.stderr), about)
    found = [each for each in found if each["tokens"] == tokens and each["prompt"] < prompts]
    text, figures, verdicts = report(found, [each.name for each in contenders], bars)
    title = f"Speculation by {name}: how many times as fast as plain"
    write(given.out / f"speculative_{name}", title, text, conditions, figures, verdicts)
    return verdicts


def write(
    place: Path,
    title: str,
    text: str,
    conditions: Mapping[str, str],
    figures: Mapping[str, Any],
    verdicts: Sequence[Verdict],
) -> None:
    """Print a report with its bars, and write it beside its JSON."""
    head = "\n".join(f"- {key}: {value}" for key, value in conditions.items())
    held = f"Bars: {sum(each.held for each in verdicts)} of {len(verdicts)} held."
    bars = "\n".join(f"- {each}" for each in verdicts)
    page = f"# {title}\n\n{head}\n\n{text}\n\n{held}\n\n{bars}\n"
    told = {"conditions": conditions, "figures": _plain(figures), "bars": [asdict(each) for each in verdicts]}
    place.with_suffix(".md").write_text(page, encoding="utf-8")
    place.with_suffix(".json").write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    print(page)


def _plain(figures: Any) -> Any:
    """Rounded, and with null for what is unknown or endless."""
    if isinstance(figures, Mapping):
        return {name: _plain(value) for name, value in figures.items()}
    if isinstance(figures, float):
        return round(figures, 4) if math.isfinite(figures) else None
    return figures


def main(given: Sequence[str] | None = None) -> int:
    """Measure, write the report, and say whether every bar is kept."""
    parser = arguments()
    parser.description = (__doc__ or "").splitlines()[0]
    read = parser.parse_args(given)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    verdicts = run("llama_cpp", llama_contenders(), LLAMA_BARS, read)
    return 0 if read.quick or all(each.held for each in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
