"""How far a command is, on standard error. Of rows: one line that is written over on a terminal, elsewhere a line now
and then; of other long work: a bar for each part."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from dynflow.money import dollars

if TYPE_CHECKING:
    from dynflow.batch_file.file_run import FileRun, R
    from dynflow.batch_file.report import RowsReport

_ON_TERMINAL = 0.1
_ELSEWHERE = 30.0
"""Seconds between two lines."""
_BAR = 20
_BEGIN_OF_LINE = "\r\x1b[K"
"""Back to the line's first column, and wipe it."""


class Progress:
    """Tells of a report as it grows, not more often than it can be read."""

    def __init__(self, stream: TextIO | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._terminal = stream is not None and stream.isatty()
        self._every = _ON_TERMINAL if self._terminal else _ELSEWHERE
        self._began = self._told = clock()

    def __call__(self, report: RowsReport) -> None:
        now = self._clock()
        if now - self._told < self._every:
            return
        self._told = now
        line = progress_line(report, now - self._began)
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"{_BEGIN_OF_LINE}{line[:width]}")
        else:
            self._write(f"{line}\n")

    def end(self) -> None:
        """Leave the terminal's line to what comes next."""
        if self._terminal:
            self._write(_BEGIN_OF_LINE)

    def _write(self, text: str) -> None:
        if self._stream is None:
            return
        with suppress(OSError):  # that nobody reads it is no reason to stop
            self._stream.write(text)
            self._stream.flush()


def run_rows(run: FileRun[R], prepare: Callable[[], None]) -> R:
    """Run the rows that are left, with progress on standard error; `prepare` comes before the first of them; why it
    stopped, and that the same command goes on, is said at the end."""
    report = run.report
    if report.earlier:
        click.echo(f"{report.earlier:,} of {report.rows:,} rows were finished earlier", err=True)
    progress = Progress(sys.stderr)
    try:
        if report.left:
            prepare()
            asyncio.run(run.run(progress))
    finally:
        progress.end()
        if report.stopped is not None:
            click.echo(f"{click.style('stopped:', fg='yellow', bold=True)} {report.stopped}", err=True)
        if report.left:
            text = f"{report.left:,} of {report.rows:,} rows are left; the same command goes on with them"
            click.echo(text, err=True)
    return report


def progress_line(report: RowsReport, seconds: float) -> str:
    """One line: rows, rate, time left, cost and saving so far, failures. `seconds`: since this run began."""
    share = report.finished / report.rows if report.rows else 1.0
    full = int(_BAR * share)
    parts = [f"[{'#' * full}{'-' * (_BAR - full)}] {report.finished:,} of {report.rows:,} rows ({share:.0%})"]
    here = report.finished - report.earlier
    if here and seconds > 0:
        rate = here / seconds
        parts.append(f"{rate:.3g} rows/s" if rate >= 1 else f"{1 / rate:.3g} s a row")
        parts.append(f"{duration(report.left / rate)} left")
    parts.append(spent(report))
    if report.failed:
        parts.append(f"{report.failed:,} failed")
    return " · ".join(parts)


def spent(report: RowsReport) -> str:
    """Cost and, of a batch, saving so far, in words."""
    from dynflow.batch_file.report import Report

    cost = f"cost {dollars(report.usd)}"
    if report.unpriced:
        cost = f"cost {'at least ' if report.usd else ''}{dollars(report.usd) if report.usd else 'unknown'}"
    if not isinstance(report, Report) or (share := report.saved_share) is None:
        return cost
    if share < 0:
        return f"{cost}, {dollars(-report.saved_usd)} more than the baseline"
    return f"{cost}, {dollars(report.saved_usd)} saved ({share:.0%})"


@contextmanager
def progress_bars() -> Iterator[Callable[[int, int, str], None]]:
    """A function `progress(done, total, what)` that shows one bar for each `what`, on standard error."""
    with ExitStack() as stack:
        bars: dict[str, Any] = {}

        def progress(done: int, total: int, what: str) -> None:
            if what not in bars:
                stack.pop_all().close()  # the bar before ends its line
                bars[what] = stack.enter_context(click.progressbar(length=total, label=what, file=sys.stderr))
            bars[what].update(done - bars[what].pos)

        yield progress


def duration(seconds: float) -> str:
    """A time in the units that people use: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60:,} h {minutes % 60} min"
