"""Every error that dynflow raises on purpose.

::

    DynflowError
    ├── GraphError              a graph file is wrong; `.problems` lists every fault with its place
    ├── InputError              a request is empty, too long, or of a type the graph does not take
    ├── ParamError              a param was set to a value outside its type or range
    ├── BatchFileError          a batch's input or output file cannot be used
    ├── GradingError            a grader is none, lacks what it needs, or gave no number from 0 to 1
    ├── OutcomeError            an outcome file cannot be used; `.faults` lists every faulty line
    ├── CalibrationError        outcomes that nothing can be concluded from; `.code` says why
    ├── MissingEnvironment      a model needs an environment variable that is not set
    ├── MissingDependency       an optional package is not installed; names the command that installs it
    ├── MissingModel            a model's files are not on this machine; names the command that gets them
    ├── ArtefactError           a trained artefact is damaged, or made for something else
    ├── NodeTimeout             a node took longer than its `timeout`
    ├── DeadlineExceeded        the request's `limits.timeout` expired
    ├── BudgetExceeded          a call could cost more than the limits allow
    ├── Overloaded              a local model's queue is full
    ├── RefusedByModel          a model declined to answer
    ├── NodeFailed              a node failed without an exception of its own (a race that nobody won)
    ├── NoEligibleAnswer        no way on from a node fits what the request needs
    └── StreamInterrupted       an answer broke off after its first token; `.partial` holds what came

Errors of model providers are langchain-core's `ModelError` family. A node's failure that no edge handles is raised
as it is, with a note that names the node. `failure_kind` maps any exception to the closed set that edges compare
with (`cloud.error == 'rate_limit'`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dynflow.calibration.outcomes import Fault
    from dynflow.language.source import Problem
    from dynflow.ledger import Usage

FailureKind = Literal[
    "timeout", "deadline", "rate_limit", "auth", "budget", "unavailable", "invalid", "refused", "internal"
]
FAILURE_KINDS: tuple[str, ...] = get_args(FailureKind)


class DynflowError(Exception):
    """Base of all errors that dynflow raises on purpose."""

    kind: FailureKind = "internal"


class GraphError(DynflowError):
    """A graph cannot be used; `problems` holds every fault that was found, in the order of the text."""

    kind = "invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.render() for problem in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


class InputError(DynflowError, ValueError):
    """A request is empty, too long, or of a type that the graph does not take."""

    kind = "invalid"


class ParamError(DynflowError, ValueError):
    """A param was set to a value outside its type or range, or does not exist."""

    kind = "invalid"


class BatchFileError(DynflowError):
    """A batch's input or output file cannot be used; where a line is at fault, it is named."""

    kind = "invalid"


class GradingError(DynflowError):
    """A grader is none, lacks what it needs, or gave no number from 0 to 1."""

    kind = "invalid"


class OutcomeError(DynflowError):
    """An outcome file cannot be used, or lacks what a graph needs; `faults` lists every faulty line."""

    kind = "invalid"

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        self.faults = tuple(faults)
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.faults)


class CalibrationError(DynflowError):
    """Outcomes that nothing can be concluded from.

    `code`: `contaminated` (an artefact was trained on them), `too_little_data` (too few for the promise),
    `broken_promise` (no setting keeps it), `no_cap` (costs without a bound), `no_knob` (nothing to tune),
    `dependent` (what happens to a request depends on those before it, and it is not told which these are, or how).
    """

    kind = "invalid"

    def __init__(self, message: str, code: str = "too_little_data") -> None:
        self.code = code
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code)


class MissingEnvironment(DynflowError):
    """A model needs an environment variable that is not set; `variable` names it."""

    kind = "auth"

    def __init__(self, variable: str, needed_by: str) -> None:
        self.variable = variable
        self.needed_by = needed_by
        super().__init__(
            f"{needed_by} needs the environment variable {variable}, which is not set: export {variable}=…"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.variable, self.needed_by)


class MissingDependency(DynflowError, ImportError):
    """An optional package is not installed; the message holds the command that installs it."""

    kind = "unavailable"

    def __init__(self, what: str, command: str) -> None:
        self.what = what
        self.command = command
        super().__init__(f"{what} is not installed; install it with: {command}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.what, self.command)


class MissingModel(DynflowError):
    """A model's files are not on this machine; the message holds the command that gets them, where there is one."""

    kind = "unavailable"


class ArtefactError(DynflowError):
    """A trained artefact is damaged, incomplete, or made for another model."""

    kind = "unavailable"


class NodeTimeout(DynflowError, TimeoutError):
    """A node took longer than its `timeout`."""

    kind = "timeout"


class DeadlineExceeded(DynflowError, TimeoutError):
    """The request's `limits.timeout` expired."""

    kind = "deadline"


class BudgetExceeded(DynflowError):
    """A call could cost more than the limits allow, or its price is unknown while a limit is set."""

    kind = "budget"
    limit: str | None = None
    """`usd_per_request` or `usd_per_day`, whichever refused."""


class Overloaded(DynflowError):
    """A local model's queue is full: the request was not taken."""

    kind = "unavailable"


class RefusedByModel(DynflowError):
    """A model declined to answer (a content filter, a refusal field).

    `usage` is what it used all the same, where it had begun: a refusal is billed like any answer.
    """

    kind = "refused"

    def __init__(self, message: str, *, usage: Usage | None = None) -> None:
        self.usage = usage
        super().__init__(message)


class NodeFailed(DynflowError):
    """A node failed without an exception of its own, such as a race that no member won.

    `usage` is what it used all the same: the tokens of an answer that did not fit, say.
    """

    def __init__(self, message: str, *, usage: Usage | None = None) -> None:
        self.usage = usage
        super().__init__(message)


class NoEligibleAnswer(DynflowError):
    """No way on from a node fits what the request needs (tools, images, audio, context length)."""

    kind = "invalid"


class StreamInterrupted(DynflowError):
    """An answer broke off after its first token; `partial` is what had arrived."""

    kind = "unavailable"

    def __init__(self, partial: Any, message: str) -> None:
        self.partial = partial
        self.message = message
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.partial, self.message)


def failure_kind(error: BaseException) -> FailureKind:
    """The value of a failed node's `error` port: the closed set that edges compare with."""
    if isinstance(error, DynflowError):
        return error.kind
    from langchain_core import exceptions as lc

    table: tuple[tuple[type[BaseException], FailureKind], ...] = (
        (lc.ModelRateLimitError, "rate_limit"),
        (lc.ModelAuthenticationError, "auth"),
        (lc.ModelPermissionDeniedError, "auth"),
        (lc.ModelTimeoutError, "timeout"),
        (lc.ModelInvalidRequestError, "invalid"),
        (lc.ContextOverflowError, "invalid"),
        (lc.ModelError, "unavailable"),
        (TimeoutError, "timeout"),
        (ConnectionError, "unavailable"),
    )
    return next((kind for family, kind in table if isinstance(error, family)), "internal")
