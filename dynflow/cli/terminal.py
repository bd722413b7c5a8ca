"""What the verbs share: tables, problems in colour, files written whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dynflow.language.source import Problem

_SEVERITY_COLOURS = {"error": "red", "warning": "yellow"}


def render_problem(problem: Problem) -> str:
    """A problem with its source line and caret; colours are dropped where the output is no terminal."""
    mark = f"{problem.severity}[{problem.code}]"
    coloured = click.style(mark, fg=_SEVERITY_COLOURS[problem.severity], bold=True)
    return problem.render().replace(mark, coloured, 1)


def table(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Rows with their columns aligned; the last column is as long as it is."""
    widths = [max((len(row[column]) for row in rows if column < len(row) - 1), default=0) for column in range(99)]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]])
        for row in rows
    )
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises `OSError`, and `click.ClickException` where its folder is missing."""
    if not path.parent.is_dir():
        raise click.ClickException(f"there is no folder {path.parent}")
    try:
        _write_aside(path, content)
    except OSError as error:  # of a temporary file, whose name would tell nobody anything
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_aside(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        unfinished = Path(file.name)
        try:
            file.write(content)
            file.close()
            unfinished.chmod(0o666 & ~_umask())  # a temporary file is its owner's alone
            unfinished.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
