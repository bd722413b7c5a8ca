"""The kind that a failure has for edges, and how long a provider asks to wait."""

from __future__ import annotations

import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from langchain_core import exceptions as lc

from dynflow.errors import FAILURE_KINDS, MissingEnvironment, MissingModel, RefusedByModel, failure_kind
from dynflow.models.failures import QuotaExhausted, from_status, retry_after

PAGE = Path(__file__).parents[2] / "docs" / "failures.md"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((from_status(status, "no"), "timeout") for status in (408, 504)),
        *((from_status(status, "no"), "rate_limit") for status in (402, 429)),
        *((from_status(status, "no"), "auth") for status in (401, 403)),
        *((from_status(status, "no"), "unavailable") for status in (None, 404, 500, 503, 529)),
        *((from_status(status, "no"), "invalid") for status in (400, 413, 422)),
        (MissingEnvironment("KEY", "model 'm'"), "auth"),
        (MissingModel("gone"), "unavailable"),
        (lc.ContextOverflowError("too long"), "invalid"),
        (RefusedByModel("no"), "refused"),
        (ValueError("a fault of the code"), "internal"),
    ],
    ids=repr,
)
def test_kinds(error: Exception, kind: str) -> None:
    assert failure_kind(error) == kind


def test_an_account_without_credit_is_the_same_failure_whatever_its_status() -> None:
    """OpenAI reports it as a 429, OpenRouter and DeepSeek as a 402."""
    told = OSError("429")
    told.body = {"code": "insufficient_quota"}  # type: ignore[attr-defined]
    assert type(from_status(429, "no", told)) is type(from_status(402, "no")) is QuotaExhausted
    told.response = SimpleNamespace(headers={"retry-after": "7"})  # type: ignore[attr-defined]
    for status in (402, 429):
        error = from_status(status, "no", told)
        assert not error.is_retryable
        assert error.billed is False  # type: ignore[attr-defined]
        assert error.retry_after == 7  # type: ignore[attr-defined]


def test_the_page_on_failures_has_all_kinds() -> None:
    rows = PAGE.read_text("utf-8").split("## The kinds")[1].split("## The table")[0].splitlines()
    assert [row.split("`")[1] for row in rows if row.startswith("| `") and row[3:8] != "error"] == list(FAILURE_KINDS)


def test_what_a_response_asks() -> None:
    assert retry_after({}) is None
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": formatdate(time.time() - 30, usegmt=True)}) == 0
    for nonsense in ("soon", "-1", "nan", "inf", ""):
        assert retry_after({"retry-after": nonsense}) is None
