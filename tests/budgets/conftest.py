"""The books that tests of budgets write in: a file, and a store in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynflow.budget_store import BudgetStore
from dynflow.budgets import Books


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "budgets.sqlite3"


@pytest.fixture(params=["file", "memory"])
def books(request: pytest.FixtureRequest, file: Path) -> Iterator[Books]:
    store = BudgetStore(file if request.param == "file" else None)
    yield Books(store, "graph")
    store.close()
