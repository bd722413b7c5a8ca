"""A batch's input: what is wrong with it is told before anything runs, and no row is held in memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dynflow.batch_file.rows import Row, Rows
from dynflow.errors import BatchFileError

GOOD = '{"id": 1, "input": "one"}'


Open = Callable[[Path, str], Rows]


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack:
        yield lambda path, work: stack.enter_context(closing(Rows(path, work)))


def write(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": 2, "input": ', "no JSON: Expecting value at column 20"),
        ("[" * 100_000, "no JSON that can be read: "),
        ("9" * 10_000, "no JSON that can be read: "),
        (b'{"id": 2, "input": "\xff"}', "no UTF-8 text: invalid start byte at byte 20"),
        ("[1]", "a row is an object, not a list"),
        ("null", "a row is an object, not null"),
        ("{}", "the row has no 'id' (it has nothing)"),
        ('{"input": "x"}', "the row has no 'id' (it has 'input')"),
        ('{"id": 2, "prompt": "x"}', "the row has no 'input' (it has 'id', 'prompt')"),
        ('{"id": 2.5, "input": "x"}', "an id is a text or a whole number, not a number"),
        ('{"id": true, "input": "x"}', "an id is a text or a whole number, not true or false"),
        ('{"id": 2, "input": null}', "an input is a text, a list of messages, or an object, not null"),
        ('{"id": 2, "input": 7}', "an input is a text, a list of messages, or an object, not a number"),
        ('{"id": 1, "input": "x"}', "the id 1 stands in line 1 already: give each row its own"),
    ],
)
def test_a_line_that_is_no_row(tmp_path, line, words):
    path = write(tmp_path, GOOD, "", line)
    with pytest.raises(BatchFileError) as failure:
        Rows(path, "work")
    first, last = str(failure.value).splitlines()
    assert first.startswith(f"{path}:3: {words}")
    assert last == 'nothing was run; each line is one row, {"id": …, "input": …}'


def test_the_first_faults_are_told_together(tmp_path):
    path = write(tmp_path, *["{}"] * 30)
    with pytest.raises(BatchFileError) as failure:
        Rows(path, "work")
    assert len(str(failure.value).splitlines()) == 11


def test_a_file_that_cannot_be_read(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(BatchFileError, match=r"there is no file .*inn\.jsonl \(did you mean 'in\.jsonl'\?\)"):
        Rows(tmp_path / "inn.jsonl", "work")
    with pytest.raises(BatchFileError, match="is no file: the rows are read twice"):
        Rows(tmp_path, "work")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(BatchFileError, match="is no file"):
        Rows(pipe, "work")


def test_what_rows_may_hold(tmp_path, opened):
    inputs = ["text", [{"role": "user", "content": "Hi"}], {"input": "Hi", "language": "Greek"}, "\ud800"]
    ids = [1, "1", "\u2028", "\ud800"]
    lines = [json.dumps({"id": id, "input": input, "more": 1}) for id, input in zip(ids, inputs, strict=True)]
    path = write(tmp_path, b"\xef\xbb\xbf" + lines[0].encode(), "", *[f"  {line}\r" for line in lines[1:]], "")
    rows = opened(path, "work")
    found = list(rows.waiting())
    assert rows.count == 4
    assert [(row.id, row.input) for row in found] == list(zip(ids, inputs, strict=True))
    assert [row.line for row in found] == [1, 3, 4, 5]
    assert len({row.key for row in found}) == 4


def test_a_key_stands_for_the_work_and_the_input_alone(tmp_path, opened):
    def key(work: str, line: str) -> str:
        return next(opened(write(tmp_path, line), work).waiting()).key

    same = key("work", '{"id": 1, "input": {"a": 1, "b": 2}}')
    assert same == key("work", '{"input": {"b": 2, "a": 1}, "id": 7}')
    assert same != key("other", '{"id": 1, "input": {"a": 1, "b": 2}}')
    assert same != key("work", '{"id": 1, "input": {"a": 1, "b": 3}}')


def test_states(tmp_path, opened):
    rows = opened(write(tmp_path, *[json.dumps({"id": id, "input": "x"}) for id in "abcde"]), "work")
    key = next(rows.waiting()).key
    assert rows.mark("a", key, "done")
    assert not rows.mark("a", key, "done")
    rows.mark("b", key, "failed")
    rows.mark("c", "another", "done")
    rows.mark("d", "another", "failed")
    assert not rows.mark("nobody", key, "done")
    assert [rows.state(id) for id in ("a", "b", "e", "nobody")] == ["done", "failed", "waiting", None]
    assert rows.changed() == (2, '"c"')
    assert [row.id for row in rows.waiting()] == ["e"]
    assert rows.redo(failed=False, changed=True) == 2
    assert rows.changed()[0] == 0
    assert [row.id for row in rows.waiting()] == ["c", "d", "e"]
    assert rows.redo(failed=True, changed=False) == 1
    assert [row.id for row in rows.waiting()] == ["b", "c", "d", "e"]


def test_a_file_that_changes_meanwhile(tmp_path, opened):
    long = "x" * 1_000_000  # more than is read ahead
    path = write(tmp_path, GOOD, f'{{"id": 2, "input": "{long}"}}', '{"id": 3, "input": "three"}')
    waiting = opened(path, "work").waiting()
    assert next(waiting) == Row(1, 1, "one", next(opened(path, "work").waiting()).key)
    path.write_bytes(path.read_bytes().replace(b"three", b"seven"))
    assert next(waiting).id == 2
    with pytest.raises(BatchFileError, match=r"in\.jsonl:3: the file was changed while the batch ran"):
        next(waiting)


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "in.jsonl"

    def peak(rows: int) -> int:
        with path.open("w") as file:
            file.writelines(f'{{"id": "row-{number}", "input": "What is {number} + 1?"}}\n' for number in range(rows))
        tracemalloc.start()
        try:
            with closing(Rows(path, "work")) as read:
                assert sum(1 for _ in read.waiting()) == rows
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(20_000) < peak(1_000) + 100_000
