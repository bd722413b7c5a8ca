"""The engine transformers beside transformers' own ways, measured and judged as `speculative.py` does it.

python benchmarks/speculative_transformers.py [--dtype bfloat16] [--head FOLDER] [--draft FOLDER] [--passes]
    [--full] [--repeats 5] [--out benchmarks/results]

All contenders share one loaded SmolLM2: plain `generate`, its prompt lookup at 4 and 10 tokens, its assisted generation
where a draft model is given (a folder), and ours: by lookup and, where there is one, a draft head. Then lookup alone is
shown beside it. `--head` is a folder of `dynflow train draft`; unset: the head that comes with dynflow, if any. Every
answer is greedy. `--passes` counts instead what no clock disturbs: passes of the target on the edit prompts, against
prompt lookup of 10 tokens, with drafts of at most 10.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import machine
from speculative import OURS, PLAIN, Bars, Contender, Verdict, Written, arguments, run, write
from speculative_prompts import PROMPTS

MODEL = "embedded/smollm2-135m-instruct"
BARS = Bars(
    {"copy": 2.5, "extract": 2.5, "edit": 2.5, "summarise": 1.3, "answer": 1.3}, every_task=0.97, all_prompts=1.6
)
FEWER_PASSES = 0.15
LOOKUP_ALONE = f"{OURS}, lookup alone"
_FLAT = {1: 1.0, 33: 1.0}
"""Costs by which every draft pays: for counting passes."""


class Loaded:
    """The model, loaded once, with a count of its passes, and its draft head, if any."""

    def __init__(self, dtype: str, draft: Path | None, head: str | None = None) -> None:
        from dynflow.models.settings import ModelSettings
        from dynflow.models.store import create
        from dynflow.speculation.draft_head.artefact import load

        def loaded(name: str) -> tuple[Any, Any]:
            chat: Any = create(ModelSettings(provider="transformers", model=name, dtype=dtype), name)  # type: ignore[arg-type]
            read: tuple[Any, Any] = chat.loaded()
            return read

        self.tokenizer, self.model = loaded(MODEL)
        self.draft = None if draft is None else loaded(str(draft))[1]
        self.head = None if head is None else load(head, self.model)
        self.passes = 0
        self.model.register_forward_pre_hook(self._count)

    def _count(self, module: Any, arguments: Any) -> None:
        self.passes += 1

    def generate(self, system: str, prompt: str, tokens: int, clock: Clock, **how: Any) -> Written:
        """One greedy answer."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        asked = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        before, began = self.passes, time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = self.model.generate(
                **asked,
                do_sample=False,
                max_new_tokens=tokens,
                pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
                **how,
            )
        new = text[0, asked["input_ids"].shape[1] :]
        answer = self.tokenizer.decode(new, skip_special_tokens=True)
        passes = self.passes - before - 1
        return Written(answer, len(new), clock.last - clock.first, clock.last - began, passes=passes)


class Clock:
    """When the first tokens came, and the last: transformers' streamer, and a writer of ours."""

    def __init__(self, prompt_comes: bool) -> None:
        self._prompt_comes = prompt_comes
        self.first = self.last = 0.0

    def put(self, ids: Any) -> None:
        """Tokens have come; a streamer's first are the prompt's."""
        if self._prompt_comes:
            self._prompt_comes = False
            return
        self.last = time.perf_counter()
        self.first = self.first or self.last

    def end(self) -> None:
        """Of the streamer's interface."""

    def flush(self, accepted: bool) -> None:
        """Of the writer's."""


class Own:
    """transformers' `generate`, with options."""

    def __init__(self, name: str, loaded: Loaded, **options: Any) -> None:
        self.name, self._loaded, self._options = name, loaded, options

    def write(self, system: str, prompt: str, tokens: int) -> Written:
        clock = Clock(prompt_comes=True)
        return self._loaded.generate(system, prompt, tokens, clock, streamer=clock, **self._options)


class Ours:
    """Our decoding, with its controller: by lookup, and the draft head where one is asked for."""

    def __init__(
        self, loaded: Loaded, most: int | None = None, costs: Any = None, head: bool = True, name: str = OURS
    ) -> None:
        from dynflow.speculation.asked import Asked
        from dynflow.speculation.speculator import Speculator

        self.name, self._loaded = name, loaded
        self._head = loaded.head if head else None
        self._asked = Asked(("prompt_lookup", "draft_head"), most=most)
        self._speculator = Speculator(loaded.model, costs)
        self._speculator.measure()

    def write(self, system: str, prompt: str, tokens: int) -> Written:
        from dynflow.speculation.draft_head.drafter import DraftHead

        clock = Clock(prompt_comes=False)
        further = [] if self._head is None else [DraftHead(self._head, self._loaded.model.config.vocab_size, None)]
        decoding = self._speculator.decoding(self._asked, clock, lambda: True, further)
        written = self._loaded.generate(system, prompt, tokens, clock, custom_generate=decoding)
        told = decoding.statistics()
        return Written(
            written.text,
            written.tokens,
            written.seconds,
            written.whole_seconds,
            told.drafted,
            told.accepted,
            told.passes,
        )


def ours(loaded: Loaded, **how: Any) -> list[Contender]:
    """What is judged; with a draft head, lookup alone beside it."""
    alone = [] if loaded.head is None else [Ours(loaded, head=False, name=LOOKUP_ALONE, **how)]
    return [*alone, Ours(loaded, **how)]


def contenders(loaded: Loaded) -> list[Contender]:
    """Plain, transformers' fixed settings, and ours."""
    made: list[Contender] = [Own(PLAIN, loaded)]
    made += [Own(f"prompt lookup {size}", loaded, prompt_lookup_num_tokens=size) for size in (4, 10)]
    if loaded.draft is not None:
        made.append(Own("assisted", loaded, assistant_model=loaded.draft))
    return [*made, *ours(loaded)]


def count_passes(loaded: Loaded, prompts: int, tokens: int) -> tuple[str, Mapping[str, Any], list[Verdict]]:
    """Passes of the target on the edit prompts; whether ours are enough fewer."""
    from dynflow.speculation.costs import Costs

    class Fixed(Costs):
        """Learns nothing from the clock."""

        def learn(self, tokens: int, seconds: float) -> None:
            pass

    theirs = Own("prompt lookup 10", loaded, prompt_lookup_num_tokens=10)
    made: list[Contender] = [theirs, *ours(loaded, most=10, costs=Fixed(_FLAT))]
    names = [each.name for each in made]
    lines = [f"| prompt | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    counts, differing = dict.fromkeys(names, 0), 0
    for number, prompt in enumerate(PROMPTS["edit"][:prompts], start=1):
        written = {each.name: each.write("You are a helpful assistant.", prompt, tokens) for each in made}
        counts = {name: count + written[name].passes for name, count in counts.items()}
        differing += sum(each.text != written[theirs.name].text for each in written.values())
        lines.append(f"| edit {number} | {' | '.join(str(each.passes) for each in written.values())} |")
        print(lines[-1], file=sys.stderr)
    lines.append(f"| all | {' | '.join(map(str, counts.values()))} |")
    fewer = 1 - counts[OURS] / counts[theirs.name]
    lines += ["", f"Answers that differ from {theirs.name}'s: {differing}."]
    bar = f"{FEWER_PASSES:.0%} fewer passes than {theirs.name}"
    return "\n".join(lines), {"passes": counts, "fewer": fewer}, [Verdict(bar, f"{fewer:.1%}", fewer >= FEWER_PASSES)]


def _head(given: str | None) -> tuple[str | None, str]:
    """The draft head to use, and what it is made of, in words."""
    from dynflow.speculation.draft_head.artefact import describe, shipped

    name = given or (MODEL if MODEL in shipped() else None)
    return name, "no draft head" if name is None else f"draft head {describe(name)[1].sha256[:12]}"


def main(given: Sequence[str] | None = None) -> int:
    """Measure in one dtype, or count passes."""
    parser = arguments()
    parser.description = (__doc__ or "").splitlines()[0]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--head", help="folder of a draft head; unset: the one that comes with dynflow, if any")
    parser.add_argument("--draft", type=Path, help="folder of a draft model")
    parser.add_argument("--passes", action="store_true", help="count passes on the edit prompts, and nothing else")
    read = parser.parse_args(given)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    head, about = _head(read.head)
    if read.passes:
        size = (1, 12) if read.quick else (8, 128) if read.full else (4, 64)
        text, figures, verdicts = count_passes(Loaded("float32", None, head), *size)
        read.out.mkdir(parents=True, exist_ok=True)
        conditions = {
            **machine(["dynflow", "torch", "transformers"]),
            "size": f"{size[0]} edit prompts, {size[1]} new tokens, drafts of at most 10, float32",
            "made of": about,
        }
        place = read.out / "speculative_transformers_passes"
        write(place, "Passes of the target, counted", text, conditions, figures, verdicts)
    else:
        made = contenders(Loaded(read.dtype, read.draft, head))
        verdicts = list(run(f"transformers_{read.dtype}", made, BARS, read, about))
    return 0 if read.quick or all(each.held for each in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
