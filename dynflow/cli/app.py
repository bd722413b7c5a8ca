"""The `dynflow` command: finds a verb's file when the verb is used, and turns errors into lines and exit codes."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

import click

VERBS = (
    "check",
    "run",
    "batch",
    "explain",
    "replay",
    "draw",
    "new",
    "nodes",
    "models",
    "schema",
    "train",
    "evaluate",
    "calibrate",
    "completion",
)
FAILED = 1
INTERRUPTED = 130
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Verbs(click.Group):
    """A group whose commands are the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"dynflow.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with a guess at what a misspelt verb was meant to be."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            from dynflow.language.source import did_you_mean

            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run, then exit: 0 done, 1 the graph or the run failed, 2 wrong usage, 130 interrupted."""
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name or "dynflow", **extra)
        except click.Abort:
            click.echo("interrupted", err=True)
            code = INTERRUPTED
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except Exception as error:
            if _debugging(sys.argv[1:] if args is None else args):
                raise
            click.echo(explain_error(error), err=True)
            code = FAILED
        sys.exit(code if isinstance(code, int) else 0)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="dynflow", prog_name="dynflow")
@click.option("--debug", is_flag=True, help="Show tracebacks, warnings and logs.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Graphs that decide which requests need the big model.

    \b
    Examples:
      dynflow new graph.yaml                        a commented graph to start from
      dynflow check graph.yaml                      every fault, with its place
      dynflow run graph.yaml "What is a quark?"     the answer, and why it took that path
      dynflow explain graph.yaml "What is a quark?" the decisions alone; nothing is generated
      dynflow draw graph.yaml -o graph.svg
    """
    if "NO_COLOR" in os.environ:
        ctx.color = False
    if debug:
        logging.basicConfig(level=logging.INFO)
        return
    # The libraries beneath have much to say that is not the user's business.
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())


def main() -> None:
    """Entry point of the `dynflow` script."""
    if sys.stdout is None:
        click.echo("error: standard output is closed: there is nowhere to write to", err=True)
        sys.exit(FAILED)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without our arrows is no reason to fail
    sys.unraisablehook = _unraisable
    try:
        cli.main(prog_name="dynflow")
    except KeyboardInterrupt:  # another one, while the first is told of
        _leave(INTERRUPTED)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            _leave(INTERRUPTED)
        raise
    finally:
        _flush()
        # A Ctrl-C while threads end is no news any more: end at once and without a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """As Python does it, but a Ctrl-C that comes where no error can be raised, as in mid-import, is not lost."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    click.echo("interrupted", err=True)
    _leave(INTERRUPTED)


def _leave(code: int) -> NoReturn:
    """End without waiting for threads: one may be loading a model, which takes long and cannot be stopped."""
    _flush()
    os._exit(code)


def _flush() -> None:
    """Write out what is still to be written; where that fails it has failed before, and Python must not try again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain_error(error: Exception) -> str:
    """An error in words for the terminal: what is wrong with the graph or the run, or that it is a fault of ours."""
    from dynflow.errors import CalibrationError, DynflowError, GraphError

    if isinstance(error, GraphError):
        from dynflow.cli.terminal import render_problem

        return "\n".join(render_problem(problem) for problem in error.problems)
    # Notes say in which node it happened.
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    code = f"[{error.code}]" if isinstance(error, CalibrationError) else ""
    label = click.style(f"error{code}:", fg="red", bold=True)
    if isinstance(error, DynflowError) or _is_model_error(error):
        return f"{label} {error}{notes}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{label} {error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f"{label} the output cannot be written: {error.strerror}"
    return f"{label} {type(error).__name__}: {error}{notes}; rerun with `dynflow --debug …` for the traceback"


def _is_model_error(error: Exception) -> bool:
    exceptions = sys.modules.get("langchain_core.exceptions")  # not loaded: then it is none of these
    return exceptions is not None and isinstance(error, exceptions.ModelError)


def _debugging(args: Sequence[str]) -> bool:
    return "--debug" in takewhile(lambda argument: argument.startswith("-"), args)
