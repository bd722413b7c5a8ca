"""Arguments that several verbs take: a graph file, a request, and params."""

from __future__ import annotations

import base64
import json
import math
import mimetypes
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from dynflow.flow import Flow
    from dynflow.language.spec import ParamBody
    from dynflow.trace_file import TraceFile


def complete_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell completes file names itself."""
    return [CompletionItem(incomplete, type="file")]


class FiniteRange(click.FloatRange):
    """A number in a range; `nan`, which is in none and outside of none, and `inf` are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises `click.BadParameter`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


# Whether the file can be read is said where it is read, with a guess at what was meant.
graph_argument = click.argument("graph", shell_complete=complete_file)
input_argument = click.argument("input", required=False)
set_option: Callable[..., Any] = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PARAM=VALUE",
    help="Set a param for this request; one of a sub-graph as NODE/PARAM. May be given several times.",
)


def trace_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--trace` and `--trace-content` to a verb; it hands them on to `tracing`."""
    command = click.option(
        "--trace-content", is_flag=True, help="Let --trace write requests and answers too, not only what was decided."
    )(command)
    return click.option(
        "--trace",
        metavar="FILE",
        shell_complete=complete_file,
        help="Append a record of each request to FILE, as JSON lines; `dynflow replay` reads it.",
    )(command)


@contextmanager
def tracing(trace: str | None, content: bool) -> Iterator[TraceFile | None]:
    """The file that `load(…, trace=…)` takes, or None; at the end it is said how many records were lost.

    Raises `OSError` at once where it cannot be written, and `click.UsageError` for content without a file.
    """
    if trace is None:
        if content:
            raise click.UsageError("--trace-content goes with --trace FILE")
        yield None
        return
    from dynflow.trace_file import TraceFile

    file = TraceFile(trace, content=content)
    file.check()
    try:
        yield file
    finally:
        if file.lost:
            label = click.style("warning:", fg="yellow", bold=True)
            lost = "1 record" if file.lost == 1 else f"{file.lost:,} records"
            click.echo(f"{label} {lost} could not be written to {trace}", err=True)


def read_request(given: str | None, flow: Flow) -> Any:
    """The request: the argument, or standard input where it is `-` or left out and no terminal.

    A graph that declares `inputs:` also takes a JSON object, one that hears a sound file's path. Raises
    `click.UsageError`, `InputError`.
    """
    if given is not None and (sound := _sound(given, flow)) is not None:
        return sound
    text = _text(given)
    if not flow.checked.spec.inputs or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        from dynflow.errors import InputError

        raise InputError(f"the request begins with {{ but is no JSON: {error}") from None


def _sound(given: str, flow: Flow) -> Any:
    """The file of this path as a user turn, where a node of the graph is made for sound; None where it is none."""
    if not any(plan.cls.hears for plan in flow.checked.nodes.values()):
        return None
    try:
        if not Path(given).is_file():
            return None
    except OSError:  # a name that is too long is a text
        return None
    try:
        data = base64.b64encode(Path(given).read_bytes()).decode("ascii")
    except OSError as error:
        raise click.UsageError(f"{given} cannot be read: {error}") from None
    kind = mimetypes.guess_type(given)[0] or "application/octet-stream"
    return [{"role": "user", "content": [{"type": "audio", "base64": data, "mime_type": kind}]}]


def _text(given: str | None) -> str:
    if given is not None and given != "-":
        return given
    if sys.stdin is None:
        from dynflow.errors import InputError

        raise InputError("standard input is closed: give the question as an argument")
    if given is None and sys.stdin.isatty():
        raise click.UsageError("give a question as INPUT, or pipe one in")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is no UTF-8 text: {error.reason} at byte {error.start}") from None


def read_params(settings: Sequence[str], params: Mapping[str, ParamBody]) -> dict[str, Any]:
    """The values of `--set`, by name. Raises `click.BadParameter`."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise click.BadParameter(f"{setting!r} is not PARAM=VALUE", param_hint="--set")
        if name not in params:
            from dynflow.language.source import did_you_mean

            hint = did_you_mean(name, params) if params else "; it has none"
            raise click.BadParameter(f"the graph has no param {name!r}{hint}", param_hint="--set")
        body = params[name]
        try:
            found[name] = body.check(_value(text.strip(), body.default))
        except ValueError as error:
            raise click.BadParameter(f"{name}: {error}", param_hint="--set") from None
    return found


def _value(text: str, default: Any) -> Any:
    """The text as a value of the default's type; as it is where it is none, for the param to refuse."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text, text)
    if isinstance(default, (int, float)):
        try:
            return type(default)(text)
        except ValueError:
            return text
    return text
