"""Arguments of the verbs that read outcome files, and figures as these verbs print them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dynflow.money import dollars

if TYPE_CHECKING:
    from dynflow.calibration.curves import Interval
    from dynflow.calibration.outcomes import OutcomeFile

outcomes_file: Mapping[str, Any] = {
    "type": click.Path(exists=True, dir_okay=False, path_type=Path),
    "metavar": "FILE",
    "help": 'JSON lines: {"id", "prompt", "outcomes": {"<node, else model>": {"quality": 0…1, "usd"?, "response"?}}}.',
}
"""What `--outcomes` is, in all verbs."""
outcomes_option: Callable[..., Any] = click.option("--outcomes", required=True, **outcomes_file)
bind_option: Callable[..., Any] = click.option(
    "--outcome",
    "bindings",
    multiple=True,
    metavar="NAME=NODE",
    help="The file's name for the outcomes of a node, such as weak=local. May be given several times.",
)
of_option: Callable[..., Any] = click.option(
    "--of", metavar="NODE", help="The strong path's answer; default: the graph's baseline, else the dearest."
)


def read_bindings(given: Sequence[str]) -> Mapping[str, list[str]]:
    """The nodes of `--outcome`, by the file's name for them. Raises `click.BadParameter`."""
    found: dict[str, list[str]] = {}
    for binding in given:
        name, equals, node = (part.strip() for part in binding.partition("="))
        if not equals or not name or not node:
            raise click.BadParameter(f"{binding!r} is not NAME=NODE", param_hint="--outcome")
        if name in found:
            told = f"the outcomes of {name!r} are bound to {found[name][0]!r} already: bind each name once"
            raise click.BadParameter(told, param_hint="--outcome")
        found[name] = [node]
    return found


def read_file(path: Path) -> OutcomeFile:
    """The outcome file. Raises `OutcomeError`, and `MissingDependency` where numpy or scipy is not installed."""
    from dynflow.calibration.outcomes import read_outcomes

    require_calibration()
    return read_outcomes(path)


def require_calibration() -> None:
    """Raises `MissingDependency` where numpy or scipy is not installed."""
    from dynflow.errors import MissingDependency

    try:
        import numpy  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise MissingDependency(str(error.name), 'pip install "dynflow[calibration]"') from error


def share(interval: Interval) -> str:
    """A share in per cent with its interval."""
    return _shown(interval, lambda value: f"{100 * value:.1f} %")


def number(interval: Interval) -> str:
    """A number with its interval."""
    return _shown(interval, lambda value: f"{value:.3f}")


def money(interval: Interval) -> str:
    """USD with their interval."""
    return _shown(interval, lambda value: dollars(float(f"{value:.3g}")))


def _shown(interval: Interval, form: Callable[[float], str]) -> str:
    if math.isnan(interval.value):
        return "unknown"
    if math.isnan(interval.low):
        return form(interval.value)
    return f"{form(interval.value)}  [{form(interval.low)}, {form(interval.high)}]"
