"""Budgets of a day, what is reserved of them, and processes that do so side by side."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from dynflow.budgets import Books, Budget, DayAllowance, Reservation
from dynflow.language.spec import Limits
from dynflow.models.settings import Price
from dynflow.prompt_size import PromptSize

DAY = "2026-03-01"
PRICE = Price(output=1.0)
"""A dollar for a million tokens: a token is a millionth."""


def day_of(books: Books, usd: float = 1.0) -> DayAllowance:
    return DayAllowance(usd, books, today=lambda: DAY)


def budget(books: Books, usd: float = 1.0, **limits: Any) -> Budget:
    return Budget(Limits(**limits), day_of(books, usd))


def prompt(most: int) -> PromptSize:
    size = PromptSize([])
    size.__dict__["most"] = most  # takes the place of the cached value
    return size


def reserve(budget: Budget, usd: float) -> Reservation:
    return budget.reserve("m", PRICE, prompt(0), round(usd * 1e6))[1]


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert said(process) == "ready"
    return process


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
