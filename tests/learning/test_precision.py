"""Trainings compute in bfloat16 only where that is quicker."""

from __future__ import annotations

import pytest
import torch

from dynflow.learning.precision import half_precision


@pytest.mark.parametrize("known", [True, False])
def test_a_processor_without_bfloat16_computes_in_float32(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: known)
    square = torch.eye(2)
    with half_precision():
        assert (square @ square).dtype == (torch.bfloat16 if known else torch.float32)
