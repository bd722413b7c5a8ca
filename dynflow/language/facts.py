"""What a condition proves: which nodes must have succeeded, failed or run whenever it is true (or false)."""

from __future__ import annotations

from dataclasses import dataclass

from dynflow.language.expression import Both, Comparison, Constant, Either, Items, Not, Port, Term, ports_of

_RAN_PORTS = frozenset({"error", "seconds", "usd"})
"""Known once a node ran, succeeded or not; every other port but `ok` and `failed` is known only after success."""
_NOT_NODES = frozenset({"params", "input", "budget"})


@dataclass(frozen=True, slots=True)
class Facts:
    """Nodes that certainly succeeded, certainly failed, or certainly did not succeed."""

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
            total = parts[0]
            for part in parts[1:]:
                total = total | part if isinstance(term, Both) is holds else total & part
            return total
        case Port(owner=owner, path=("ok",)) if owner not in _NOT_NODES:
            return Facts(succeeded=frozenset({owner})) if holds else Facts()
        case Port(owner=owner, path=("failed",)) if owner not in _NOT_NODES:
            return Facts(failed=frozenset({owner})) if holds else Facts()
        case Comparison(operands=operands, operators=operators) if len(operators) > 1 and not holds:
            links = [Comparison(0, 1, pair, (operator,)) for pair, operator in _links(operands, operators)]
            return facts(Both(0, 1, tuple(links)), holds=False)
        case Comparison(operands=operands, operators=(operator,)):
            return _equality_facts(operands, operator, holds) | _known(term)
        case Constant(value=value):
            # A branch that can never be taken proves everything; saying nothing is the safe answer.
            del value
            return Facts()
        case _:
            return _known(term)


def _known(term: Term) -> Facts:
    """A comparison with a known result has read only ports of nodes that succeeded."""
    return Facts(
        succeeded=frozenset(
            port.owner
            for port in ports_of(term)
            if port.owner not in _NOT_NODES and port.path[0] not in _RAN_PORTS | {"ok", "failed"}
        )
    )


def _equality_facts(operands: tuple[Term, ...], operator: str, holds: bool) -> Facts:
    """`cloud.error == 'rate_limit'` proves a failure, as does membership in a list of kinds."""
    left, right = operands
    for port, other in ((left, right), (right, left)):
        if not (isinstance(port, Port) and port.path == ("error",) and port.owner not in _NOT_NODES):
            continue
        values = [item.value for item in other.items if isinstance(item, Constant)] if isinstance(other, Items) else []
        values += [other.value] if isinstance(other, Constant) else []
        positive = operator in ("==", "in") if holds else operator in ("!=", "not in")
        if values and positive and all(isinstance(value, str) for value in values):
            return Facts(failed=frozenset({port.owner}))
    return Facts()


def _links(operands: tuple[Term, ...], operators: tuple[str, ...]) -> list[tuple[tuple[Term, Term], str]]:
    return [((operands[index], operands[index + 1]), operator) for index, operator in enumerate(operators)]


def mentions_failure(term: Term) -> frozenset[str]:
    """Nodes whose failure a condition looks at: by `.failed`, `.ok` or `.error`."""
    return frozenset(port.owner for port in ports_of(term) if port.path[0] in ("failed", "ok", "error"))


def conjuncts(term: Term) -> tuple[Term, ...]:
    """The parts of a condition that all must hold."""
    return tuple(part for operand in term.operands for part in conjuncts(operand)) if isinstance(term, Both) else (term,)
