"""Amounts of money in words."""

from __future__ import annotations

from decimal import Decimal


def dollars(usd: float) -> str:
    """An amount of USD with as many digits as it needs: `$0`, `$0.00021`, `$1.50`; below a millionth it says so."""
    if usd == 0:
        return "$0"
    if abs(usd) < 1e-6:
        return "under $0.000001"
    return f"${usd:.2f}" if abs(usd) >= 1 else "$" + f"{usd:.6f}".rstrip("0")


def precise_dollars(usd: float) -> str:
    """An amount of USD to four significant digits, never as a power of ten: `$0.00000343`, `$0.002`, `$12.5`."""
    return f"${Decimal(f'{usd:.4g}'):f}"
