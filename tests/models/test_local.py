"""What the models that run in this process share, with an engine that only waits."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
from langchain_core.exceptions import ModelTimeoutError

from dynflow.models.engine import Engine, Job
from dynflow.models.local import LocalChat
from dynflow.models.settings import ModelSettings
from dynflow.waiting import check_wanted


class Silent(Engine):
    """Says nothing until its request is no longer wanted."""

    def __init__(self) -> None:
        super().__init__("silent")
        self.began, self.ended = threading.Event(), threading.Event()

    def serve(self, job: Job) -> None:
        self.began.set()
        while job.wanted:
            threading.Event().wait(0.005)
        self.ended.set()


class Local(LocalChat):
    provider = "transformers"
    engine: Any

    def _load(self) -> Engine:
        engine: Engine = self.engine
        return engine


def local() -> tuple[Local, Silent]:
    engine = Silent()
    return Local(settings=ModelSettings(provider="transformers", model="m"), engine=engine), engine


def test_a_thread_that_nobody_waits_for_leaves_the_model() -> None:
    (model, engine), given_up = local(), threading.Event()
    raised: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    class GivenUp(Exception):
        pass

    def check() -> None:
        if given_up.is_set():
            raise GivenUp

    def work() -> None:
        check_wanted.set(check)
        try:
            list(model.stream("hi", timeout=30.0))
        except BaseException as error:
            raised.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert engine.began.wait(10)
    given_up.set()
    assert isinstance(raised.get(timeout=10), GivenUp)
    thread.join()
    assert engine.ended.wait(10)


def test_its_time_limit() -> None:
    model, engine = local()
    with pytest.raises(ModelTimeoutError, match=r"within 0\.02 s"):
        list(model.stream("hi", timeout=0.02))
    assert engine.ended.wait(10)
