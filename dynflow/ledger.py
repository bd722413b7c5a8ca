"""What a request cost: tokens, seconds, energy and USD per node, in all, and against the baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from dynflow.models.settings import Price
from dynflow.speculation.statistics import Speculation

COMPUTE_KEY = "dynflow_compute"
"""Key of `response_metadata` under which a model that runs in this process tells what it took."""


@dataclass(frozen=True, slots=True)
class Compute:
    """What a model that runs in this process took to answer, as far as it can be measured here."""

    seconds: float
    """At work, not waiting for its turn."""
    cpu_seconds: float | None = None
    """CPU time of the whole process meanwhile; other work of the process is part of it."""
    joules: float | None = None
    energy_source: str = "none"
    """Where `joules` is from: `nvml` and `rapl` (meters of the GPUs and the CPUs, also joined by `+`), `estimate`
    (CPU seconds times the price's `watts`), or `none`."""

    def __add__(self, other: Compute) -> Compute:
        """Both together; what is unknown of one is unknown of both."""
        sources = dict.fromkeys((self.energy_source, other.energy_source))
        return Compute(
            self.seconds + other.seconds,
            _sum(self.cpu_seconds, other.cpu_seconds),
            _sum(self.joules, other.joules),
            "none" if "none" in sources else "+".join(sources),
        )

    def estimated(self, watts: float | None) -> Compute:
        """With its energy estimated from CPU time, where no meter told it and the power of a busy core is given."""
        if self.joules is not None or self.cpu_seconds is None or watts is None:
            return self
        return replace(self, joules=self.cpu_seconds * watts, energy_source="estimate")


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


@dataclass(frozen=True, slots=True)
class Usage:
    """What one model call used. `model` is an entry of `models:`.

    Cached and cache-write tokens are among the input tokens, reasoning tokens among the output tokens.
    """

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False
    cache_write_tokens: int = 0
    compute: Compute | None = None
    """Of a model that runs in this process."""
    speculation: Speculation | None = None
    """What drafting did, where it was asked for and told of."""

    def __add__(self, other: Usage) -> Usage:
        """Both together; the model named is the first one's, the speculation the last one's."""
        computes = [usage.compute for usage in (self, other) if usage.compute is not None]
        return Usage(
            self.model,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
            self.cache_write_tokens + other.cache_write_tokens,
            computes[0] + computes[1] if len(computes) == 2 else computes[0] if computes else None,
            other.speculation or self.speculation,
        )


def cost(price: Price | None, usage: Usage, seconds: float = 0.0) -> float | None:
    """USD of one call, or None where the price is unknown. `seconds` of compute."""
    if price is None:
        return None
    rates = price.at(usage.input_tokens)
    cached = rates.input if rates.cached is None else rates.cached
    written = rates.input if rates.cache_write is None else rates.cache_write
    fresh = max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens)
    prompt = fresh * rates.input + usage.cached_tokens * cached + usage.cache_write_tokens * written
    return (prompt + usage.output_tokens * rates.output) / 1e6 + seconds * price.second


@dataclass(frozen=True, slots=True)
class Entry:
    """One node's line in the ledger."""

    node: str
    seconds: float
    usd: float | None
    usage: Usage | None = None
    first_token_seconds: float | None = None
    """From the start of the attempt that answered until its first content; None where it did not stream."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for metadata and JSON."""
        line: dict[str, Any] = {"node": self.node, "seconds": round(self.seconds, 6), "usd": self.usd}
        if (usage := self.usage) is not None:
            line.update(
                model=usage.model,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_tokens=usage.cached_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                estimated=usage.estimated,
            )
        if self.first_token_seconds is not None:
            line["first_token_seconds"] = round(self.first_token_seconds, 6)
        if usage is not None and usage.speculation is not None:
            line["speculation"] = usage.speculation.as_dict()
        if usage is not None and (compute := usage.compute) is not None:
            line["compute_seconds"] = round(compute.seconds, 6)
            line["cpu_seconds"] = compute.cpu_seconds
            line["joules"] = compute.joules
            line["energy_source"] = compute.energy_source
        return line


@dataclass
class Ledger:
    """All that one request cost, and what the baseline would have."""

    entries: list[Entry] = field(default_factory=list)
    baseline: str | None = None
    baseline_usd: float | None = None
    """Cost of the baseline answer; an estimate where it did not run: its price for this request's tokens."""

    @property
    def usd(self) -> float | None:
        """USD in all, or None where a price is unknown."""
        costs = [entry.usd for entry in self.entries]
        return None if None in costs else math.fsum(cost for cost in costs if cost is not None)

    @property
    def seconds(self) -> float:
        """Seconds that nodes ran, in all."""
        return math.fsum(entry.seconds for entry in self.entries)

    @property
    def saved_usd(self) -> float | None:
        """USD saved against the baseline; negative where the path cost more.

        It compares costs alone: a degraded answer (`trace.degraded`) is cheap because it is not what was wanted.
        """
        usd = self.usd
        return None if usd is None or self.baseline_usd is None else self.baseline_usd - usd

    @property
    def compute(self) -> Compute | None:
        """What the models that run in this process took, in all; None where none ran."""
        found = [entry.usage.compute for entry in self.entries if entry.usage and entry.usage.compute]
        return sum(found[1:], found[0]) if found else None

    def tokens(self) -> dict[str, int]:
        """Tokens in all: `input` and `output`, and what of them was `cached`, and `reasoning`."""
        used = [entry.usage for entry in self.entries if entry.usage is not None]
        return {
            "input": sum(usage.input_tokens for usage in used),
            "output": sum(usage.output_tokens for usage in used),
            "cached": sum(usage.cached_tokens for usage in used),
            "reasoning": sum(usage.reasoning_tokens for usage in used),
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for metadata and JSON."""
        compute = self.compute
        return {
            "usd": self.usd,
            "seconds": round(self.seconds, 6),
            "tokens": self.tokens(),
            "cpu_seconds": compute and compute.cpu_seconds,
            "joules": compute and compute.joules,
            "energy_source": compute.energy_source if compute else "none",
            "baseline": self.baseline,
            "baseline_usd": self.baseline_usd,
            "saved_usd": self.saved_usd,
            "nodes": [entry.as_dict() for entry in self.entries],
        }
