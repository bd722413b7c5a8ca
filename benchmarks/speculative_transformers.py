"""The engine transformers beside transformers' own ways, measured and judged by `speculative.py`.

python benchmarks/speculative_transformers.py [--dtype bfloat16] [--draft FOLDER] [--passes] [what speculative.py takes]

All contenders share one loaded SmolLM2: plain `generate`, its prompt lookup at 4 and 10 tokens, its assisted generation
where a draft model is given (a folder), and ours. Every answer is greedy. `--passes` counts instead what no clock
disturbs: passes of the target on the edit prompts, against prompt lookup of 10 tokens, with drafts of at most 10.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import speculative
from speculative import OURS, PLAIN, Bars, Contender, Written
from speculative_prompts import PROMPTS

MODEL = "embedded/smollm2-135m-instruct"
BARS = Bars(
    {"copy": 2.5, "extract": 2.5, "edit": 2.5, "summarise": 1.3, "answer": 1.3}, every_task=0.97, all_prompts=1.6
)
FEWER_PASSES = 0.15
_FLAT = {1: 1.0, 33: 1.0}
"""Costs by which every draft pays: for counting passes."""


class Loaded:
    """The model, loaded once, with a count of its passes."""

    def __init__(self, dtype: str, draft: Path | None) -> None:
        from dynflow.models.settings import ModelSettings
        from dynflow.models.store import create

        def load(name: str) -> Any:
            chat: Any = create(ModelSettings(provider="transformers", model=name, dtype=dtype), name)  # type: ignore[arg-type]
            return chat._loaded()

        self._engine = load(MODEL)
        self.model, self.tokenizer = self._engine._model, self._engine._tokenizer
        self.draft = None if draft is None else load(str(draft))._model
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
    """Our decoding, with its controller."""

    name = OURS

    def __init__(self, loaded: Loaded, most: int | None = None, costs: Any = None) -> None:
        from dynflow.speculation.asked import Asked
        from dynflow.speculation.speculator import Speculator

        self._loaded, self._asked = loaded, Asked(("prompt_lookup",), most=most)
        self._speculator = Speculator(loaded.model, costs)
        self._speculator.measure()

    def write(self, system: str, prompt: str, tokens: int) -> Written:
        clock = Clock(prompt_comes=False)
        decoding = self._speculator.decoding(self._asked, clock, lambda: True)
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


def contenders(dtype: str = "bfloat16", draft: Path | None = None) -> Sequence[Contender]:
    """Plain, transformers' fixed settings, and ours."""
    loaded = Loaded(dtype, draft)
    made: list[Contender] = [Own(PLAIN, loaded)]
    made += [Own(f"prompt lookup {size}", loaded, prompt_lookup_num_tokens=size) for size in (4, 10)]
    if loaded.draft is not None:
        made.append(Own("assisted", loaded, assistant_model=loaded.draft))
    return [*made, Ours(loaded)]


def count_passes(prompts: int, tokens: int) -> bool:
    """Passes of the target on the edit prompts; whether ours are enough fewer."""
    from dynflow.speculation.costs import Costs

    loaded = Loaded("float32", None)
    theirs = Own("prompt lookup 10", loaded, prompt_lookup_num_tokens=10)
    ours = Ours(loaded, most=10, costs=Costs(_FLAT))
    system = "You are a helpful assistant."
    counts = [0, 0]
    for prompt in PROMPTS["edit"][:prompts]:
        written = [each.write(system, prompt, tokens) for each in (theirs, ours)]
        if written[0].text != written[1].text:
            print(f"the texts differ: {prompt[:60]!r}")
        counts = [count + each.passes for count, each in zip(counts, written, strict=True)]
        print(f"prompt lookup 10: {written[0].passes} passes; dynflow: {written[1].passes}", file=sys.stderr)
    fewer = 1 - counts[1] / counts[0]
    print(f"{counts[1]} passes against {counts[0]}: {fewer:.0%} fewer; at least {FEWER_PASSES:.0%} is wanted")
    return fewer >= FEWER_PASSES


def main() -> int:
    """Measure in one dtype, or count passes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--draft", type=Path, help="folder of a draft model")
    parser.add_argument("--passes", action="store_true", help="count passes on the edit prompts, and nothing else")
    given, others = parser.parse_known_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if given.passes:
        return 0 if count_passes(*((8, 128) if "--full" in others else (4, 64))) else 1
    name = f"transformers_{given.dtype}"
    speculative.ENGINES = {**speculative.ENGINES, name: (lambda: contenders(given.dtype, given.draft), BARS)}
    return speculative.main(["--engine", name, *others])


if __name__ == "__main__":
    sys.exit(main())
