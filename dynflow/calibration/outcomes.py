"""Outcome files: what each node or model gave for recorded requests, and how good it was.

JSON lines: `{"id", "prompt" | "messages", "inputs"?, "conversation"?, "turn"?, "outcomes": {"<node id, else model
name>": {"quality": 0…1, "usd"?, "seconds"?, "response"?, "ports"?, "error"?}}}`. `inputs` holds the further keys that a
graph declares; `ports` holds ports that the other fields do not tell (`{"confidence": 0.8}`); `error` is the kind of a
failure. Rows with the same `conversation` are its requests, in the order of `turn`, a whole number; those without one
come after them, in the order of the lines. Other keys are for people, and not read.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dynflow.errors import FAILURE_KINDS, OutcomeError
from dynflow.language.source import did_you_mean

_IN_WORDS = 20
"""Faults that are told in words; of any further ones the lines are named."""
_MOST = 1e9
"""USD or seconds of one answer: more is a mistake, and sums of it overflow."""
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one node, or model, gave for one request."""

    quality: float | None
    """0 (useless) to 1 (as good as can be); None where only a signal's ports are recorded."""
    usd: float | None = None
    seconds: float | None = None
    response: str | None = None
    ports: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    """The kind of failure, as a node's `error` port has it; the quality is then 0."""


@dataclass(frozen=True, slots=True)
class Row:
    """One recorded request with its outcomes, by name of a node or model."""

    line: int
    id: str
    input: Any
    """What a flow takes: a text, messages, or a mapping with declared keys."""
    outcomes: Mapping[str, Outcome]
    conversation: str | None = None
    """The conversation that it is a request of; None: it stands alone."""
    turn: int | None = None
    """What it comes in its conversation by; None: its line."""

    @property
    def order(self) -> tuple[bool, int]:
        """What the requests of a conversation are sorted by."""
        return (True, self.line) if self.turn is None else (False, self.turn)

    @property
    def draw(self) -> str:
        """What is drawn by chance, whole: the conversation, or the request that stands alone."""
        return self.id if self.conversation is None else self.conversation


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one line, and how to mend it."""

    line: int
    text: str


@dataclass(frozen=True)
class OutcomeFile:
    """All rows of a file, in its order; `sha256` tells whether it is the same file."""

    path: Path
    rows: Sequence[Row]
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of outcomes that any row has, in the order they come up."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.outcomes))

    @property
    def conversational(self) -> bool:
        """Whether any row is of a conversation."""
        return any(row.conversation is not None for row in self.rows)

    @cached_property
    def draws(self) -> Sequence[int]:
        """The independent draw that each row is of, numbered as they come up: its conversation, or the row alone."""
        places: dict[tuple[bool, str], int] = {}
        return [places.setdefault((row.conversation is None, row.draw), len(places)) for row in self.rows]

    @cached_property
    def turns(self) -> Sequence[int]:
        """The place of each row in its conversation, from 0."""
        found: dict[int, int] = {}
        counts: Counter[int] = Counter()
        for row, draw in sorted(zip(self.rows, self.draws, strict=True), key=lambda each: each[0].order):
            found[row.line] = counts[draw]
            counts[draw] += 1
        return [found[row.line] for row in self.rows]

    @property
    def drawn(self) -> int:
        """How many independent draws there are: conversations, and rows that stand alone."""
        return len(set(self.draws))

    def first(self, turns: int) -> OutcomeFile:
        """No more than so many requests of each conversation."""
        kept = [row for row, turn in zip(self.rows, self.turns, strict=True) if turn < turns]
        return replace(self, rows=kept)

    def shuffled(self) -> OutcomeFile:
        """The rows in an order that their ids decide: by chance, and the same each time. Conversations stay whole."""

        def lot(row: Row) -> tuple[bytes, tuple[bool, int]]:
            return hashlib.sha256(f"order {row.draw}".encode()).digest(), row.order

        return replace(self, rows=sorted(self.rows, key=lot))

    def split(self, share: float) -> tuple[OutcomeFile, OutcomeFile]:
        """About this share of the rows, and the others; of a conversation all are on one side.

        A row's id, or its conversation's name, decides: it is on the same side each time.
        """
        bound = int(share * 2**32)
        first = [row for row in self.rows if int(hashlib.sha256(row.draw.encode()).hexdigest()[:8], 16) < bound]
        taken = {row.line for row in first}
        return replace(self, rows=first), replace(self, rows=[row for row in self.rows if row.line not in taken])


def read_outcomes(path: str | Path) -> OutcomeFile:
    """The rows of an outcome file. Raises `OutcomeError` with every faulty line, `OSError` where it cannot be read."""
    path = Path(path)
    data = path.read_bytes()
    rows: list[Row] = []
    faults: list[Fault] = []
    first: dict[str, int] = {}
    for line, text in enumerate(data.removeprefix(_BOM).splitlines(), 1):
        if not text.strip():
            continue
        row, wrong = _row(line, text)
        faults += [Fault(line, fault) for fault in wrong]
        if row is None:
            continue
        if row.id in first:
            faults.append(
                Fault(line, f"the id {row.id!r} stands in line {first[row.id]} already: give each row its own")
            )
        first.setdefault(row.id, line)
        rows.append(row)
    if faults:
        raise outcome_error(path, faults)
    if not rows:
        raise OutcomeError(f'{path} has no rows: each line is one, {{"id": …, "prompt": …, "outcomes": {{…}}}}')
    return OutcomeFile(path, rows, hashlib.sha256(data).hexdigest())


def outcome_error(path: Path, faults: Sequence[Fault]) -> OutcomeError:
    """All faults of a file as one error: the first in words, of the others the lines."""
    told = [f"{path}:{fault.line}: {fault.text}" for fault in faults[:_IN_WORDS]]
    lines = sorted({fault.line for fault in faults})
    rest = sorted({fault.line for fault in faults[_IN_WORDS:]})
    if rest:
        told.append(f"{path}: and further faults in line{'s' if len(rest) > 1 else ''} {_ranges(rest)}")
    told.append(
        f"{len(lines):,} faulty line{'s' if len(lines) > 1 else ''}; nothing was left out in silence: mend them all"
    )
    return OutcomeError("\n".join(told), faults)


def _row(line: int, text: bytes) -> tuple[Row | None, list[str]]:
    """The row of a line (None where it has none to speak of), and what is wrong with it, in words."""
    try:
        read = json.loads(text)
    except UnicodeDecodeError as error:
        return None, [f"no UTF-8 text: {error.reason} at byte {error.start}"]
    except json.JSONDecodeError as error:
        return None, [f"no JSON: {error.msg} at column {error.colno}; each line is one object"]
    except (ValueError, RecursionError) as error:
        return None, [f"no JSON that can be read: {error}"]
    if not isinstance(read, dict):
        return None, [f"a row is an object, not {_kind(read)}"]
    wrong = [*_id_faults(read), *_input_faults(read)]
    if (fault := conversation_fault(read.get("conversation"))) is not None:
        wrong.append(fault)
    if (turn := read.get("turn")) is not None and (isinstance(turn, bool) or not isinstance(turn, int)):
        wrong.append(f'"turn" is a whole number, not {_shown(turn)}; leave it out where the lines are in order')
    outcomes: dict[str, Outcome] = {}
    given = read.get("outcomes")
    if "outcomes" not in read:
        wrong.append(f'no "outcomes"{_misspelt("outcomes", read)}: add {{"<node>": {{"quality": 0…1}}}}')
    elif not isinstance(given, dict):
        wrong.append(f'"outcomes" is an object by node or model name, not {_kind(given)}')
    elif not given:
        wrong.append('"outcomes" is empty: give at least one, {"<node>": {"quality": 0…1}}')
    else:
        for name, body in given.items():
            faults = list(_outcome_faults(name, body))
            wrong += faults
            if not faults:
                outcomes[name] = _outcome(body)
    id, conversation = read.get("id"), read.get("conversation")
    if id is None:
        return None, wrong
    named = None if conversation is None else str(conversation)
    return Row(line, str(id), _input(read), outcomes, named, turn), wrong


def _id_faults(read: Mapping[str, Any]) -> Iterator[str]:
    id = read.get("id")
    if "id" not in read:
        yield f'no "id"{_misspelt("id", read)}: give each row its own'
    elif isinstance(id, bool) or not isinstance(id, str | int):
        yield f'"id" is a text or a whole number, not {_kind(id)}'


def conversation_fault(name: Any) -> str | None:
    """What is wrong with the name of a row's conversation, in words; None is none."""
    if name is None or (isinstance(name, str | int) and not isinstance(name, bool) and name != ""):
        return None
    return f'"conversation" is a text or a whole number, not {_shown(name)}; leave it out of a row that stands alone'


def _input_faults(read: Mapping[str, Any]) -> Iterator[str]:
    given = [key for key in ("prompt", "messages") if key in read]
    inputs = read.get("inputs")
    if inputs is not None and not isinstance(inputs, dict):
        yield f'"inputs" is an object of further request keys, not {_kind(inputs)}'
    if len(given) == 2:
        yield 'both "prompt" and "messages": give one'
    elif not given:
        if not inputs:
            yield f'neither "prompt" (text) nor "messages" (a list){_misspelt("prompt", read)}'
    elif given == ["prompt"]:
        prompt = read["prompt"]
        if not isinstance(prompt, str):
            yield f'"prompt" is a text, not {_kind(prompt)}; give a conversation as "messages"'
        elif not prompt.strip():
            yield '"prompt" is empty: give the request\'s text'
    elif not isinstance(read["messages"], list) or not read["messages"]:
        yield '"messages" is a list with at least one message'


def _outcome_faults(name: str, body: Any) -> Iterator[str]:
    if not isinstance(body, dict):
        yield f'the outcome of {name!r} is an object such as {{"quality": 1}}, not {_kind(body)}'
        return
    if "quality" not in body:
        if "ports" not in body and "error" not in body:
            yield f'the outcome of {name!r} has no "quality"{_misspelt("quality", body)}: give a number from 0 to 1'
    elif not _is_number(body["quality"]) or not 0 <= body["quality"] <= 1:
        yield f"the quality of {name!r} is a number from 0 to 1, not {_shown(body['quality'])}"
    for key, unit in (("usd", "USD"), ("seconds", "seconds")):
        if body.get(key) is not None and not (_is_number(body[key]) and 0 <= body[key] <= _MOST):
            shown = _shown(body[key])
            yield f"{key!r} of {name!r} is {unit}, from 0 to a billion, not {shown}; leave it out where it is unknown"
    if body.get("response") is not None and not isinstance(body["response"], str):
        yield f'"response" of {name!r} is a text, not {_kind(body["response"])}'
    if not isinstance(body.get("ports", {}), dict):
        yield f'"ports" of {name!r} is an object of values by port, not {_kind(body["ports"])}'
    if body.get("error") is not None and body["error"] not in FAILURE_KINDS:
        hint = did_you_mean(str(body["error"]), FAILURE_KINDS)
        yield f'"error" of {name!r} is {_shown(body["error"])}, which is no kind of failure{hint}'


def _outcome(body: Mapping[str, Any]) -> Outcome:
    quality, error = body.get("quality"), body.get("error")
    if error is not None:
        quality = 0.0
    return Outcome(
        None if quality is None else float(quality),
        body.get("usd"),
        body.get("seconds"),
        body.get("response"),
        body.get("ports", {}),
        error,
    )


def _input(read: Mapping[str, Any]) -> Any:
    prompt, messages, inputs = read.get("prompt"), read.get("messages"), read.get("inputs")
    if not isinstance(inputs, dict) or not inputs:
        return messages if prompt is None else prompt
    body = (
        {} if prompt is None and messages is None else {"messages": messages} if prompt is None else {"input": prompt}
    )
    return {**inputs, **body}


def _misspelt(key: str, read: Mapping[str, Any]) -> str:
    """The key of the object that may be meant for one that is missing, in words."""
    near = difflib.get_close_matches(key, [other for other in read if len(other) <= 2 * len(key)], n=1)
    return f" (is {near[0]!r} meant for it?)" if near else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else _kind(value)


def _ranges(lines: Iterable[int]) -> str:
    """Ascending numbers with runs of them as one, such as 3, 7 to 9, 12."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)  # noqa: RUF001
