"""In which numbers a training computes (needs torch)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def half_precision(device: str = "cpu") -> AbstractContextManager[Any]:
    """Computes in bfloat16 where the device multiplies it quicker than float32; a processor without it is slower."""
    known = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device, torch.bfloat16) if known or device != "cpu" else nullcontext()
