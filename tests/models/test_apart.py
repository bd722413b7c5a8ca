"""Work apart: it is finished before Python ends, and whoever asked for it may leave earlier."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from dynflow.models.apart import apart


def run(program: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_results_and_errors_come_back_from_a_thread_that_is_no_daemon() -> None:
    thread = apart(threading.current_thread)
    assert thread is not threading.current_thread()
    assert not thread.daemon
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="its own"):
        apart(lambda: (_ for _ in ()).throw(TimeoutError("its own")))


def test_python_waits_for_what_a_daemon_began_but_lets_the_daemon_go() -> None:
    program = """
import os, threading, time
from dynflow.models.apart import apart
began = threading.Event()
def say(text):  # a daemon that holds the lock of sys.stdout when Python ends makes Python abort
    os.write(1, f"{text}\\n".encode())
def native():
    began.set()
    time.sleep(0.5)
    say("finished")
def ask():
    try:
        apart(native)
    except RuntimeError as error:
        say(error)
    else:
        say("went on")
threading.Thread(target=ask, daemon=True).start()
began.wait()
"""
    code, out, err = run(program)
    assert (code, err) == (0, "")
    assert out.startswith("finished\n")
    assert "went on" not in out


def test_a_daemon_that_somebody_waits_for_goes_on_after_the_main_thread() -> None:
    program = """
import threading, time
from dynflow.models.apart import apart
def wait():
    threading.main_thread().join()
    daemon = threading.Thread(target=lambda: print(apart(lambda: "answered"), flush=True), daemon=True)
    daemon.start()
    daemon.join()
threading.Thread(target=wait).start()
"""
    assert run(program) == (0, "answered\n", "")


def test_nothing_begins_when_python_has_ended() -> None:
    program = """
import atexit
def late():
    try:
        apart(print)
    except RuntimeError as error:
        print(error)
atexit.register(late)  # runs after what is registered later
from dynflow.models.apart import apart
"""
    assert run(program) == (0, "Python is ending\n", "")
