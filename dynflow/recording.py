"""One request's record, from its start to its end, however it ends; then it goes to those who want it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from dynflow.ledger import Ledger
from dynflow.session import Session
from dynflow.trace import Trace
from dynflow.trace_file import TraceFile
from dynflow.visit import Completed, Visit
from dynflow.walk import Decision


class Observer(Protocol):
    """Whoever follows requests while their LangChain runs are open, such as `dynflow.otel`. It must not raise."""

    def visit_begun(self, flow: UUID, run: UUID, visit: Visit, decisions: Sequence[Decision]) -> None:
        """A node's run has begun, inside the flow's; `decisions` are those taken so far."""
        ...

    def visit_ended(self, run: UUID, visit: Visit, done: Completed) -> None:
        """A node's run is about to end; the visit is billed."""
        ...

    def request_ended(self, flow: UUID, trace: Trace, ledger: Ledger) -> None:
        """A flow's run is about to end; where its stream was abandoned it may have ended."""
        ...


observers: list[Observer] = []
"""Those of this process: told of every request's end, and of the visits that LangChain's callbacks follow."""


class Recording:
    """The record of one request: closed once, and written where the host wants it."""

    def __init__(self, trace: Trace, run: UUID, request: Any, file: TraceFile | None) -> None:
        self.trace = trace
        self.session: Session | None = None
        """None until the request was taken."""
        self._run = run
        self._request = request
        self._file = file
        self._ended = False

    def end(self, error: BaseException | None = None) -> None:
        """The request has ended, so. The first word counts."""
        if self._ended:
            return
        self._ended = True
        session, ledger = self.session, Ledger()
        if session is None:
            self.trace.end(error, 0.0)
        else:
            session.end(error)
            ledger = session.ledger
        for observer in observers:
            observer.request_ended(self._run, self.trace, ledger)
        if self._file is not None and (session is None or session.enclosing is None):
            answer = getattr(error, "partial", None) if error is not None or session is None else session.value
            self._file.add(self.trace, ledger, self._request, answer)
