"""YAML text → plain values with their places. YAML 1.2 scalars; hostile input is refused, never expanded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from dynflow.language.source import Place, Source

MAX_BYTES = 256 * 1024
MAX_DEPTH = 24
MAX_VALUES = 20_000
_MAX_DIGITS = 64

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ANCHOR = re.compile(r"&\S+\s+")
_UNQUOTED_REFERENCE = re.compile(r"[{\[][^'\"]*\$\{")
_MOST_DUPLICATES = 100
_LONGEST_HINTED = 1_000
_WHEN = "a `when` with , [ ] { } # or ': ', or beginning with a quote, ! or *, must be quoted"
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Unreadable(Exception):
    """The text is no YAML that dynflow reads."""


@dataclass(slots=True)
class _Tree:
    place: Place
    value: Any = None  # of a scalar
    items: list[_Tree] | None = None
    pairs: list[tuple[str, Place, _Tree]] | None = None
    merged: list[tuple[Place, _Tree]] = field(default_factory=list)
    """Values of `<<`, each with the place of its key."""


def resolve_plain(text: str) -> Any:
    """The value of a plain scalar under the YAML 1.2 core schema: `on`, `no`, `12:30` are text, `010` is ten."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text[2:], 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text[2:], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def decode(data: bytes | str, file: str) -> Source:
    """A source from a file's bytes; the problem is reported in it where they are no text that can be read."""
    try:
        if len(data) <= MAX_BYTES:
            text = data.decode("utf-8-sig") if isinstance(data, bytes) else data.removeprefix("\ufeff")
            small = isinstance(data, bytes) or len(data.encode()) <= MAX_BYTES
        else:
            text, small = "", False
    except UnicodeError:
        source = Source("", file)
        source.report_at("not_text", "the file is not UTF-8 text: save it as such", Place())
        return source
    if not small:
        source = Source("", file)
        source.report_at("too_large", f"the file has more than {MAX_BYTES:,} bytes: split it into sub-graphs", Place())
        return source
    return Source(text, file)


def read(source: Source) -> Any:
    """The plain value of a source's text; places go into the source, so do problems (then the value is None)."""
    if source.problems:
        return None
    try:
        tree = _compose(source)
        return _plain(tree, (), source, [0]) if tree is not None else None
    except Unreadable:
        return None
    except yaml.YAMLError as error:
        _report_syntax(source, error)
        return None


def _place(event: Any) -> Place:
    start, end = event.start_mark, event.end_mark
    length = end.column - start.column if end.line == start.line else 1
    return Place(start.line + 1, start.column + 1, max(1, length))


def _behind_anchor(source: Source, place: Place) -> Place:
    """The place of the value itself, where its anchor stands before it on the line."""
    line = source.lines[place.line - 1]
    match = _ANCHOR.match(line, place.column - 1)
    if match is None or match.end() == len(line):
        return place
    return Place(place.line, match.end() + 1, max(1, place.length - (match.end() - place.column + 1)))


def _compose(source: Source) -> _Tree | None:
    """Build the tree from parser events, with an explicit stack: depth is ours to bound, not the interpreter's."""
    anchors: dict[str, _Tree] = {}
    root: _Tree | None = None
    stack: list[tuple[_Tree, list[Any]]] = []  # the open collection and, for a mapping, its pending key
    documents = 0

    def attach(tree: _Tree, event: Any) -> None:
        nonlocal root
        if not stack:
            root = tree
            return
        parent, pending = stack[-1]
        if parent.items is not None:
            parent.items.append(tree)
        elif not pending:
            if not isinstance(event, yaml.ScalarEvent):
                _refuse(source, "bad_key", "a key must be plain text: no list, mapping or alias", tree.place)
            pending.append((str(event.value), tree.place))
        else:
            name, place = pending.pop()
            if name == "<<":
                parent.merged.append((place, tree))
            elif parent.pairs is not None:
                parent.pairs.append((name, place, tree))

    for event in _events(source):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                _refuse(
                    source, "many_documents", "a graph is one YAML document; remove the second `---`", _place(event)
                )
        elif isinstance(event, yaml.AliasEvent):
            anchor, place = str(event.anchor), _place(event)
            if anchor not in anchors:
                hint = _when_hint(source, place)
                _refuse(
                    source,
                    "unknown_anchor",
                    f"there is no anchor &{anchor} before this alias: set it first, or quote the text{hint}",
                    place,
                )
            if any(tree is anchors[anchor] for tree, _ in stack):
                _refuse(source, "alias_bomb", f"&{anchor} holds itself: remove this alias", place)
            attach(anchors[anchor], event)
        elif isinstance(event, (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            if event.tag is not None:
                hint = _when_hint(source, _place(event))
                _refuse(source, "tag", f"tags are not part of the language: remove {event.tag!r}{hint}", _place(event))
            tree = _Tree(_place(event))
            if event.anchor:
                anchors[event.anchor] = tree
                tree.place = _behind_anchor(source, tree.place)
            attach(tree, event)
            if isinstance(event, yaml.ScalarEvent):
                tree.value = resolve_plain(event.value) if event.implicit[0] else event.value
            else:
                if len(stack) >= MAX_DEPTH:
                    _refuse(
                        source,
                        "too_deep",
                        f"nested more than {MAX_DEPTH} levels deep: no graph needs that, flatten it",
                        tree.place,
                    )
                tree.items = [] if isinstance(event, yaml.SequenceStartEvent) else None
                tree.pairs = None if tree.items is not None else []
                stack.append((tree, []))
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            stack.pop()
    return root


def _events(source: Source) -> Iterator[Any]:
    loader = _LOADER(source.text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def _merge_sources(source: Source, tree: _Tree, place: Place) -> list[_Tree]:
    trees = tree.items if tree.items is not None else [tree]
    if any(item.pairs is None for item in trees):
        _refuse(source, "bad_merge", "`<<` takes a mapping or a list of mappings", place)
    return trees


def _plain(tree: _Tree, path: tuple[str | int, ...], source: Source, count: list[int]) -> Any:
    """Plain values; every visit counts, so an alias bomb stops at MAX_VALUES however it is built."""
    count[0] += 1
    if count[0] > MAX_VALUES or len(path) > 2 * MAX_DEPTH:
        _refuse(source, "alias_bomb", f"the aliases expand to more than {MAX_VALUES:,} values: use fewer", tree.place)
    source.values[path] = tree.place
    if tree.items is not None:
        return [_plain(item, (*path, index), source, count) for index, item in enumerate(tree.items)]
    if tree.pairs is None:
        return tree.value
    result: dict[str, Any] = {}
    for name, place, item in _pairs(tree, source, count):
        source.keys[(*path, name)] = place
        result[name] = _plain(item, (*path, name), source, count)
    return result


def _pairs(tree: _Tree, source: Source, count: list[int], depth: int = 0) -> list[tuple[str, Place, _Tree]]:
    """The pairs of a mapping: its own first, then merged ones that it does not override."""
    if depth > MAX_DEPTH:
        _refuse(source, "too_deep", f"merged more than {MAX_DEPTH} levels deep: write the keys out", tree.place)
    seen: dict[str, tuple[str, Place, _Tree]] = {}
    duplicates = 0
    for name, place, item in tree.pairs or ():
        if name in seen:
            _, first, other = seen[name]
            text = f"{name!r} is given twice (first in line {first.line}): keep one, or join them"
            source.report_at("duplicate_key", text, place)
            duplicates += 1
            if duplicates > _MOST_DUPLICATES:
                raise Unreadable
            item = _joined(other, item)
        seen[name] = (name, seen[name][1] if name in seen else place, item)
    for merged in (item for place, value in tree.merged for item in _merge_sources(source, value, place)):
        count[0] += 1 + len(merged.pairs or ())
        if count[0] > MAX_VALUES:
            _refuse(
                source, "alias_bomb", f"the aliases expand to more than {MAX_VALUES:,} values: use fewer", tree.place
            )
        for name, place, item in _pairs(merged, source, count, depth + 1):
            seen.setdefault(name, (name, place, item))
    return list(seen.values())


def _joined(first: _Tree, second: _Tree) -> _Tree:
    """Both values of a key that is given twice, so that what stands in the second is no unknown to the checks."""
    if first.pairs is not None and second.pairs is not None:
        return _Tree(first.place, pairs=[*first.pairs, *second.pairs], merged=[*first.merged, *second.merged])
    if first.items is not None and second.items is not None:
        return _Tree(first.place, items=[*first.items, *second.items])
    return first


def _refuse(source: Source, code: str, text: str, place: Place) -> None:
    source.report_at(code, text, place)
    raise Unreadable


def _when_hint(source: Source, place: Place) -> str:
    text = source.lines[place.line - 1] if place.line <= len(source.lines) else ""
    return "; quote a `when` that begins with a quote, ! or *" if "when:" in text else ""


def _report_syntax(source: Source, error: yaml.YAMLError) -> None:
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n", 1)[0]
    context = getattr(error, "context_mark", None)
    place = _syntax_place(source, error)
    first = min(context.line if context else place.line - 1, max(0, place.line - 2))
    # The lines that may be at fault. Very long ones get no hint: looking for its cause could take long.
    suspects = [
        (number, line)
        for number, line in enumerate(source.lines[first : place.line], first + 1)
        if len(line) <= _LONGEST_HINTED
    ]
    for number, line in suspects:
        unquoted = _UNQUOTED_REFERENCE.search(line)
        if unquoted is not None:
            text = "inside {…} or […] YAML cannot hold an unquoted ${…}: use block style, or quote it"
            source.report_at("flow_reference", text, Place(number, unquoted.end() - 1, 2))
            return
    if "control characters" in what or "special characters" in what:
        what = f"{what}; remove the character"
    if any("\t" in line[: len(line) - len(line.lstrip())] for _, line in suspects):
        what = f"{what}; YAML indents with blanks: use no tabs"
    if any("when:" in line for _, line in suspects):
        what = f"{what}; {_WHEN}"
    source.report_at("syntax", f"this is not YAML: {what}", place)


def _syntax_place(source: Source, error: yaml.YAMLError) -> Place:
    """Where the YAML reader stumbled; of what is never closed, where it was opened."""
    context = getattr(error, "context_mark", None)
    mark = getattr(error, "problem_mark", None) or context
    if mark is None:
        position = getattr(error, "position", None)
        before = Source(source.text[: position if isinstance(position, int) else 0]).lines
        return Place(len(before), len(before[-1]) + 1)
    last = len(source.lines)
    if context is not None and mark.line + 1 >= last:
        mark = context
    if mark.line >= last:  # the reader adds a line break at the end
        return Place(last, len(source.lines[-1]) + 1)
    return Place(mark.line + 1, mark.column + 1)
