"""What work in this process takes: seconds, CPU time, and energy where a meter can be read.

Meters: RAPL, Linux's counters of the CPU packages (`/sys/class/powercap`, often readable by root alone), and NVML, the
GPUs' own (package `nvidia-ml-py`). Both count all that CPUs and GPUs draw meanwhile, other programs' work and idling
among it; a machine with neither has no figure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dynflow.ledger import Compute

POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Measures from its making on; `read` tells what was taken so far."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu = time.process_time()
        self._rapl = _rapl()
        self._nvml = _nvml()

    def read(self) -> Compute:
        """Seconds and energy since then. Energy is None where no meter could be read, at the start or now."""
        seconds, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        found = {"nvml": _gpu_joules(self._nvml, _nvml()), "rapl": _cpu_joules(self._rapl, _rapl())}
        joules = {source: value for source, value in found.items() if value is not None}
        if not joules:
            return Compute(seconds, cpu)
        return Compute(seconds, cpu, sum(joules.values()), "+".join(joules))


def _rapl() -> dict[Path, int] | None:
    """The counter of each CPU package, in microjoules; None where one cannot be read."""
    try:
        return {zone: int((zone / "energy_uj").read_text()) for zone in _packages(POWERCAP)} or None
    except (OSError, ValueError):
        return None


@cache
def _packages(folder: Path) -> tuple[Path, ...]:
    """The zones of CPU packages. Other zones lie inside them (`core`, `dram`) or around them (`psys`)."""
    return tuple(sorted(_zones(folder)))


def _zones(folder: Path) -> Iterator[Path]:
    for zone in folder.glob("intel-rapl:*"):  # so named for AMD's packages too
        try:
            name = (zone / "name").read_text().strip()
        except OSError:
            continue
        if name.startswith("package"):
            yield zone


def _cpu_joules(before: dict[Path, int] | None, after: dict[Path, int] | None) -> float | None:
    if before is None or after is None:
        return None
    return sum(_difference(zone, before[zone], after[zone]) for zone in before) / 1e6


def _difference(zone: Path, before: int, after: int) -> int:
    """Counters begin anew at a maximum; work of an hour at full power could pass it twice, which nobody can see."""
    if after >= before:
        return after - before
    try:
        return after - before + int((zone / "max_energy_range_uj").read_text())
    except (OSError, ValueError):
        return after


def _nvml() -> list[int] | None:
    """The counter of each GPU, in millijoules; None where one cannot be read."""
    library = _library()
    if library is None:
        return None
    try:
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        return [int(library.nvmlDeviceGetTotalEnergyConsumption(handle)) for handle in handles] or None
    except library.NVMLError:
        return None


def _gpu_joules(before: list[int] | None, after: list[int] | None) -> float | None:
    if before is None or after is None or len(before) != len(after):
        return None
    return sum(now - then for then, now in zip(before, after, strict=True)) / 1e3


@cache
def _library() -> Any:
    """NVML, ready to be asked; None without its package, a driver, or a GPU."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
