"""How many threads a local model should use."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """The physical cores that this process may use, at least 1.

    Hyper-threads share the arithmetic units that a model waits for, so they add nothing. A container's CPU quota
    (cgroup v2) and the process's affinity count; where neither can be read, all the machine's cores do.
    """
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:  # not on macOS, not on Windows
        return os.cpu_count() or 1
    cores = len({_siblings(cpu) for cpu in usable})
    return max(1, min(cores, _quota() or cores))


def _siblings(cpu: int) -> str:
    """The hyper-threads of one core, as the kernel lists them; the CPU alone where it does not tell."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _quota() -> int | None:
    try:
        allowed, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if allowed == "max" else -(-int(allowed) // int(period))
    except (OSError, ValueError):
        return None
