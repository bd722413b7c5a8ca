"""Retries that do not wait of their own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts, wait for no longer than a provider asked."""
    monkeypatch.setattr("dynflow.models.retries.BACKOFF", 0.0)
