"""Tiny Whisper models, made once; their drafts always pay, and one thread is enough for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("soundfile")


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    from transformers.utils import logging

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _always_worth_a_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.speculation.tiny import CHEAP, FixedCosts

    monkeypatch.setattr("dynflow.speculation.speculator.Speculator.measure", lambda self: FixedCosts(CHEAP))


@pytest.fixture(scope="package")
def whispers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model: `target0`…, `twin0`… (its first layer), `kin0`… (the same with ears of its own)."""
    from tests.nodes.transcribe.tiny import save_distilled, save_whisper

    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            kind, seed = name[:-1], name[-1]
            if kind == "target":
                save_whisper(place, seed=int(seed), width=32, layers=2)
            elif kind == "big":
                save_whisper(place, seed=int(seed), width=64, layers=3)
            elif kind == "foreign":
                save_whisper(place, seed=int(seed), extra=("<|es|>",))
            else:
                save_distilled(folder(f"target{seed}"), place, noise=0.02 if kind == "kin" else 0.0)
            made[name] = place
        return made[name]

    return folder
