"""The file of records: whole lines whoever writes, its owner's alone, and never a reason for a request to fail."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from dynflow import loads
from dynflow.ledger import Ledger
from dynflow.testing import FakeChat
from dynflow.trace import Trace
from dynflow.trace_file import FORMAT, TraceFile, input_digest, read_trace
from tests.records import QUESTION, cascade, records

WRITER = """
import sys
from dynflow.ledger import Ledger
from dynflow.trace import Trace
from dynflow.trace_file import TraceFile
file = TraceFile(sys.argv[1], content=True)
for number in range(int(sys.argv[3])):
    file.add(Trace(sys.argv[2]), Ledger(), "é" * (200 + 3000 * (number % 7)))
assert not file.lost
"""

CANNED = """
version: 1
nodes: {a: {type: prompt, role: answer, template: a}}
edges: [{from: start, to: a}, {from: a, to: end}]
"""


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNFLOW_STATE", str(tmp_path / "state"))


def test_processes_do_not_interleave(tmp_path: Path) -> None:
    path, each = tmp_path / "trace.jsonl", 150
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(name), str(each)]) for name in range(4)]
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 4
    names = [record["graph"] for record in records(path)]
    assert {name: names.count(name) for name in set(names)} == {str(name): each for name in range(4)}
    assert len({record["input_digest"] for record in records(path)}) == 7  # one key for all processes


def test_threads_do_not_interleave(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "t", content=True)

    def work(name: str) -> None:
        for _ in range(100):
            file.add(Trace(name), Ledger(), "x" * 20_000)

    threads = [threading.Thread(target=work, args=(str(name),)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records(tmp_path / "t")) == 600
    assert file.lost == 0


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cascade(FakeChat(), FakeChat(), trace=tmp_path / "t").invoke(QUESTION)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state" / "trace.key").stat().st_mode) == 0o600


def test_it_appends_and_survives_rotation(tmp_path: Path) -> None:
    flow = cascade(FakeChat(), FakeChat(), trace=tmp_path / "t")
    flow.invoke(QUESTION)
    flow.invoke(QUESTION)
    assert len(records(tmp_path / "t")) == 2
    (tmp_path / "t").rename(tmp_path / "old")
    flow.invoke(QUESTION)
    assert len(records(tmp_path / "t")) == 1
    assert len(records(tmp_path / "old")) == 2


@pytest.mark.parametrize("path", ["missing/t", ".", "/dev/full"])
def test_a_request_does_not_fail_because_of_its_record(
    path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TraceFile(tmp_path / path)
    flow = cascade(FakeChat(), FakeChat(replies=["fine"]), trace=file)
    with caplog.at_level(logging.WARNING, "dynflow"):
        assert [flow.invoke(QUESTION).text for _ in range(3)] == ["fine"] * 3
    assert file.lost == 3
    assert len(caplog.records) == 1
    assert str(tmp_path / path) in caplog.text
    if path != "/dev/full":  # it opens, and then takes nothing
        with pytest.raises(OSError, match=r"[Dd]irectory"):
            file.check()


def test_a_broken_line_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    """What a full disk leaves: the limit on a file's size stands in for it."""
    code = """
import resource, sys
from dynflow.ledger import Ledger
from dynflow.trace import Trace
from dynflow.trace_file import TraceFile
file = TraceFile(sys.argv[1], content=True)
size = sys.argv[1] and len(file._line(Trace("g"), Ledger(), "x" * 1000, None))
resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size - 500, resource.RLIM_INFINITY))
for _ in range(3):
    file.add(Trace("g"), Ledger(), "x" * 1000)
assert file.lost == 2, file.lost
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.add(Trace("after"), Ledger(), "x")
file.add(Trace("after"), Ledger(), "x")
"""
    path = tmp_path / "t"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = [record if isinstance(record, str) else record["graph"] for _, record in read_trace(path)]
    assert read[0] == "g"
    assert read[-1] == "after"
    assert sum("no JSON" in each for each in read) == 1


def test_what_cannot_be_told_as_json_is_told_in_words(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "t", content=True)
    circle: list[Any] = []
    circle.append(circle)
    file.add(Trace("g"), Ledger(), {"input": "x", "audio": b"\x00"}, object())
    file.add(Trace("g"), Ledger(), circle)
    file.add(Trace("g"), Ledger(), "\ud800")  # half a character, as hostile input may hold
    assert file.lost == 1
    assert len(records(tmp_path / "t")) == 2


def test_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t"
    later = json.dumps({"record": FORMAT + 1})
    path.write_text(f'{{"a": 1}}\n\n[1]\nnot json\n{later}\n{{"record": 1, "graph": "g"}}', "utf-8")
    found = list(read_trace(path))
    assert [number for number, _ in found] == [1, 3, 4, 5, 6]
    assert [record for _, record in found[:2]] == ["it is no decision record"] * 2
    assert "cut short" in str(found[2][1])
    assert "a later dynflow" in str(found[3][1])
    assert found[4][1] == {"record": 1, "graph": "g"}


def test_digests_tell_equal_requests_and_need_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    digest = input_digest(messages)
    assert digest == input_digest(copy.deepcopy(messages)) != input_digest(messages[:1])
    monkeypatch.setenv("DYNFLOW_STATE", str(tmp_path / "elsewhere"))
    assert input_digest(messages) not in (digest, None)
    monkeypatch.setenv("DYNFLOW_STATE", "/dev/null/none")
    assert input_digest(messages) is None  # the record is written all the same
    file = TraceFile(tmp_path / "t")
    file.add(Trace("g"), Ledger(), "x")
    assert file.lost == 0


def test_a_flow_that_writes_records_pickles_and_copies(tmp_path: Path) -> None:
    file = TraceFile(tmp_path / "t")
    flow = loads(CANNED, trace=file)
    again = pickle.loads(pickle.dumps(flow))
    again.invoke("x")
    copied = copy.deepcopy(flow)
    assert copied.trace_file is file
    copied.invoke("x")
    assert len(records(tmp_path / "t")) == 2
    assert pickle.loads(pickle.dumps(loads(CANNED, trace=str(tmp_path / "t")))).trace_file.path == tmp_path / "t"


def test_a_flow_takes_a_name_a_path_or_a_file(tmp_path: Path) -> None:
    assert loads(CANNED).trace_file is None
    for given in (str(tmp_path / "t"), tmp_path / "t", TraceFile(tmp_path / "t")):
        assert loads(CANNED, trace=given).trace_file.path == tmp_path / "t"  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="int"):
        loads(CANNED, trace=3)  # type: ignore[arg-type]
