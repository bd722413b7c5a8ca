"""A batch's output: whole lines only, one writer only, and nothing lost of what is not ours."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynflow.batch_file.output import OutputFile
from dynflow.errors import BatchFileError


def row(id: Any, **more: Any) -> dict[str, Any]:
    same = {"path": ["start", "end"], "degraded": False, "usd": 0.0, "saved_usd": None, "error": None}
    return {"id": id, "key": "k", "output": "x", **same, **more}


def ids(path: Path) -> list[Any]:
    return [json.loads(line)["id"] for line in path.read_bytes().splitlines()]


def mended(path: Path) -> list[Any]:
    with OutputFile(path) as output:
        found = [each["id"] for each in output.rows()]
        output.mend()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_rows_come_back_as_they_went(path):
    rows = [row(1, output={"a": [1, None]}), row("ü", output="two\nlines"), row("\ud800", output="\u2028\x85\ud83d")]
    with OutputFile(path) as output:
        for each in rows:
            output.append(each)
        output.sync()
        assert list(output.rows()) == rows
    assert path.read_bytes().count(b"\n") == 3
    assert '"ü"'.encode() in path.read_bytes()


@pytest.mark.parametrize("cut", [1, 2, 5, 8, 30])
def test_a_half_line_is_cut_off(path, cut):
    with OutputFile(path) as output:
        output.append(row(1))
        output.append(row(2, output="x" * 200_000))
    whole = path.read_bytes()
    for end in (len(whole) - cut, whole.index(b"\n") + 1 + cut, cut):
        path.write_bytes(whole[:end])
        assert mended(path) == ([1] if end > whole.index(b"\n") else [])
        assert whole.startswith(path.read_bytes())
        assert path.read_bytes()[-1:] in (b"\n", b"")
        with OutputFile(path) as output:
            output.append(row(3))
        assert ids(path)[-1] == 3


def test_zeros_that_a_lost_power_leaves(path):
    with OutputFile(path) as output:
        output.append(row(1))
    path.write_bytes(path.read_bytes() + b"\0" * 5000)
    assert mended(path) == [1]
    assert ids(path) == [1]


GOOD = json.dumps(row(1)).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"my diary", "its last line is no row that a batch wrote"),
        (b"my diary\n", ":1: no row that a batch wrote"),
        (GOOD + b'\n{"id": 2}\n', ":2: no row that a batch wrote"),
        (GOOD + b'\n[1]\n{"i', ":2: no row that a batch wrote"),
        (GOOD.replace(b"null}", b'"timeout"}') + b"\n", ":1: no row that a batch wrote"),
    ],
)
def test_a_file_that_is_no_batchs_stays_as_it_is(path, content, words):
    path.write_bytes(content)
    with pytest.raises(BatchFileError, match=words):
        mended(path)
    assert path.read_bytes() == content


def test_one_process_at_a_time(path):
    code = f"""
from dynflow.batch_file.output import OutputFile
from dynflow.errors import BatchFileError
from pathlib import Path
try:
    OutputFile(Path({str(path)!r}))
    print("mine")
except BatchFileError as error:
    print(error)
"""

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    with OutputFile(path) as output:
        assert other() == f"{path} is being written by another batch: wait for it, or give another --output"
        output.append(row(1))
        output.append(row(2))
        output.remove(lambda each: each["id"] == 1)
        assert other().endswith("or give another --output")
        output.append(row(3))
    assert other() == "mine"
    assert ids(path) == [2, 3]
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_cannot_be_written(path, tmp_path):
    with pytest.raises(BatchFileError, match="cannot be written: No such file or directory"):
        OutputFile(tmp_path / "missing" / "out.jsonl")
    with pytest.raises(BatchFileError, match="cannot be written: Is a directory"):
        OutputFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(BatchFileError, match="is no file: what is finished is read from it again"):
            OutputFile(other)


def test_a_full_disk_leaves_whole_lines(path, monkeypatch):
    real = os.write
    room = [200]

    def write(descriptor: int, data: bytes) -> int:
        """As a disk with so many bytes left."""
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with OutputFile(path) as output:
        monkeypatch.setattr(os, "write", write)
        output.append(row(1))
        with pytest.raises(OSError, match="No space left") as failure:
            output.append(row(2, output="x" * 300))
        assert failure.value.filename == str(path)
        monkeypatch.undo()
        output.append(row(3))
    assert ids(path) == [1, 3]


def test_what_is_taken_out_is_taken_whole_or_not_at_all(path, monkeypatch):
    with OutputFile(path) as output:
        for number in range(3):
            output.append(row(number))
        path.chmod(0o640)
        before = path.read_bytes()

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="broken"):
            output.remove(lambda each: each["id"] == 1)
        assert path.read_bytes() == before
        monkeypatch.undo()
        output.remove(lambda each: each["id"] == 1)
        output.append(row(9))
    assert ids(path) == [0, 2, 9]
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == [path.name]


KILLED = """
import os, signal, sys
from pathlib import Path
from dynflow.batch_file.output import OutputFile
OutputFile(Path(sys.argv[1])).remove(lambda row: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_kill_while_rows_are_taken_out_leaves_nothing_behind(path):
    """Only what a batch of this output left: the same folder may hold others."""
    with OutputFile(path) as output:
        output.append(row(1))
    before = path.read_bytes()
    others = [path.with_name(name) for name in (f".{path.name}.mine", f".{path.name}.gz.redo", ".out.redo")]
    for other in others:
        other.touch()
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9
    assert len(os.listdir(path.parent)) == len(others) + 2
    OutputFile(path).close()
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == sorted([path, *others])
    with OutputFile(path) as output:
        output._anew.touch()  # as it is about to take rows out
        with pytest.raises(BatchFileError, match="being written by another batch"):
            OutputFile(path)
        assert output._anew.exists()
