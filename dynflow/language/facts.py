"""What a condition proves: which nodes must have succeeded, failed or run whenever it is true (or false)."""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass

from dynflow.language.expression import (
    Arithmetic,
    Both,
    Comparison,
    Constant,
    Either,
    FunctionCall,
    Items,
    Negative,
    Not,
    Port,
    Term,
    ports_of,
)

_RAN_PORTS = frozenset({"error", "seconds", "usd"})
"""Known once a node ran, succeeded or not; every other port but `ok` and `failed` is known only after success."""
_NOT_NODES = frozenset({"params", "input", "budget"})


@dataclass(frozen=True, slots=True)
class Facts:
    """Nodes that certainly succeeded, and nodes that certainly failed."""

    succeeded: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()

    def __or__(self, other: Facts) -> Facts:
        return Facts(self.succeeded | other.succeeded, self.failed | other.failed)

    def __and__(self, other: Facts) -> Facts:
        return Facts(self.succeeded & other.succeeded, self.failed & other.failed)


def facts(term: Term, *, holds: bool = True) -> Facts:
    """What is certain where the condition is true (`holds`) or false; unknown proves nothing and is neither."""
    match term:
        case Not(operand=operand):
            return facts(operand, holds=not holds)
        case Both(operands=operands) | Either(operands=operands):
            parts = [facts(operand, holds=holds) for operand in operands]
            together = isinstance(term, Both) is holds  # all parts are as they are said to be, else only one of them
            return functools.reduce(operator.or_ if together else operator.and_, parts)
        case Port(owner=owner, path=("ok",)) if owner not in _NOT_NODES:
            return Facts(succeeded=frozenset({owner})) if holds else Facts()
        case Port(owner=owner, path=("failed",)) if owner not in _NOT_NODES:
            return Facts(failed=frozenset({owner})) if holds else Facts()
        case Comparison(operands=operands, operators=operators) if len(operators) > 1:
            links = tuple(Comparison(0, 1, pair, (name,)) for pair, name in _links(operands, operators))
            return facts(Both(0, 1, links), holds=holds)
        case Comparison(operands=operands, operators=(name,)):
            return _error_facts(operands, name, holds) | _known(term)
        case _:
            return _known(term)


def _known(term: Term) -> Facts:
    """What is certain where a part of a condition has a known value, whichever it is."""
    match term:
        case Port(owner=owner, path=(port, *_)) if owner not in _NOT_NODES:
            unsaid = port in _RAN_PORTS or port in ("ok", "failed")
            return Facts() if unsaid else Facts(succeeded=frozenset({owner}))
        case Comparison(operands=parts, operators=(_,)) | Items(items=parts) | FunctionCall(arguments=parts):
            return _all_known(parts)
        case Arithmetic(left=left, right=right):
            return _all_known((left, right))
        case Negative(operand=operand) | Not(operand=operand):
            return _known(operand)
        case _:  # of `and`, `or` and a chain one part may decide while another is unknown
            return Facts()


def _all_known(parts: tuple[Term, ...]) -> Facts:
    return functools.reduce(operator.or_, (_known(part) for part in parts), Facts())


def _error_facts(operands: tuple[Term, ...], name: str, holds: bool) -> Facts:
    """`cloud.error == 'rate_limit'` proves a failure, as does membership in a list; `== null` proves success."""
    left, right = operands
    for port, other in ((left, right), (right, left)):
        if not (isinstance(port, Port) and port.path == ("error",) and port.owner not in _NOT_NODES):
            continue
        if not isinstance(other, (Items, Constant)) or (name in ("in", "not in") and port is not left):
            continue
        equals = name in ("==", "in") if holds else name in ("!=", "not in")
        values = [getattr(item, "value", None) for item in other.items] if isinstance(other, Items) else [other.value]
        if values and equals and all(isinstance(value, str) for value in values):
            return Facts(failed=frozenset({port.owner}))
        if isinstance(other, Constant) and other.value is None:
            return Facts(succeeded=frozenset({port.owner})) if equals else Facts(failed=frozenset({port.owner}))
    return Facts()


def _links(operands: tuple[Term, ...], operators: tuple[str, ...]) -> list[tuple[tuple[Term, Term], str]]:
    return [((operands[index], operands[index + 1]), name) for index, name in enumerate(operators)]


def mentions_failure(term: Term) -> frozenset[str]:
    """Nodes whose failure a condition looks at: by `.failed`, `.ok` or `.error`."""
    return frozenset(port.owner for port in ports_of(term) if port.path[0] in ("failed", "ok", "error"))
