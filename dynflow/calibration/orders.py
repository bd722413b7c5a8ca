"""Options of which only an order matters (`Node.compared`): which of two numbers is the greater, everywhere at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynflow.calibration.columns import Column, Floats, Lookup
from dynflow.language.references import EnvironmentReference, Reference
from dynflow.node import Shifted
from dynflow.request import Request

Codes = NDArray[np.int64]
"""A number for each different thing [t | 1, n | 1]."""


def numbers(value: Any, lookup: Lookup, requests: Sequence[Request]) -> Floats | None:
    """A literal, a reference, a function of the request, or one of these shifted, as numbers [t | 1, n | 1].

    NaN stands where it is null; None is given where there is anything else than numbers.
    """
    if isinstance(value, Shifted):
        inner = numbers(value.number, lookup, requests)
        return None if inner is None else inner + value.by
    if isinstance(value, Reference):
        return _referred(value, lookup)
    if isinstance(value, EnvironmentReference):
        return None
    column = Column.of([value(request) for request in requests] if callable(value) else [value])
    values = column.floats()
    return None if values is None else np.atleast_2d(values)


def _referred(reference: Reference, lookup: Lookup) -> Floats | None:
    """The first target that is known, as `Call.options` has it."""
    found, missing = np.full((1, 1), math.nan), np.ones((1, 1), dtype=bool)
    for owner, port in reference.targets:
        name, _, key = port.partition(".")
        column = lookup(owner, name)
        if key:
            column = column.key(key)
        values = column.floats()
        if values is None:
            return None
        found = np.where(missing & column.known, values, found)
        missing = missing & ~column.known
    return found


def order(left: Floats, right: Floats) -> Codes:
    """A number for each of: less, equal, more, and which of the two is null."""
    nulls = 4 * np.isnan(left) + 8 * np.isnan(right)
    return np.asarray(1 * (left < right) + 2 * (left > right) + nulls, dtype=np.int64)


def joined(codes: Sequence[Codes]) -> Codes:
    """One number for each different combination of codes [k], which are not negative."""
    whole = np.zeros(1, dtype=np.int64)
    for code in codes:
        size = int(code.max(initial=0)) + 1
        if int(whole.max(initial=0)) >= np.iinfo(np.int64).max // size - 1:
            whole = np.unique(whole, return_inverse=True)[1]
        whole = whole * size + code
    return whole
