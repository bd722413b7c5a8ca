"""The param by which texts leave early, as calibration sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from dynflow.calibration.rules import StopRule
from dynflow.errors import InputError
from dynflow.language.references import Reference
from dynflow.nodes.early_exit_classifier.criteria import criterion_of

if TYPE_CHECKING:
    from dynflow.calibration.signals import Progress
    from dynflow.calibration.trajectories import Runs
    from dynflow.nodes.early_exit_classifier.artefact import Described
    from dynflow.nodes.early_exit_classifier.model import EarlyExitModel
    from dynflow.request import Request


def stop_rule_of(
    given: Mapping[str, Any],
    read: str | Reference | None,
    params: Mapping[str, Any],
    described: Described,
    model: Callable[[], AbstractContextManager[EarlyExitModel]],
) -> StopRule | None:
    """The rule of options `exit` and `text`; None where no param is the threshold, or the rest is not known here.

    `model` lends the model to one caller at a time.
    """
    name = _param(given["threshold"])
    settled = {key: params.get(_param(value) or "", value) for key, value in given.items()} | {"threshold": 0.0}
    if name is None or any(isinstance(value, Reference) for value in settled.values()):
        return None
    criterion = criterion_of(settled, described.facts.criteria)
    layers = sorted({*described.facts.heads["layers"], described.facts.depth})

    def runs(texts: Sequence[str], progress: Progress, timed: bool) -> Runs:
        from dynflow.nodes.early_exit_classifier.whole_runs import runs_of

        with model() as lent:
            return runs_of(lent, criterion, texts, progress, timed)

    def fault(text: str) -> str | None:
        with model() as lent:
            try:
                lent.reader.read(text)
            except InputError as error:
                return str(error)
        return None

    def text(request: Request) -> str:
        return str(request.text if read is None else read)

    return StopRule(
        param=name,
        falling=criterion.falling,
        most=criterion.highest(len(described.facts.labels), layers),
        unit="layers",
        outputs=described.facts.labels,
        runs=runs,
        fault=fault,
        text=None if isinstance(read, Reference) else text,
    )


def _param(value: Any) -> str | None:
    """The name of the param that a value refers to; None: to none, or to another port where that is missing."""
    if isinstance(value, Reference) and len(value.targets) == 1 and value.targets[0][0] == "params":
        return value.targets[0][1]
    return None
